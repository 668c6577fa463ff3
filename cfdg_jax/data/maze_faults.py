"""What the AntMaze files of D4RL are known to have wrong, told from their rows.

Facts of Farama-Foundation/D4RL. Its generator logs until the 1,001st row and never stops at a goal; afterwards rewards
and terminals were set for one goal, drawn once, wherever the next place lies within 0.5 of it (``scripts/generation``).
In the -v0 files resets are not where the time-outs are, so the ant leaps through the maze within a trajectory (issue
77, mended in -v2). In umaze-diverse a visit to the goal is a single row, in the others a cluster (issue 199).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cfdg_jax.data.dataset import Dataset
from cfdg_jax.envs.maze import SIZES, UNIT, maze

LEAP = UNIT / 2
"""Distance that no ant covers in a step of a tenth of a second; a running one makes less than a third of it."""
GOAL_BOX = (-1.0, 2.5)
"""Distance along each axis from the centre of the goal's cell to a place within 0.5 of a goal, and one step."""


def maze_doubts(dataset: Dataset) -> Iterator[str]:
    """What is wrong with the rows of an AntMaze dataset, one sentence each; nothing for other tasks."""
    if not _in_maze(dataset):
        return
    steps = np.linalg.norm(dataset.next_observations[:, :2] - dataset.observations[:, :2], axis=1)
    leaps = (steps > LEAP) & ~dataset.terminals
    if leaps.any():
        yield (
            f"{int(leaps.sum())} steps within trajectories leap up to {steps[leaps].max():.1f} units, first in row "
            f"{int(np.argmax(leaps))}: resets are not where the time-outs are, as in D4RL's -v0 files; take the -v2 set"
        )
    paid = dataset.rewards > 0
    missing, unpaid = int((paid & ~dataset.terminals).sum()), int((dataset.terminals & ~paid).sum())
    terminals = int(dataset.terminals.sum())
    if missing:
        yield f"{missing} of {int(paid.sum())} rewarded rows are no terminals; values go on beyond the goal there"
    if unpaid:
        yield f"{unpaid} of {terminals} terminals pay nothing; in a maze only the goal ends an episode"
    if paid.any() and not _at_goal(dataset)[paid].any():
        yield "no reward was paid where the environment puts its goal; its episodes ask for something else"


def maze_facts(dataset: Dataset) -> dict[str, Any]:
    """How a goal shows in an AntMaze dataset, ready for json; nothing for other tasks."""
    paid = dataset.rewards > 0
    if not _in_maze(dataset) or not paid.any():
        return {}
    goes_on = ~try_ends(dataset)[:-1]
    begins = paid & ~np.append(False, paid[:-1] & goes_on)
    share = float(_at_goal(dataset)[paid].mean())
    visits, tries = int(begins.sum()), int(len(paid) - goes_on.sum())
    return {
        "goal": {"visits": visits, "rows a visit": float(paid.sum() / visits), "tries": tries, "environment's": share}
    }


def try_ends(dataset: Dataset) -> np.ndarray:
    """Whether the ant is put elsewhere after each row `[N]`; within a try it may pass the goal and go on."""
    stays = (dataset.next_observations[:-1, :2] == dataset.observations[1:, :2]).all(axis=1)
    return np.append(~stays, True)


def _in_maze(dataset: Dataset) -> bool:
    return dataset.task in [f"antmaze-{size}" for size in SIZES] and dataset.obs_dim > 2


def _at_goal(dataset: Dataset) -> np.ndarray:
    """Whether each row arrives where evaluation's goals lie `[N]`."""
    layout = maze(dataset.task.removeprefix("antmaze-"))
    offset = dataset.next_observations[:, :2] - layout.centre(layout.goal)
    return ((offset >= GOAL_BOX[0]) & (offset <= GOAL_BOX[1])).all(axis=1)
