"""Downloads that survive: ordered mirrors, resumed after a cut, checked, and renamed only when complete."""

from __future__ import annotations

import errno
import http.client
import json
import os
import pathlib
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from cfdg_jax.data.files import disk_errors_name, is_offline, locked, record_sha256, sha256_of
from cfdg_jax.errors import UserError

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""
_CHUNK = 1 << 18
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class _Failed(Exception):
    """This address cannot deliver the file; the next one may."""


def download(
    target: pathlib.Path,
    urls: Sequence[str],
    *,
    what: str,
    check: Callable[[pathlib.Path], None],
    sha256: str | None = None,
    allowed: bool = True,
    progress: bool = True,
) -> None:
    """Makes sure that `target` exists, fetching it from the first of `urls` that delivers.

    The bytes go to ``<target>.part``, which a later call continues if the server still has the same file.

    Args:
      target: The final path; nothing appears there but the complete, checked file, beside ``<target>.sha256``.
      urls: Addresses in the order to try.
      what: What the user asked for, for messages.
      check: Called with the complete download; raises `UserError` if it is not what it should be.
      sha256: The expected digest, where known.
      allowed: False, or the environment variable ``CFDG_OFFLINE``, forbids network access.
      progress: Whether to show a bar.

    Raises:
      UserError: if no address delivers, or downloads are forbidden; it names the addresses and `target`.
      OSError: if the disk is full.
    """
    if target.exists():
        return
    by_hand = f"copy it by hand from {' or '.join(urls)} to {target}"
    if not allowed or is_offline():
        raise UserError(what, f"is not at {target} and downloads are off", f"unset CFDG_OFFLINE, or {by_hand}")
    with locked(target):
        if target.exists():  # another process fetched it while this one waited
            return
        failures = []
        for url in urls:
            try:
                _fetch(url, target, progress)
                _accept(target, check, sha256)
                return
            except _Failed as failure:
                failures.append(f"{url} ({failure})")
        raise UserError(what, f"could not be downloaded: tried {', '.join(failures)}", f"try again later, or {by_hand}")


def _part(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(target.name + ".part")


def _origin(target: pathlib.Path) -> pathlib.Path:
    """Says which version of which address the partial file came from."""
    return target.with_name(target.name + ".part.json")


def _discard(target: pathlib.Path) -> None:
    _part(target).unlink(missing_ok=True)
    _origin(target).unlink(missing_ok=True)


def _accept(target: pathlib.Path, check: Callable[[pathlib.Path], None], sha256: str | None) -> None:
    """Checks the complete download and gives it its final name."""
    part = _part(target)
    digest = sha256_of(part)
    try:
        if sha256 is not None and digest != sha256:
            raise _Failed(f"delivered a file with sha256 {digest[:12]}..., expected {sha256[:12]}...")
        check(part)
    except UserError as error:
        _discard(target)
        raise _Failed(f"delivered a file that {error.problem}") from None
    except _Failed:
        _discard(target)
        raise
    os.replace(part, target)
    record_sha256(target, digest)
    _discard(target)


def _fetch(url: str, target: pathlib.Path, progress: bool) -> None:
    """Downloads all of `url` to the partial file, reconnecting for as long as each connection brings new bytes."""
    part = _part(target)
    if _known_origin(url, target) is None:
        _discard(target)
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _receive(url, target, progress):
                return
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # the partial file is not a beginning of what is there now
                _discard(target)
                continue
            raise _Failed(f"HTTP {error.code} {error.reason}") from None
        except _NETWORK_ERRORS as error:
            problem = str(getattr(error, "reason", "") or error) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        if after <= before:
            raise _Failed(problem)


def _receive(url: str, target: pathlib.Path, progress: bool) -> bool:
    """One connection's worth of bytes; returns whether the file is complete."""
    part, origin = _part(target), _known_origin(url, target)
    offset = part.stat().st_size if origin else 0
    headers = {"User-Agent": "cfdg-jax"}
    if origin and offset:
        headers["Range"] = f"bytes={offset}-"
        if origin["validator"]:
            headers["If-Range"] = origin["validator"]
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        total = _total(response)
        resumed = origin is not None and offset > 0 and response.status == 206
        if origin and resumed and total != origin["total"]:
            _discard(target)
            raise _Failed("the file changed while it was downloaded")
        offset = offset if resumed else 0
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        validator = "" if validator.startswith("W/") else validator  # weak tags must not be used with ranges
        with disk_errors_name(target):
            if total is not None and shutil.disk_usage(target.parent).free < total - offset:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            _origin(target).write_text(json.dumps({"url": url, "total": total, "validator": validator}))
        bar = tqdm(
            total=total, initial=offset, unit="B", unit_scale=True, desc=target.name, disable=not progress, leave=False
        )
        with bar, disk_errors_name(target), open(part, "ab" if resumed else "wb") as sink:
            while chunk := response.read(_CHUNK):
                sink.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if size == 0:
        raise _Failed("delivered an empty file")
    return total is None or size == total


def _known_origin(url: str, target: pathlib.Path) -> dict[str, Any] | None:
    """What is known about the partial file, if it is of `url` and can be continued."""
    try:
        origin = json.loads(_origin(target).read_text())
    except (OSError, ValueError):
        return None
    return origin if origin.get("url") == url and origin.get("total") and _part(target).exists() else None


def _total(response: Any) -> int | None:
    """Bytes of the whole file, if the server says."""
    span = response.headers.get("Content-Range", "")
    if "/" in span and span.rpartition("/")[2].isdigit():
        return int(span.rpartition("/")[2])
    length = response.headers.get("Content-Length")
    return int(length) if length is not None and response.status == 200 else None
