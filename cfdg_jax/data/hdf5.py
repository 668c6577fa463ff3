"""The one file that reads and writes HDF5, in D4RL's layout, with h5py alone.

Layout: flat ``observations [N, O]``, ``actions [N, A]``, ``rewards``, ``terminals``, ``timeouts`` ``[N]`` and, in the
MuJoCo -v2 files, ``next_observations``; scalars under ``metadata/``. A file that cannot be read is refused in one line
that names what failed, whatever h5py raised.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import h5py
import numpy as np
from h5py import File

from cfdg_jax.data.arrays import OPTIONAL, REQUIRED
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.files import PathLike, atomic_path, require_room
from cfdg_jax.errors import UserError, require

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_AGAIN = "copy or download it again"
_UNLOCK = "set HDF5_USE_FILE_LOCKING=FALSE if nobody writes to it"
_MOST_COMPRESSED = 1100
"""Bytes that one stored byte can stand for; deflate reaches 1032."""
_SMALL = 10**9
"""An array of fewer bytes may be larger than what the file stores of it."""


def require_hdf5(path: pathlib.Path) -> None:
    """Raises `UserError` unless `path` opens as a complete HDF5 file."""
    open_hdf5(path).close()


def create_hdf5(path: pathlib.Path, mode: Literal["w", "a"] = "w") -> File:
    """Opens a file to write, a new one or, with ``a``, the one that is there."""
    return File(path, mode)


def arrays_of(file: File) -> dict[str, h5py.Dataset]:
    """Every array of an open file by its name, groups included."""
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
    return found


def open_hdf5(path: pathlib.Path) -> File:
    """Opens a file to read.

    Raises:
      UserError: if it is absent, locked, still being written, truncated, damaged or not HDF5.
    """
    _require_file(path)
    try:
        return h5py.File(path, "r")
    except PermissionError:
        raise UserError(str(path), "may not be read", "change its permissions") from None
    except Exception as error:
        raise UserError(str(path), *_why_closed(path, error)) from error


def _require_file(path: pathlib.Path) -> None:
    try:
        path.stat()
    except FileNotFoundError:
        problem = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise UserError(str(path), problem, "check the path") from None
    except (OSError, ValueError) as error:
        raise UserError(str(path), f"cannot be opened ({_reason(error)})", "check the path") from error
    require(path.is_file(), str(path), "is not a file", "check the path")


def _why_closed(path: pathlib.Path, error: Exception) -> tuple[str, str]:
    """Problem and remedy of a file that h5py did not open."""
    text, number = str(error), getattr(error, "errno", None)
    if number in (errno.EAGAIN, errno.EACCES) or "errno = 11" in text:
        return "is locked: another process has it open for writing (errno 11)", f"wait until it is closed, or {_UNLOCK}"
    if number == errno.ENOLCK or "errno = 37" in text:
        return "cannot be locked: its file system offers no locks (errno 37)", _UNLOCK
    if "already open for write" in text:
        return "is still being written, or its writer ended without closing it", "close it there; then h5clear -s FILE"
    with contextlib.suppress(OSError), open(path, "rb") as handle:
        begins = handle.read(len(_SIGNATURE))
        if "truncated" in text:
            return "is truncated", _AGAIN
        if begins == _SIGNATURE:
            return f"is damaged: {_reason(error)}", _AGAIN
    return "is not an HDF5 file", _AGAIN


def _reason(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error.args[0] if error.args else error)  # the text of a KeyError is quoted
    return text.strip().split("\n")[0][:200] or type(error).__name__


@contextlib.contextmanager
def reading(path: pathlib.Path, what: str = "") -> Iterator[None]:
    """Turns whatever the block raises while it reads `what` into a `UserError`: h5py raises many kinds."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(
            _place(path, what), "does not fit into memory", "use a machine with more, or fewer rows"
        ) from error
    except Exception as error:
        problem = f"cannot be read, the file is damaged: {_reason(error)}"
        raise UserError(_place(path, what), problem, _AGAIN) from error


def _place(path: pathlib.Path, what: str) -> str:
    return f"{path}: {what}" if what else str(path)


