"""D4RL's files: their names and addresses, and reading and writing their layout with h5py alone.

Layout: flat ``observations [N, O]``, ``actions [N, A]``, ``rewards``, ``terminals``, ``timeouts`` ``[N]`` and, in the
MuJoCo -v2 files, ``next_observations``; scalars under ``metadata/``. Names and addresses are facts of
Farama-Foundation/D4RL d4rl/infos.py.
"""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from cfdg_jax.data.arrays import OPTIONAL, REQUIRED
from cfdg_jax.data.download import download
from cfdg_jax.data.files import PathLike, atomic_path, cache_dir
from cfdg_jax.errors import UserError, require

if TYPE_CHECKING:
    from cfdg_jax.data.dataset import Dataset

SERVERS = (
    "https://rail.eecs.berkeley.edu/datasets/offline_rl",
    "http://rail.eecs.berkeley.edu/datasets/offline_rl",
)
"""Where D4RL's files are served. The environment variable ``CFDG_MIRRORS`` names further servers, comma separated, to
be tried first: ``https://host/folder`` with the same folders below, or any address with ``{file}`` or ``{path}``."""


class Remote(NamedTuple):
    """One published file: its `path` below a server and the environment `task` it was logged in."""

    path: str
    task: str

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


def _names() -> dict[str, Remote]:
    names = {}
    for task in ("hopper", "halfcheetah", "walker2d", "ant"):
        for quality in ("random", "medium-replay", "medium", "medium-expert", "expert", "full-replay"):
            path = f"gym_mujoco_v2/{task}_{quality.replace('-', '_')}-v2.hdf5"
            names[f"{task}-{quality}-v2"] = Remote(path, task)
    mazes = {"umaze": "u-maze", "medium": "big-maze", "large": "hardest-maze"}
    for name, size, starts, goals in (
        ("umaze", "umaze", False, False),
        ("umaze-diverse", "umaze", True, True),
        ("medium-play", "medium", True, False),
        ("medium-diverse", "medium", True, True),
        ("large-play", "large", True, False),
        ("large-diverse", "large", True, True),
    ):
        file = f"Ant_maze_{mazes[size]}_noisy_multistart_{starts}_multigoal_{goals}_sparse_fixed.hdf5"
        names[f"antmaze-{name}-v2"] = Remote(f"ant_maze_v2/{file}", f"antmaze-{size}")
    return names


DATASETS: dict[str, Remote] = _names()
"""Published datasets by their D4RL name."""


def fetch(
    name: str,
    *,
    data_dir: PathLike | None = None,
    mirrors: Sequence[str] = (),
    allowed: bool = True,
    progress: bool = True,
) -> pathlib.Path:
    """The local path of a D4RL dataset, downloaded on first use to ``<data folder>/d4rl/``.

    Args:
      name: A key of `DATASETS`.
      data_dir: The data folder; see `cache_dir`.
      mirrors: Servers tried before those of ``CFDG_MIRRORS`` and D4RL's own.
      allowed: Whether the network may be used (``CFDG_OFFLINE`` forbids it as well).
      progress: Whether to show a bar.

    Raises:
      UserError: if the file is absent and cannot be fetched.
    """
    remote = DATASETS[name]
    target = cache_dir(data_dir) / "d4rl" / remote.file
    extra = [mirror.strip() for mirror in os.environ.get("CFDG_MIRRORS", "").split(",") if mirror.strip()]
    urls = [_address(server, remote) for server in (*mirrors, *extra, *SERVERS)]
    download(target, urls, what=f"d4rl:{name}", check=require_hdf5, allowed=allowed, progress=progress)
    return target


def _address(server: str, remote: Remote) -> str:
    if "{file}" in server or "{path}" in server:
        return server.replace("{file}", remote.file).replace("{path}", remote.path)
    return f"{server.rstrip('/')}/{remote.path}"


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
