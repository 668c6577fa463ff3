"""A saved folder that proves itself: arrays in NumPy's own format, and a record that seals them.

    arrays.npz     every array by its path in the tree; the archive holds a CRC-32 of each
    record.json    dtype, shape and CRC-32 of each array, what the caller says about them, and a SHA-256 of all that

A folder is complete or absent: it is written beside its place, read back, and moved. What reads back otherwise than it
was written is `Damaged`. Nothing in it depends on the device that wrote it, nor on the name of a folder above it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.errors import UserError, require

FORMAT = 2
"""Of saved folders; format 1 was orbax's."""
ARRAYS, RECORD = "arrays.npz", "record.json"
PARTIAL = ".partial"
"""Ends the name of a folder that is still being written."""
NOT_OURS = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Reasons why a file cannot be read that say nothing about the file."""


class Damaged(Exception):
    """A saved folder is not what was written; the text says why in a few words."""


class Stored(NamedTuple):
    """What a folder holds.

    Attributes:
      arrays: ``{path: array}``.
      about: What the caller said about them, plain values.
      seal: SHA-256 of the record, and by the CRCs in it of the arrays too.
    """

    arrays: dict[str, np.ndarray]
    about: Any
    seal: str


def named_leaves(tree: Any) -> dict[str, Any]:
    """``{path: leaf}``, such as ``train/agent/critic/0/w``; PRNG keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): _plain(leaf) for path, leaf in leaves}
    assert len(named) == len(leaves), "two leaves have the same path"
    return named


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    return (
        jax.eval_shape(jax.random.key_data, leaf)
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else jax.random.key_data(leaf)
    )


def write(folder: pathlib.Path, tree: Any, about: Mapping[str, Any]) -> str:
    """Writes `tree` and what is said `about` it, in place of what was there; returns the seal.

    Arrays come from the device one by one. The folder is read back before it takes its place.

    Raises:
      OSError: naming the folder, if the disk cannot hold it or the folder may not be written; what was there stays.
    """
    leaves = named_leaves(tree)
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with errors_name(folder):
            partial.mkdir(parents=True)
            _require_room(sum(leaf.nbytes for leaf in leaves.values()), folder)
            contents = _write_arrays(partial / ARRAYS, leaves)
            record = {"format": FORMAT, "version": metadata.version("cfdg-jax"), "arrays": contents, "about": about}
            seal = seal_of(record)
            _write_synced(partial / RECORD, json.dumps(record | {"seal": seal}, indent=1).encode())
            _read_back(partial)
            _sync(partial)
            _take_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return seal


