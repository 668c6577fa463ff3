"""`Dataset`: logged transitions as NumPy arrays."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cfdg_jax.data.arrays import refuse_bad, to_transitions
from cfdg_jax.data.names import Dynamics, Origin
from cfdg_jax.errors import require
from cfdg_jax.types import RowLayout


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
      warnings: What reading found that looks wrong, one sentence each.
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
    warnings: tuple[str, ...] = ()
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
    clip_actions: bool = False,
) -> Dataset:
    """A dataset from checked arrays.

    Args:
      arrays: By the names of D4RL's layout; see `cfdg_jax.data.arrays`.
      name: What error messages call the data.
      task: As the attribute of `Dataset`; so are the others but the last.
      clip_actions: Whether actions outside [-1, 1] are clipped to it, not refused.

    Raises:
      UserError: for bad arrays, or if no row has a next observation.
    """
    checked = refuse_bad(arrays, name, clip_actions)
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
