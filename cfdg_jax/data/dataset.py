"""`Dataset`: logged transitions as NumPy arrays, and the one function that finds them by name.

d4rl:hopper-medium-v2      D4RL's own file, downloaded once
minari:D4RL/door/human-v2  through the minari package
local:hopper-medium-v0     built on first use from behaviour policies in this package
some/file.hdf5             any file in D4RL's layout
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from cfdg_jax.data import d4rl, files, local, minari
from cfdg_jax.data.arrays import refuse_bad, to_transitions
from cfdg_jax.data.files import PathLike
from cfdg_jax.errors import require
from cfdg_jax.types import RowLayout

Dynamics = Literal["d4rl", "gymnasium"]
Origin = Literal["d4rl", "local", "minari", "file"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Transitions in the order they were logged, episode after episode.

    Attributes:
      observations: `[N, O]` float32.
      actions: `[N, A]` float32 in [-1, 1].
      rewards: `[N]` float32, raw.
      next_observations: `[N, O]` float32, never from beyond an episode's end.
      terminals: `[N]` bool, true terminals alone: do not bootstrap.
      ends: `[N]` bool, last rows of trajectories: terminal, time limit, or a gap in the log. The last row is one.
      name: As the user would write it, such as ``d4rl:hopper-medium-v2``.
      task: Environment id such as ``hopper``; empty where the source does not tell.
      dynamics: The simulator variant that logged the data.
      origin: Kind of source.
      sha256: Of the file the rows were read from.
      notes: What reading had to assume or change, one sentence each.
      metadata: What the source says about itself.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminals: np.ndarray
    ends: np.ndarray
    name: str
    task: str = ""
    dynamics: Dynamics = "gymnasium"
    origin: Origin = "file"
    sha256: str = ""
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def obs_dim(self) -> int:
        return self.observations.shape[1]

    @property
    def act_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def layout(self) -> RowLayout:
        return RowLayout(self.obs_dim, self.act_dim)

    @functools.cached_property
    def episode_starts(self) -> np.ndarray:
        """First rows of the episodes, ascending."""
        return episode_starts(self.ends)

    @functools.cached_property
    def episode_lengths(self) -> np.ndarray:
        """Rows of each episode."""
        return np.diff(np.append(self.episode_starts, len(self)))

    @functools.cached_property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted raw return of each episode, float64."""
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts)

    @property
    def loose(self) -> bool:
        """Whether rows are transitions without trajectories, as generated ones are."""
        return "return_low" in self.metadata

    @property
    def return_range(self) -> tuple[float, float]:
        """Least and largest raw return of a trajectory; of loose rows, that of the data they were learnt from."""
        if self.loose:
            return float(self.metadata["return_low"]), float(self.metadata["return_high"])
        return float(self.episode_returns.min()), float(self.episode_returns.max())

    def episodes(self) -> Iterator[slice]:
        """Slices of rows, one per episode, in order."""
        for start, length in zip(self.episode_starts.tolist(), self.episode_lengths.tolist(), strict=True):
            yield slice(start, start + length)

    def arrays(self) -> dict[str, np.ndarray]:
        """The rows by the names of D4RL's layout; ends that are no terminals become timeouts."""
        return {
            "observations": self.observations,
            "actions": self.actions,
            "rewards": self.rewards,
            "next_observations": self.next_observations,
            "terminals": self.terminals,
            "timeouts": self.ends & ~self.terminals,
        }


def episode_starts(ends: np.ndarray) -> np.ndarray:
    """First rows of the trajectories that `ends` `[N]` closes; N >= 1."""
    return np.flatnonzero(np.concatenate([[True], ends[:-1]]))