def _take_place(partial: pathlib.Path, folder: pathlib.Path) -> None:
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(partial, folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def errors_name(path: pathlib.Path) -> Iterator[None]:
    """Re-raises an `OSError` as one that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == str(path):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _require_room(size: int, folder: pathlib.Path) -> None:
    if shutil.disk_usage(folder.parent).free < size + 1_000_000:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def _write_arrays(path: pathlib.Path, leaves: Mapping[str, Any]) -> dict[str, list]:
    """Writes the archive; returns ``{path: [dtype, shape, CRC-32]}``."""
    kinds = {}
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, leaf in leaves.items():
                array = np.asarray(leaf)
                kinds[name] = [array.dtype.name, list(array.shape)]
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            crcs = {info.filename.removesuffix(".npy"): info.CRC for info in archive.infolist()}
        file.flush()
        os.fsync(file.fileno())
    return {name: [*kind, crcs[name]] for name, kind in kinds.items()}


def _write_synced(path: pathlib.Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: pathlib.Path) -> None:
    """Makes a rename in `folder` last; not every system can open a folder."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def seal_of(record: Mapping[str, Any]) -> str:
    """SHA-256 of plain values, the field ``seal`` aside."""
    plain = {name: value for name, value in record.items() if name != "seal"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read(folder: pathlib.Path) -> Stored:
    """What `write` wrote.

    Raises:
      Damaged: if it is not what was written.
      UserError: if it may not be read, or another version wrote it.
    """
    with _reading(folder):
        record = _read_record(folder)
        contents = record["arrays"]
        with zipfile.ZipFile(folder / ARRAYS) as archive:
            _same_members(archive, contents)
            arrays = {name: _read_array(archive, name, *contents[name][:2]) for name in contents}
        return Stored(arrays, record["about"], record["seal"])


def read_about(folder: pathlib.Path) -> tuple[Any, str]:
    """What was said about the arrays, and the seal, without reading them; the same errors."""
    with _reading(folder):
        record = _read_record(folder)
        return record["about"], record["seal"]


@contextmanager
def _reading(folder: pathlib.Path) -> Iterator[None]:
    """Whatever reading raises means that the folder is damaged, unless it may not be read at all."""
    try:
        yield
    except (Damaged, UserError):
        raise
    except OSError as error:
        if error.errno in NOT_OURS:
            raise UserError(str(folder), f"cannot be read ({error.strerror})", "see to that and try again") from None
        raise Damaged(f"{pathlib.Path(error.filename or folder).name}: {error.strerror or error}") from error
    except Exception as error:
        raise Damaged(f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from error


def _read_record(folder: pathlib.Path) -> dict[str, Any]:
    if not (folder / RECORD).exists() and (folder / "_CHECKPOINT_METADATA").exists():
        refuse_version(folder, "an earlier one")
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.get("seal") != seal_of(record):
        raise Damaged(f"{RECORD} is not what was written")
    if record["format"] != FORMAT:
        refuse_version(folder, record["version"])
    return record


def refuse_version(place: pathlib.Path, version: str) -> None:
    """Raises the `UserError` of what another version of this package wrote."""
    here = metadata.version("cfdg-jax")
    found = f"was written by cfdg-jax {version}, which this version {here} cannot continue"
    raise UserError(str(place), found, "continue with that version, or start a new run; reports still work")


def _same_members(archive: zipfile.ZipFile, contents: Mapping[str, list]) -> None:
    crcs = {info.filename.removesuffix(".npy"): info.CRC for info in archive.infolist()}
    if crcs != {name: crc for name, (_, _, crc) in contents.items()}:
        raise Damaged(f"{ARRAYS} is not the file that {RECORD} describes")


def _read_array(archive: zipfile.ZipFile, name: str, dtype: str, shape: list[int]) -> np.ndarray:
    """One array; its CRC is compared when its last byte is read."""
    with archive.open(f"{name}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
    if list(array.shape) != shape:
        raise Damaged(f"{name} has shape {list(array.shape)}, recorded {shape}")
    return array if array.dtype.name == dtype else array.view(jnp.dtype(dtype))  # NumPy reads bfloat16 as two bytes


def _read_back(folder: pathlib.Path) -> None:
    """Reads the folder from the disk, byte by byte, in little memory; `OSError` if it is not what was written."""
    try:
        with zipfile.ZipFile(folder / ARRAYS) as archive:
            _same_members(archive, _read_record(folder)["arrays"])
            bad = archive.testzip() is not None
    except (Damaged, ValueError, zipfile.BadZipFile):
        bad = True
    if bad:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))


def fill(template: Any, arrays: Mapping[str, np.ndarray], place: pathlib.Path) -> Any:
    """`template`, a tree of shapes, with the stored arrays in place of its leaves, on the default device.

    Raises:
      UserError: naming `place`, if an array is missing or of another shape or type.
    """
    remedy = "use the config, data and version that wrote it"
    wanted = named_leaves(template)
    for name, leaf in wanted.items():
        require(name in arrays, str(place), f"holds no {name}", remedy)
        found, needed = (arrays[name].shape, arrays[name].dtype), (leaf.shape, leaf.dtype)
        require(
            found == needed, str(place), f"holds {name} as {found[1]} {found[0]}, not {needed[1]} {needed[0]}", remedy
        )
    leaves, structure = jax.tree.flatten(template)
    filled = [jnp.array(arrays[name]) for name in wanted]
    keyed = [jax.random.wrap_key_data(new) if _is_key(leaf) else new for leaf, new in zip(leaves, filled, strict=True)]
    return jax.tree.unflatten(structure, keyed)


def under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose path begins with ``prefix/``, by the rest of it."""
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}
