"""D4RL's published files: their names, their addresses, and fetching one.

Names and addresses are facts of Farama-Foundation/D4RL d4rl/infos.py. `cfdg_jax.data.hdf5` reads the files.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from cfdg_jax.data.download import download
from cfdg_jax.data.files import PathLike, cache_dir
from cfdg_jax.data.hdf5 import require_hdf5

SERVERS = (
    "https://rail.eecs.berkeley.edu/datasets/offline_rl",
    "http://rail.eecs.berkeley.edu/datasets/offline_rl",
)
"""Where D4RL's files are served. The environment variable ``CFDG_MIRRORS`` names further places, comma separated, to be
tried first: ``https://host/folder`` with the same folders below, any address with ``{file}`` or ``{path}``, or a folder
of this machine with the files in it or in the same folders."""


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
        first = file.replace("_fixed", "")  # its known defects are `data check`'s to name
        names[f"antmaze-{name}-v0"] = Remote(f"ant_maze_new/{first}", f"antmaze-{size}")
    names["door-human-v1"] = Remote("hand_dapg/door-v0_demos_clipped.hdf5", "door")  # v1 kept v0's demonstrations
    for quality in ("cloned", "expert"):
        names[f"door-{quality}-v1"] = Remote(f"hand_dapg_v1/door-{quality}-v1.hdf5", "door")
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
    urls = [url for server in (*mirrors, *extra, *SERVERS) for url in _addresses(server, remote)]
    download(target, urls, what=f"d4rl:{name}", check=require_hdf5, allowed=allowed, progress=progress)
    return target


def _addresses(server: str, remote: Remote) -> list[str]:
    if "{file}" in server or "{path}" in server:
        return [server.replace("{file}", remote.file).replace("{path}", remote.path)]
    below = [remote.path] if "://" in server else [remote.path, remote.file]
    return [f"{server.rstrip('/')}/{path}" for path in below]
