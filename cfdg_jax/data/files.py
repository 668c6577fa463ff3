"""Files under the data folder: where it is, atomic writes, checksums, one process at a time.

A full disk stays an `OSError`, which the command line reports with exit code 1. Every other failure of the operating
system on a user's path is a `UserError` that names the path.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from cfdg_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file at once are not kept apart there
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ELSEWHERE = "choose another place; CFDG_DATA_DIR moves the data folder"


def cache_dir(data_dir: PathLike | None = None) -> pathlib.Path:
    """`data_dir` if given, else the environment variable ``CFDG_DATA_DIR``, else ``~/.cache/cfdg_jax``.

    Raises:
      UserError: if it lies in a home folder that cannot be found.
    """
    place = data_dir or os.environ.get("CFDG_DATA_DIR") or "~/.cache/cfdg_jax"
    try:
        return pathlib.Path(place).expanduser()
    except RuntimeError as error:
        raise UserError("CFDG_DATA_DIR", f"{place} has no home folder ({error})", "set it to a folder") from None


def is_offline() -> bool:
    """Whether ``CFDG_OFFLINE`` forbids network access."""
    return os.environ.get("CFDG_OFFLINE", "").lower() not in ("", "0", "false", "no")


@contextlib.contextmanager
def told(path: pathlib.Path, problem: str, remedy: str = _ELSEWHERE) -> Iterator[None]:
    """Turns an `OSError` of the block into one that names `path`.

    Raises:
      OSError: with errno, a plain reason and `path` as its file name, if the disk is full; HDF5's own message fills
        several lines.
      UserError: for everything else that the operating system refuses, such as a read-only folder or a long name.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(str(path), f"{problem} ({reason})", remedy) from error


def exists(path: pathlib.Path) -> bool:
    """Whether `path` exists; `UserError` if that cannot be found out, such as in a folder that may not be read."""
    with told(path, "cannot be looked for"):
        return path.exists()


def make_folder(folder: pathlib.Path) -> None:
    """Creates `folder` and its parents; errors as `told`."""
    with told(folder, "cannot be created"):
        folder.mkdir(parents=True, exist_ok=True)


def require_room(path: pathlib.Path, size: int) -> None:
    """Raises `OSError`, as a full disk does, unless `size` bytes fit where `path` is to be written."""
    with told(path, "cannot be written"):
        disk = shutil.disk_usage(path.parent)
        if disk.total and disk.free < size:  # what is no disk, such as /sys, has no bytes at all
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path beside `path` to write to; it becomes `path` only if the block ends without an error.

    Raises:
      OSError, UserError: as `told`.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with told(path, "cannot be written"):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Waits until no other process holds `path`'s lock, then holds it for the block; errors as `told`."""
    make_folder(path.parent)
    lock = path.with_name(f".{path.name}.lock")
    with contextlib.ExitStack() as stack:
        with told(lock, "cannot be written"):
            handle = stack.enter_context(open(lock, "w"))
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def sha256_of(path: pathlib.Path) -> str:
    """Hexadecimal sha256 of a file."""
    with told(path, "cannot be read", "check the path and its permissions"), open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def record_sha256(path: pathlib.Path, digest: str | None = None) -> None:
    """Writes ``<path>.sha256``, in the format of the command sha256sum."""
    with atomic_path(_sidecar(path)) as temporary:
        temporary.write_text(f"{digest or sha256_of(path)}  {path.name}\n")


def forget_sha256(path: pathlib.Path) -> None:
    """Removes ``<path>.sha256``, before other contents take the file's place."""
    with told(_sidecar(path), "cannot be removed"):
        _sidecar(path).unlink(missing_ok=True)


def verified_sha256(path: pathlib.Path) -> str:
    """The file's sha256; `UserError` if a recorded one differs or cannot be read."""
    digest, sidecar = sha256_of(path), _sidecar(path)
    if not exists(sidecar):
        return digest
    with told(sidecar, "cannot be read", f"delete it to accept {path.name} as it is"):
        recorded = (sidecar.read_text(errors="replace").split() or ["nothing"])[0]
    if recorded != digest:
        raise UserError(
            str(path),
            f"has changed since it was fetched or built (sha256 {digest[:12]}..., recorded {recorded[:12]}...)",
            f"delete it and {sidecar.name} to get it again, or {sidecar.name} alone to accept it",
        )
    return digest


def _sidecar(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".sha256")