def read_hdf5(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a file's flat arrays, unchecked and in its own types, and the scalars that describe it.

    Returns:
      The arrays of the layout that are there (plus ``{name: empty array}`` for other top-level names, so that messages
      can list them), and attributes and ``metadata/`` scalars together.

    Raises:
      UserError: if the file is absent, locked, truncated, damaged or not HDF5, claims more rows than it can hold, or
        changes while it is read.
    """
    path, arrays = pathlib.Path(path), {}
    _require_file(path)
    before = _version(path)
    with open_hdf5(path) as file:
        metadata = metadata_of(path, file)
        with reading(path):
            names = [os.fsdecode(name) for name in file if name not in ("infos", "metadata")]  # bytes if not UTF-8
        for name in names:
            arrays[name] = _array(path, file, name) if name in (*REQUIRED, *OPTIONAL) else np.empty(0)
    require(_version(path) == before, str(path), "changed while it was read", "wait until its writer is done")
    return arrays, metadata


def _version(path: pathlib.Path) -> tuple[int, int]:
    with reading(path):
        status = path.stat()
    return status.st_size, status.st_mtime_ns


def _array(path: pathlib.Path, file: File, name: str) -> np.ndarray:
    with reading(path, name):
        link = file.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink | h5py.SoftLink) and file.get(name) is None:
            target = link.filename if isinstance(link, h5py.ExternalLink) else link.path
            raise UserError(f"{path}: {name}", f"is a link to {target}, which cannot be read", "copy that along")
        item = file[name]
        if not isinstance(item, h5py.Dataset):
            return np.empty(0)
        _refuse_claims(path, name, item)
        if item.is_virtual:
            for source in item.virtual_sources():
                there = source.file_name == "." or (path.parent / source.file_name).exists()
                require(there, f"{path}: {name}", f"lies in {source.file_name}, which is missing", "copy it along")
        return np.asarray(item[()])


def _refuse_claims(path: pathlib.Path, name: str, item: h5py.Dataset) -> None:
    """Refuses a size that the file cannot hold or the machine cannot, before anything is allocated."""
    shape = item.shape or ()
    size, stored = math.prod(shape) * item.dtype.itemsize, item.id.get_storage_size()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    possible = size <= _SMALL or item.is_virtual or item.external or size <= _MOST_COMPRESSED * stored
    claim = f"claims the shape {shape}, {size / 1e9:,.1f} GB"
    require(bool(possible), f"{path}: {name}", f"{claim}, but stores {stored:,} bytes; the file is damaged", _AGAIN)
    require(size <= memory, f"{path}: {name}", f"{claim}; this machine has {memory / 1e9:,.1f} GB", "use fewer rows")


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The scalars alone; errors as `read_hdf5`."""
    with open_hdf5(pathlib.Path(path)) as file:
        return metadata_of(pathlib.Path(path), file)


def metadata_of(path: pathlib.Path, file: File) -> dict[str, Any]:
    """The scalars of an open file; `path` is for messages."""
    with reading(path, "attributes"):
        scalars = {os.fsdecode(name): _scalar(value) for name, value in file.attrs.items() if np.ndim(value) == 0}
    with reading(path, "metadata"):
        if isinstance(group := file.get("metadata"), h5py.Group):
            items = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset) and item.shape == ()}
            scalars |= {os.fsdecode(name): _scalar(item[()]) for name, item in items.items()}
    return scalars


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if isinstance(value, np.generic) else value


def write_hdf5(
    path: PathLike,
    data: Dataset | Mapping[str, np.ndarray],
    metadata: Mapping[str, str | int | float] | None = None,
    compression: str | None = None,
) -> None:
    """Writes D4RL's layout; `path` appears complete or not at all.

    Args:
      path: The file.
      data: A dataset, or arrays by the layout's names; names with a slash make groups, such as ``infos/qpos``.
      metadata: Scalars for the ``metadata/`` group; a dataset's own come first.
      compression: h5py's name of a filter, such as ``gzip`` or ``lzf``.

    Raises:
      OSError: if the disk is full, naming `path`.
      UserError: if `path` may not be written.
    """
    arrays = data if isinstance(data, Mapping) else data.arrays()
    metadata = ({} if isinstance(data, Mapping) else dict(data.metadata)) | dict(metadata or {})
    image = io.BytesIO()  # HDF5 crashes the process when the disk fills up, so it never writes to the disk itself
    with h5py.File(image, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value, compression=compression)
        write_scalars(file, metadata)
    with atomic_path(pathlib.Path(path)) as temporary:
        require_room(temporary, image.getbuffer().nbytes)
        temporary.write_bytes(image.getbuffer())


def write_scalars(file: File, metadata: Mapping[str, Any]) -> None:
    """Writes the ``metadata/`` group."""
    for name, scalar in metadata.items():
        text = isinstance(scalar, str)  # of fixed length: HDF5 2 can hang on a damaged heap of variable ones
        file.create_dataset(f"metadata/{name}", data=np.array(scalar.encode()) if text else scalar)
