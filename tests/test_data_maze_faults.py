"""AntMaze: what D4RL's first files have wrong is told from their rows, and what is right raises nothing."""

import numpy as np
import pytest

from cfdg_jax.data.check import describe, doubts
from cfdg_jax.data.dataset import from_arrays
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.maze_faults import maze_doubts, maze_facts
from cfdg_jax.envs.antmaze import antmaze_spec
from cfdg_jax.envs.maze import maze

SPEC = antmaze_spec("antmaze-umaze")
ROWS, EACH = 120, 40


def walks(reset_every=EACH, timeout_every=EACH, goal=None, stay=3):
    """An ant that walks to the goal in straight lines, stays there, and is put back to the start.

    Args:
      reset_every: Rows after which it is put back.
      timeout_every: Rows after which a time-out is logged.
      goal: Of the rewards; by default one of evaluation's.
      stay: Rows at the goal before it is put back.
    """
    layout, rng = maze("umaze"), np.random.default_rng(0)
    goal = layout.centre(layout.goal) + 0.6 if goal is None else np.asarray(goal)
    phase = np.minimum(np.arange(ROWS) % reset_every / (reset_every - stay), 1.0)
    obs = rng.normal(size=(ROWS, SPEC.obs_dim)).astype(np.float32)
    obs[:, :2] = phase[:, None] * (layout.centre(layout.goal) + 0.6)
    near = np.linalg.norm(np.roll(obs[:, :2], -1, axis=0) - goal, axis=1) <= 0.5  # D4RL's relabelling, next places
    near[-1] = False
    return {
        "observations": obs,
        "actions": rng.uniform(-0.9, 0.9, (ROWS, SPEC.act_dim)).astype(np.float32),
        "rewards": near.astype(np.float32),
        "terminals": near,
        "timeouts": np.arange(ROWS) % timeout_every == timeout_every - 1,
    }


def found(arrays, task="antmaze-umaze"):
    return list(maze_doubts(from_arrays(arrays, task=task)))


def test_what_is_right_raises_no_warning():
    arrays = walks()
    data = from_arrays(arrays, task="antmaze-umaze")
    assert found(arrays) == [] and not any("leap" in words for words in doubts(data, SPEC))
    kept = arrays["rewards"][~arrays["timeouts"]]
    visits = 3  # one each time it is put back
    goal = {"visits": visits, "rows a visit": kept.sum() / visits, "tries": visits, "environment's": 1.0}
    assert describe(data, SPEC).facts["goal"] == goal and kept.sum() > visits


def test_a_visit_ends_with_its_trajectory():
    """As where an ant is put back beside its goal and arrives at once."""
    arrays = walks(stay=1)
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    first = np.arange(0, ROWS, EACH)
    for name in ("observations", "next_observations"):
        arrays[name][first, :2] = arrays["observations"][first - 1, :2] + 0.01
    arrays["rewards"] = (np.isin(np.arange(ROWS), [*first, *(first - 1) % ROWS])).astype(np.float32)
    arrays["terminals"] = arrays["rewards"] > 0
    arrays["timeouts"][:] = False
    goal = maze_facts(from_arrays(arrays, task="antmaze-umaze"))["goal"]
    assert goal["visits"] == arrays["rewards"].sum() == 6 and goal["rows a visit"] == 1.0


def test_resets_away_from_the_time_outs_are_leaps(tmp_path):
    arrays = walks(reset_every=24)
    far = float(np.linalg.norm(maze("umaze").centre(maze("umaze").goal) + 0.6))
    resets = np.arange(23, ROWS - 1, 24)
    unlabelled = [t for t in resets if not arrays["timeouts"][t] and not arrays["terminals"][t]]
    assert len(unlabelled) == 4
    (words,) = found(arrays)
    assert words.startswith(f"4 steps within trajectories leap up to {far:.1f} units, first in row 23: ")
    path = tmp_path / "Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse.hdf5"
    write_hdf5(path, arrays)
    assert any("as in D4RL's -v0 files; take the -v2 set" in words for words in doubts(load_dataset(path), SPEC))


def test_terminals_and_rewards_go_together():
    arrays = walks()
    paid = int(arrays["rewards"][~arrays["timeouts"]].sum())
    (words,) = found(arrays | {"terminals": np.zeros(ROWS, bool)})
    assert words.startswith(f"{paid} of {paid} rewarded rows are no terminals")
    (words,) = found(arrays | {"terminals": arrays["terminals"] | (np.arange(ROWS) % EACH == 4)})
    assert words.startswith(f"3 of {paid + 3} terminals pay nothing")


def test_rewards_of_another_goal_are_told():
    (words,) = found(walks(goal=(0.3, 4.3)))
    assert words.startswith("no reward was paid where the environment puts its goal")


@pytest.mark.parametrize("task", ["", "hopper"])
def test_other_tasks_have_no_maze(task):
    data = from_arrays(walks(reset_every=24), task=task)
    assert list(maze_doubts(data)) == [] and maze_facts(data) == {}
