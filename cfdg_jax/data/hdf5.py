"""The one file that reads and writes HDF5, in D4RL's layout, with h5py alone.

Layout: flat ``observations [N, O]``, ``actions [N, A]``, ``rewards``, ``terminals``, ``timeouts`` ``[N]`` and, in the
MuJoCo -v2 files, ``next_observations``; scalars under ``metadata/``.
"""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from cfdg_jax.data.arrays import OPTIONAL, REQUIRED
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.files import PathLike, atomic_path
from cfdg_jax.errors import UserError, require


def require_hdf5(path: pathlib.Path) -> None:
    """Raises `UserError` unless `path` opens as a complete HDF5 file."""
    _open(path).close()


def _open(path: pathlib.Path) -> h5py.File:
    require(path.is_file(), str(path), "does not exist" if not path.exists() else "is not a file", "check the path")
    try:
        return h5py.File(path, "r")
    except PermissionError:
        raise UserError(str(path), "may not be read", "change its permissions") from None
    except OSError as error:
        problem = "is truncated" if "truncated" in str(error) else "is not an HDF5 file"
        raise UserError(str(path), problem, "copy or download it again") from None


def read_hdf5(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a file's flat arrays, unchecked and in its own types, and the scalars that describe it.

    Returns:
      The arrays of the layout that are there (plus ``{name: empty array}`` for other top-level names, so that messages
      can list them), and attributes and ``metadata/`` scalars together.

    Raises:
      UserError: if the file is absent, truncated, damaged or not HDF5.
    """
    path = pathlib.Path(path)
    with _open(path) as file:
        metadata, arrays = _metadata(file), {}
        for name in file:
            wanted = name in (*REQUIRED, *OPTIONAL) and isinstance(file[name], h5py.Dataset)
            try:
                arrays[name] = file[name][()] if wanted else np.empty(0)
            except OSError:
                raise UserError(f"{path}: {name}", "cannot be read, the file is damaged", "copy it again") from None
    return {name: value for name, value in arrays.items() if name not in ("infos", "metadata")}, metadata


def read_metadata(path: PathLike) -> dict[str, Any]:
    """The scalars alone; errors as `read_hdf5`."""
    with _open(pathlib.Path(path)) as file:
        return _metadata(file)


def _metadata(file: h5py.File) -> dict[str, Any]:
    scalars = {name: _scalar(value) for name, value in file.attrs.items() if np.ndim(value) == 0}
    if isinstance(group := file.get("metadata"), h5py.Group):
        items = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset) and item.shape == ()}
        scalars |= {name: _scalar(item[()]) for name, item in items.items()}
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
    """
    arrays = data if isinstance(data, Mapping) else data.arrays()
    metadata = ({} if isinstance(data, Mapping) else dict(data.metadata)) | dict(metadata or {})
    image = io.BytesIO()  # HDF5 crashes the process when the disk is full under it, so the disk sees plain bytes only
    with h5py.File(image, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value, compression=compression)
        for name, scalar in metadata.items():
            file.create_dataset(f"metadata/{name}", data=scalar)
    with atomic_path(pathlib.Path(path)) as temporary:
        temporary.write_bytes(image.getbuffer())
