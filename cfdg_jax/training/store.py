"""A saved folder that proves itself: arrays as orbax writes them, and a record that seals its files.

    arrays/        every array; small ones of a type stand in one file, since an array of its own takes three
    record.json    dtype, shape and place of each array, CRC-32 of each file, what the caller says about them, and a
                   SHA-256 of all that

A folder is complete or absent: it is written beside its place, read back, and moved. What reads back otherwise than it
was written is `Damaged`. Arrays are saved from the host and read to it, so that no folder depends on the device that
wrote it. Orbax's merged format (OCDBT) is off, and folders of odd names are reached by a link: orbax reads parts of a
path as patterns and addresses.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cfdg_jax.errors import UserError, require

FORMAT = 3
"""Of saved folders; format 1 had no record, format 2 each array of an agent's networks by itself."""
ARRAYS, RECORD = "arrays", "record.json"
SAID_ELSEWHERE = ("OCDBT", "raised an exception")
"""In what orbax logs: a note at every save, and the traceback of an error that reaches the caller as well."""
logging.getLogger("absl").addFilter(lambda record: not any(text in record.getMessage() for text in SAID_ELSEWHERE))
SMALL = 1 << 20
"""Bytes under which an array shares a file with others of its type."""
OS_ERROR = re.compile(r"os_error_code='(\d+)'")
"""How tensorstore says why a write failed."""
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
      seal: SHA-256 of the record, and by the CRCs in it of the files too.
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

    The folder is read back before it takes its place.

    Raises:
      OSError: naming the folder, if the disk cannot hold it or the folder may not be written; what was there stays.
    """
    leaves = {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}
    partial = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with errors_name(folder):
            partial.mkdir(parents=True)
            _require_room(sum(leaf.nbytes for leaf in leaves.values()), folder)
            contents = _write_arrays(partial / ARRAYS, leaves)
            version, files = metadata.version("cfdg-jax"), _file_crcs(partial / ARRAYS)
            record = {"format": FORMAT, "version": version, "arrays": contents, "files": files, "about": about}
            seal = seal_of(record)
            _write_synced(partial / RECORD, json.dumps(record | {"seal": seal}, indent=1).encode())
            _read_back(partial, leaves)
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


def _write_arrays(place: pathlib.Path, leaves: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Writes the arrays; returns ``{path: [dtype, shape, file, offset]}``, the offset in entries."""
    contents: dict[str, list] = {}
    shared: dict[str, list[np.ndarray]] = {}
    files: dict[str, np.ndarray] = {}
    for number, (name, array) in enumerate(leaves.items()):
        kind = array.dtype.name
        if array.nbytes < SMALL:
            parts = shared.setdefault(kind, [])
            contents[name] = [kind, list(array.shape), kind, sum(part.size for part in parts)]
            parts.append(array.ravel())
        else:
            contents[name] = [kind, list(array.shape), str(number), 0]
            files[str(number)] = array
    files |= {kind: np.concatenate(parts) for kind, parts in shared.items() if sum(part.size for part in parts)}
    try:
        with _plainly_named(place.parent) as parent, _told_once(), _orbax() as saver:
            saver.save(parent / place.name, args=ocp.args.PyTreeSave(files))
    except ValueError as error:  # tensorstore's way to say that a write failed
        code = OS_ERROR.search(str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
    return contents


@contextmanager
def _told_once() -> Iterator[None]:
    """Where a write fails, orbax closes its event loop, and tensorstore prints a traceback for each other one.

    They end at any time after the first, so that a block that fails leaves them unprinted for good.
    """
    before = sys.unraisablehook

    def hook(late: sys.UnraisableHookArgs) -> None:
        if str(late.exc_value) != "Event loop is closed":
            before(late)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before


@contextmanager
def _plainly_named(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """An absolute path to `folder` that is no pattern and no address, whatever the folders above are called."""
    folder = folder.resolve()
    if re.fullmatch(r"[\w./ -]+", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        link = pathlib.Path(elsewhere).resolve() / "folder"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def _orbax() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))


def _file_crcs(place: pathlib.Path) -> dict[str, int]:
    """CRC-32 of every file under `place`, by its path there."""
    paths = sorted(path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): _crc(path) for path in paths}


def _crc(path: pathlib.Path) -> int:
    crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


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
        found = _file_crcs(folder / ARRAYS)
        wrong = sorted(name for name in record["files"].keys() | found if found.get(name) != record["files"].get(name))
        if wrong:
            raise Damaged(f"{ARRAYS}/{wrong[0]} is not the file that {RECORD} describes")
        return Stored(_read_arrays(folder / ARRAYS, record["arrays"]), record["about"], record["seal"])


def _read_arrays(place: pathlib.Path, contents: Mapping[str, list]) -> dict[str, np.ndarray]:
    """The arrays by name, in the host's memory."""
    files = {file for _, shape, file, _ in contents.values() if math.prod(shape)}
    wanted = {file: ocp.RestoreArgs(restore_type=np.ndarray) for file in files}
    with _plainly_named(place.parent) as parent, _orbax() as loader:
        asked = ocp.args.PyTreeRestore(restore_args=wanted)
        stored = loader.restore(parent / place.name, args=asked) if wanted else {}
    arrays = {}
    for name, (kind, shape, file, offset) in contents.items():
        size = math.prod(shape)
        flat = stored[file].ravel()[offset : offset + size] if size else np.zeros(0, jnp.dtype(kind))
        arrays[name] = flat.reshape(shape)
    return arrays


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


def _read_back(folder: pathlib.Path, leaves: Mapping[str, np.ndarray]) -> None:
    """`OSError` if the folder does not hold `leaves`."""
    try:
        stored = read(folder).arrays
    except (Damaged, UserError):
        stored = {}
    same = stored.keys() == leaves.keys() and all(stored[name].tobytes() == leaves[name].tobytes() for name in stored)
    if not same:
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
