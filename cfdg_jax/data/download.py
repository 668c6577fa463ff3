"""Downloads: mirrors in order, continued after a cut, checked, and renamed only when complete."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from cfdg_jax.data.files import exists, is_offline, locked, record_sha256, require_room, sha256_of, told
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
      urls: Addresses in the order to try; a path, or a ``file:`` address, is copied from.
      what: What the user asked for, for messages.
      check: Called with the complete download; raises `UserError` if it is not what it should be.
      sha256: The expected digest, where known.
      allowed: False, or the environment variable ``CFDG_OFFLINE``, forbids network access.
      progress: Whether to show a bar.

    Raises:
      UserError: if no address delivers, or downloads are forbidden; it names the addresses and `target`.
      OSError: if the disk is full.
    """
    if exists(target):
        return
    by_hand = f"copy it by hand from {' or '.join(urls)} to {target}"
    if not allowed or is_offline():
        raise UserError(what, f"is not at {target} and downloads are off", f"unset CFDG_OFFLINE, or {by_hand}")
    with locked(target):
        if exists(target):  # another process fetched it while this one waited
            return
        failures = []
        for url in urls:
            try:
                (_fetch if _is_address(url) else _copy)(url, target, progress)
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
    for path in (_part(target), _origin(target)):
        with told(path, "cannot be removed"):
            path.unlink(missing_ok=True)


def _is_address(url: str) -> bool:
    return "://" in url and not url.startswith("file:")


def _copy(url: str, target: pathlib.Path, progress: bool) -> None:
    """Copies a file of this machine to the partial file."""
    with contextlib.ExitStack() as stack:
        try:
            source = pathlib.Path(url.removeprefix("file://")).expanduser()
            if not source.is_file():
                raise _Failed("is no file here, and no address such as https://host/folder")
            handle, size = stack.enter_context(open(source, "rb")), source.stat().st_size
        except (OSError, RuntimeError) as error:
            raise _Failed(str(error)) from None
        require_room(target, size)
        bar = stack.enter_context(_bar(target, size, 0, progress))
        sink = _sink(stack, target, "wb")
        while chunk := handle.read(_CHUNK):
            _write(sink, chunk, target)
            bar.update(len(chunk))


def _bar(target: pathlib.Path, total: int | None, done: int, shown: bool) -> tqdm:
    off = None if shown else True  # None: off in a pipe or file, too
    return tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=target.name, disable=off, leave=False)


def _sink(stack: contextlib.ExitStack, target: pathlib.Path, mode: str) -> Any:
    """The partial file, open for bytes until `stack` ends."""
    with told(_part(target), "cannot be written"):
        return stack.enter_context(open(_part(target), mode))


def _write(sink: Any, chunk: bytes, target: pathlib.Path) -> None:
    with told(target, "cannot be written"):
        sink.write(chunk)
        sink.flush()


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
    with told(target, "cannot be written"):
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
        except UserError:
            raise
        except ValueError as error:  # what urllib makes of an address that is none
            raise _Failed(str(error)) from None
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
        if total is not None:
            require_room(target, total - offset)
        with told(_origin(target), "cannot be written"):
            _origin(target).write_text(json.dumps({"url": url, "total": total, "validator": validator}))
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(_bar(target, total, offset, progress))
            sink = _sink(stack, target, "ab" if resumed else "wb")
            while chunk := response.read(_CHUNK):
                _write(sink, chunk, target)
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
    if not isinstance(origin, dict):
        return None
    return origin if origin.get("url") == url and origin.get("total") and _part(target).exists() else None


def _total(response: Any) -> int | None:
    """Bytes of the whole file, if the server says."""
    span = response.headers.get("Content-Range", "")
    if "/" in span and span.rpartition("/")[2].isdigit():
        return int(span.rpartition("/")[2])
    length = response.headers.get("Content-Length")
    return int(length) if length is not None and response.status == 200 else None