def from_arrays(
    arrays: Mapping[str, np.ndarray],
    name: str = "arrays",
    *,
    task: str = "",
    dynamics: Dynamics = "gymnasium",
    origin: Origin = "file",
    sha256: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Dataset:
    """A dataset from arrays by the names of D4RL's layout, checked; see `cfdg_jax.data.arrays`.

    Raises:
      UserError: for bad arrays, or if no row has a next observation.
    """
    checked = refuse_bad(arrays, name)
    rows = to_transitions(checked, goals_go_on=task.startswith("antmaze"))
    require(len(rows.rewards) > 0, name, "holds no complete transition", "record or download it again")
    return Dataset(
        **rows._asdict(),
        name=name,
        task=task,
        dynamics=dynamics,
        origin=origin,
        sha256=sha256,
        metadata=dict(metadata or {}),
    )


def load_dataset(
    name: str | os.PathLike[str],
    *,
    dynamics: Dynamics | None = None,
    download: bool = True,
    progress: bool = True,
    data_dir: PathLike | None = None,
) -> Dataset:
    """Finds, fetches or builds, checks and reads a dataset.

    Args:
      name: ``d4rl:NAME``, ``minari:ID``, ``local:NAME`` or the path of a file in D4RL's layout.
      dynamics: The simulator variant: what ``local:`` is built with, and what the others are said to have been
        logged with. Default: ``d4rl`` for ``d4rl:`` and the robots of ``local:``, otherwise what the file says, or
        ``gymnasium``.
      download: Whether the network may be used; ``CFDG_OFFLINE=1`` forbids it as well.
      progress: Whether to show bars.
      data_dir: The data folder, by default ``CFDG_DATA_DIR`` or ``~/.cache/cfdg_jax``.

    Raises:
      UserError: for unknown names, with the nearest valid ones, files that cannot be had, and bad data.
    """
    kind, rest = split_name(name)
    if kind == "d4rl":
        path = d4rl.fetch(rest, data_dir=data_dir, allowed=download, progress=progress)
    elif kind == "local":
        path = local.build(rest, dynamics=dynamics, data_dir=data_dir, progress=progress)
    elif kind == "minari":
        path = minari.convert(rest, data_dir=data_dir, allowed=download)
    else:
        path = pathlib.Path(rest)
    arrays, metadata = d4rl.read_hdf5(path)
    task, logged_with = _environment(path, metadata)
    return from_arrays(
        arrays,
        str(path) if kind == "file" else str(name),
        task=task,
        dynamics=logged_with if kind == "local" or dynamics is None else dynamics,
        origin=kind,
        sha256=files.verified_sha256(path),
        metadata=metadata,
    )


def split_name(name: str | os.PathLike[str]) -> tuple[Origin, str]:
    """Kind and remainder of a dataset name; `UserError` for unknown ones, with the nearest valid names."""
    text = os.fspath(name)
    kind, colon, rest = text.partition(":")
    if colon and kind in ("d4rl", "local"):
        known: Iterable[str] = d4rl.DATASETS if kind == "d4rl" else local.DATASETS
        require(rest in known, text, "is unknown", nearest(rest, known, f"{kind}:") if rest not in known else "")
        return kind, rest  # type: ignore[return-value]
    if colon and kind == "minari":
        return "minari", rest
    if pathlib.Path(text).exists() or text.endswith((".hdf5", ".h5")) or os.sep in text:
        return "file", text
    require(False, text or "dataset", "names no dataset and no file", nearest(text, dataset_names()))
    raise AssertionError


def dataset_names() -> list[str]:
    """All names that resolve without a file of the user's: ``d4rl:`` and ``local:``."""
    return [f"d4rl:{name}" for name in d4rl.DATASETS] + [f"local:{name}" for name in local.DATASETS]


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """``did you mean ...?``, or all valid names where none is near."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    shown = ", ".join(prefix + each for each in close or names)
    return f"did you mean {shown}?" if close else f"valid: {shown}"


def task_of_name(name: str) -> str:
    """The environment id a dataset name implies without fetching or building anything; empty where it does not say."""
    if name == "":
        return ""
    kind, rest = split_name(name)
    if kind == "d4rl":
        return d4rl.DATASETS[rest].task
    if kind == "local":
        return local.DATASETS[rest].task
    if kind == "minari" or not pathlib.Path(rest).is_file():
        return ""
    return _environment(pathlib.Path(rest), d4rl.read_metadata(rest))[0]


def _environment(path: pathlib.Path, metadata: Mapping[str, Any]) -> tuple[str, Dynamics]:
    """Environment id and dynamics of a file: from its own words, or because D4RL published a file of that name."""
    if "task" in metadata:
        return str(metadata["task"]), metadata.get("dynamics", "gymnasium")
    for remote in d4rl.DATASETS.values():
        if remote.file == path.name:
            return remote.task, "d4rl"
    robot, _, version = str(metadata.get("env", "")).rpartition("-v")
    if robot.lower() in ("hopper", "halfcheetah", "walker2d", "ant") and version in ("2", "3", "4"):
        return robot.lower(), "gymnasium" if version == "4" else "d4rl"  # up to -v3 they ran on mujoco-py
    return "", "gymnasium"
