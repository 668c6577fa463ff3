"""Files under the data folder: where it is, atomic writes, checksums, one process at a time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
from collections.abc import Iterator

from cfdg_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file at once are not kept apart there
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cache_dir(data_dir: PathLike | None = None) -> pathlib.Path:
    """`data_dir` if given, else the environment variable ``CFDG_DATA_DIR``, else ``~/.cache/cfdg_jax``."""
    return pathlib.Path(data_dir or os.environ.get("CFDG_DATA_DIR") or "~/.cache/cfdg_jax").expanduser()


def is_offline() -> bool:
    """Whether ``CFDG_OFFLINE`` forbids network access."""
    return os.environ.get("CFDG_OFFLINE", "").lower() not in ("", "0", "false", "no")


def make_folder(folder: pathlib.Path) -> None:
    """Creates `folder` and its parents; `UserError` if a file is in the way or it may not be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise
        raise UserError(str(folder), f"cannot be created ({error.strerror})", "set CFDG_DATA_DIR elsewhere") from None


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path` to write to; it becomes `path` only if the block ends without an error.

    Raises:
      OSError: with errno, a plain reason and `path` as its file name, if the disk is full.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors_name(path):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors_name(path: pathlib.Path) -> Iterator[None]:
    """Re-raises a full disk as one plain `OSError` that names `path`; HDF5's own message fills several lines."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process holds `path`'s lock, then holds it for the block."""
    make_folder(path.parent)
    with open(path.with_name(f".{path.name}.lock"), "w") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def sha256_of(path: pathlib.Path) -> str:
    """Hexadecimal sha256 of a file."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def record_sha256(path: pathlib.Path, digest: str | None = None) -> None:
    """Writes ``<path>.sha256``, in the format of the command sha256sum."""
    with atomic_path(_sidecar(path)) as temporary:
        temporary.write_text(f"{digest or sha256_of(path)}  {path.name}\n")


def verified_sha256(path: pathlib.Path) -> str:
    """The file's sha256; `UserError` if a recorded one differs."""
    digest, sidecar = sha256_of(path), _sidecar(path)
    if sidecar.exists():
        recorded = (sidecar.read_text().split() or [""])[0]
        if recorded != digest:
            raise UserError(
                str(path),
                f"has changed since it was fetched or built (sha256 {digest[:12]}..., recorded {recorded[:12]}...)",
                f"delete it and {sidecar.name} to get it again, or {sidecar.name} alone to accept it",
            )
    return digest


def _sidecar(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".sha256")
