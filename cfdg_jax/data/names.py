"""Names of datasets and what they mean, without reading or building anything; imports neither NumPy nor JAX.

========================== ============================================================
``d4rl:hopper-medium-v2``  D4RL's own file, downloaded once (`cfdg_jax.data.d4rl`)
``minari:lab/mine-v0``     through the minari package
``local:hopper-medium-v0`` built on first use (`cfdg_jax.data.behaviours`)
``some/file.hdf5``         any file in D4RL's layout, or ``.npz`` with its arrays
========================== ============================================================
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import Literal, NamedTuple

from cfdg_jax.data.files import exists
from cfdg_jax.errors import UserError, nearest, require

Dynamics = Literal["d4rl", "gymnasium"]
Origin = Literal["d4rl", "local", "minari", "file"]
LISTING = "cfdg-jax data list"
"""The command that lists all names."""


class Remote(NamedTuple):
    """One published file: its `path` below a server and the environment `task` it was logged in."""

    path: str
    task: str

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


def _remotes() -> dict[str, Remote]:
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
    for hand in ("door", "hammer", "pen", "relocate"):  # v1 kept v0's demonstrations
        names[f"{hand}-human-v1"] = Remote(f"hand_dapg/{hand}-v0_demos_clipped.hdf5", hand)
        for quality in ("cloned", "expert"):
            names[f"{hand}-{quality}-v1"] = Remote(f"hand_dapg_v1/{hand}-{quality}-v1.hdf5", hand)
    return names


REMOTES: dict[str, Remote] = _remotes()
"""D4RL's published datasets by the name that follows ``d4rl:``; facts of Farama-Foundation/D4RL d4rl/infos.py."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A ``local:`` dataset: the environment, whose behaviour, and its default number of rows."""

    task: str
    quality: str
    rows: int

    @property
    def has_dynamics(self) -> bool:
        """Whether the environment comes in MuJoCo variants."""
        return not self.task.startswith("toy")


_LOCOMOTION = ("random", "medium-replay", "medium", "medium-expert", "expert")


def _recipes() -> dict[str, Recipe]:
    recipes = {}
    for tasks, rows, qualities in (
        (("hopper", "halfcheetah", "walker2d"), 200_000, _LOCOMOTION),
        (("antmaze-umaze", "antmaze-medium", "antmaze-large"), 200_000, ("play", "diverse")),
        (("toy-sparse", "toy-dense"), 20_000, _LOCOMOTION),
    ):
        for task in tasks:
            for quality in qualities:
                recipes[f"{task}-{quality}-v0"] = Recipe(task, quality, rows)
    return recipes


RECIPES: dict[str, Recipe] = _recipes()
"""Recipes by the name that follows ``local:``."""


def split_name(name: str | os.PathLike[str]) -> tuple[Origin, str]:
    """Kind and remainder of a dataset name; `UserError` for unknown ones, with the nearest valid names."""
    text = os.fspath(name)
    kind, colon, rest = text.partition(":")
    if colon and kind in ("d4rl", "local"):
        known: Iterable[str] = REMOTES if kind == "d4rl" else RECIPES
        remedy = lambda: nearest(text, [f"{kind}:{name}" for name in known], LISTING)
        require(rest in known, text, "is unknown", remedy)
        return kind, rest  # type: ignore[return-value]
    if colon and kind == "minari":
        return "minari", rest
    foreign = bool(colon) and kind in ("lerobot", "ogbench")
    require(not foreign, text, "is read by `data convert` alone", f"cfdg-jax data convert {text} mine.hdf5")
    if (text and exists(pathlib.Path(text))) or text.endswith((".hdf5", ".h5", ".npz")) or os.sep in text:
        return "file", text
    raise UserError(text or "dataset", "names no dataset and no file", nearest(text, dataset_names(), LISTING))


def dataset_names() -> list[str]:
    """All names that resolve without a file of the user's: ``d4rl:`` and ``local:``."""
    return [f"d4rl:{name}" for name in REMOTES] + [f"local:{name}" for name in RECIPES]
