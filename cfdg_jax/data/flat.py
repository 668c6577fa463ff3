"""Flat files copied as they are, HDF5 and npz: every array in its own type, part by part, and every scalar.

Nothing is dropped or joined: simulator states under ``infos/`` come along, and rows stay those of the file. Of their
values actions alone are checked. A part is all that memory holds of it, whatever the number of rows.
"""

from __future__ import annotations

import contextlib
import json
import math
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.lib import format as npy

from cfdg_jax.data.arrays import refuse_outside
from cfdg_jax.data.files import atomic_path, require_room, told
from cfdg_jax.data.hdf5 import File, arrays_of, create_hdf5, metadata_of, open_hdf5, reading, write_scalars
from cfdg_jax.data.npz import ABOUT
from cfdg_jax.errors import UserError, require

PART = 1 << 24
"""Bytes that are copied at once."""


class Column(NamedTuple):
    """An array of a file.

    Attributes:
      name: Such as ``observations`` or ``infos/qpos``.
      shape: At least one axis, rows first.
      dtype: As stored.
      parts: Yields the rows in order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Iterator[np.ndarray]


class Flat(Protocol):
    """An open file: its scalars, its arrays, one after another and as often as asked, and then those left out."""

    about: dict[str, Any]
    left_out: list[str]

    def columns(self) -> Iterator[Column]: ...


def rows_of_part(shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Rows that are copied at once."""
    return max(1, PART // max(1, math.prod(shape[1:]) * dtype.itemsize))


class _Hdf5:
    def __init__(self, file: File, path: pathlib.Path):
        self._file, self._path = file, path
        self.about = metadata_of(path, file)

    def columns(self) -> Iterator[Column]:
        self.left_out = list[str]()
        for name, item in arrays_of(self._file).items():
            if not item.shape or name.startswith("metadata/"):
                continue
            if item.dtype.hasobject:
                self.left_out.append(name)
                continue
            yield Column(name, item.shape, item.dtype, self._parts(name, item))

    def _parts(self, name: str, item: Any) -> Iterator[np.ndarray]:
        step = rows_of_part(item.shape, item.dtype)
        for start in range(0, item.shape[0], step):
            with reading(self._path, name):
                part = item[start : start + step]
            yield part


class _Npz:
    def __init__(self, file: zipfile.ZipFile):
        self._file = file
        said = f"{ABOUT}.npy" in file.namelist()
        self.about = json.loads(str(npy.read_array(file.open(f"{ABOUT}.npy")))) if said else {}

    def columns(self) -> Iterator[Column]:
        self.left_out = list[str]()
        for member in self._file.namelist():
            name = member.removesuffix(".npy")
            if name == ABOUT:
                continue
            with self._file.open(member) as stream:
                version = npy.read_magic(stream)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, by_columns, dtype = read(stream)
                if dtype.hasobject or not shape:
                    self.left_out.append(name)
                    continue
                yield Column(name, shape, dtype, self._parts(stream, shape, dtype, by_columns))

    def _parts(self, stream: Any, shape: tuple[int, ...], dtype: np.dtype, by_columns: bool) -> Iterator[np.ndarray]:
        if by_columns and len(shape) > 1:  # its rows lie apart: there is no part to be had
            whole = np.frombuffer(stream.read(math.prod(shape) * dtype.itemsize), dtype)
            yield whole.reshape(shape, order="F")
            return
        step, width = rows_of_part(shape, dtype), math.prod(shape[1:])
        for start in range(0, shape[0], step):
            count = min(step, shape[0] - start)
            data = stream.read(count * width * dtype.itemsize)
            yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


@contextlib.contextmanager
def open_flat(path: pathlib.Path) -> Iterator[Flat]:
    """Opens a file to copy from.

    Raises:
      UserError: if it is absent, damaged or of no such layout; also from within the block, when reading finds it out.
    """
    if path.suffix != ".npz":
        with open_hdf5(path) as file:
            yield _Hdf5(file, path)
        return
    try:
        with told(path, "cannot be read", "check the path and its permissions"):
            file = zipfile.ZipFile(path)
        with file:
            yield _Npz(file)
    except UserError:
        raise
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(str(path), f"cannot be read as npz ({reason})", "write it anew with numpy.savez") from error


def copy_flat(
    file: Flat, source: pathlib.Path, target: pathlib.Path, about: Mapping[str, Any], clip_actions: bool
) -> list[str]:
    """Copies every array and scalar of `source` to `target`, which appears whole or not at all.

    Args:
      file: The source, open.
      source: Its path, for messages.
      target: A file ending in .npz, or HDF5.
      about: Scalars beside those of the source, which come first where both have one.
      clip_actions: Whether ``actions`` outside [-1, 1] are clipped to it, not refused.

    Returns:
      The names of arrays that could not be copied, such as those of Python objects.

    Raises:
      UserError: for a source that cannot be read, or actions outside [-1, 1].
      OSError: if the disk is full, naming `target`.
    """
    size = sum(math.prod(column.shape) * column.dtype.itemsize for column in file.columns())
    with atomic_path(target) as temporary:
        require_room(temporary, size)  # HDF5 crashes the process when the disk fills up
        scalars = {**about, **file.about}
        with _writer(temporary, target.suffix, scalars) as write:
            for column in file.columns():
                require(column.shape[0] > 0, f"{source}: {column.name}", "holds no rows", "record or download it again")
                parts = _actions(column.parts, source, clip_actions) if column.name == "actions" else column.parts
                write(column._replace(parts=parts))
    return file.left_out


def _actions(parts: Iterator[np.ndarray], source: pathlib.Path, clipped: bool) -> Iterator[np.ndarray]:
    first = 0
    for part in parts:
        part = np.clip(part, -1, 1) if clipped else part
        refuse_outside(part.reshape(len(part), -1), str(source), first)
        yield part
        first += len(part)


@contextlib.contextmanager
def _writer(path: pathlib.Path, suffix: str, about: Mapping[str, Any]) -> Iterator[Any]:
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            yield lambda column: _write_member(archive, column)
            with archive.open(f"{ABOUT}.npy", "w") as stream:
                npy.write_array(stream, np.asarray(json.dumps(dict(about))))
        return
    with create_hdf5(path) as file:
        yield lambda column: _write_dataset(file, column)
        write_scalars(file, about)


def _write_member(archive: zipfile.ZipFile, column: Column) -> None:
    header = {"descr": npy.dtype_to_descr(column.dtype), "fortran_order": False, "shape": column.shape}
    with archive.open(f"{column.name}.npy", "w", force_zip64=True) as stream:
        npy.write_array_header_2_0(stream, header)
        for part in column.parts:
            stream.write(np.ascontiguousarray(part).data)


def _write_dataset(file: File, column: Column) -> None:
    made, start = file.create_dataset(column.name, column.shape, column.dtype), 0
    for part in column.parts:
        made[start : start + len(part)] = part
        start += len(part)
