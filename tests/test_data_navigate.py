"""Steering an ant through a maze: what its actor sees, and where it is sent."""

import numpy as np
import pytest

from cfdg_jax.data import behaviours
from cfdg_jax.data.collect import GaussianPolicy
from cfdg_jax.data.names import RECIPES
from cfdg_jax.data.navigate import FEATURES, Navigator, features, into_body
from cfdg_jax.envs.antmaze import AntMazeVecEnv, middle_goal
from cfdg_jax.envs.maze import maze


def turned(quaternion, vector):
    """`vector` turned by `quaternion`, by the matrix."""
    w, x, y, z = quaternion
    matrix = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    return matrix @ vector


def test_into_the_body_undoes_the_bodys_turn():
    rng = np.random.default_rng(0)
    quaternion = rng.standard_normal((20, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    vector = rng.standard_normal((20, 3))
    world = np.stack([turned(q, v) for q, v in zip(quaternion, vector, strict=True)])
    np.testing.assert_allclose(into_body(quaternion, world), vector, atol=1e-12)


def test_the_actor_sees_the_same_whatever_the_heading():
    """A scene turned about the vertical, place moved: the same features; the direction's length does not show."""
    rng = np.random.default_rng(1)
    obs, direction = rng.standard_normal((1, 29)), rng.standard_normal((1, 2))
    obs[:, 3:7] /= np.linalg.norm(obs[:, 3:7])
    angle, other = 0.7, obs.copy()
    heading = np.array([np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)])
    w, v, q = heading[0], heading[1:], obs[0, 3:7]
    other[0, 3:7] = [w * q[0] - v @ q[1:], *(w * q[1:] + q[0] * v + np.cross(v, q[1:]))]
    other[0, 15:18] = turned(heading, obs[0, 15:18])
    other[0, :2] += 5.0
    moved = turned(heading, [*direction[0], 0.0])[None, :2] * 3.0
    seen = features(obs, direction)
    assert seen.shape == (1, FEATURES)
    np.testing.assert_allclose(features(other, moved), seen, atol=1e-12)


def test_navigator_heads_for_the_next_cell():
    seen = []

    class Spy(GaussianPolicy):
        def __call__(self, obs, rng):
            seen.append(obs)
            return np.zeros((len(obs), 8))

    class Env:
        maze, goals = maze("umaze"), np.array([[0.0, 8.0], [0.5, 8.5]])

    obs = np.zeros((2, 29))
    obs[:, 3] = 1.0
    obs[1, :2] = [0.0, 8.0]  # already in the goal's cell
    action = Navigator(Spy(()), Env())(obs, np.random.default_rng(0))
    assert 0.1 < action.std() < 0.3 and np.abs(action).max() <= 1.0
    np.testing.assert_allclose(seen[0][:, -3:-1], [[1.0, 0.0], [np.sqrt(0.5)] * 2], atol=1e-12)


@pytest.mark.parametrize(("name", "starts", "goals"), [
    ("antmaze-umaze-play-v0", 1, 1), ("antmaze-umaze-diverse-v0", 7, 7),
    ("antmaze-medium-play-v0", 23, 3), ("antmaze-large-diverse-v0", 46, 46),
])  # fmt: skip
def test_recipes_of_mazes(name, starts, goals):
    env = behaviours.environment(RECIPES[name], [0, 1], "d4rl", 1)
    assert len(env._starts or [None]) == starts and len(env._targets) == goals
    obs = env.reset()
    assert all(env.maze.cell_at(place) in env.maze.free for place in [*obs[:, :2], *env.goals])


def test_in_a_maze_one_goal_pays_and_ends():
    """Evaluation's, wherever an episode was bound for, and rows go on behind it."""
    goal = maze("umaze").centre(maze("umaze").goal) + 0.75
    places = goal + np.array([[0.0, -8.0], [0.3, 0.3], [0.0, -0.49], [0.0, 0.51], [4.0, 0.0], [0.0, 0.0]])
    arrays = {
        "next_observations": np.pad(places, ((0, 0), (0, 27))),
        "rewards": np.array([0, 0, 1, 0, 1, 0], np.float32),
        "terminals": np.zeros(6, bool),
        "timeouts": np.array([1, 0, 0, 0, 0, 1], bool),
    }
    made = behaviours.labelled(RECIPES["antmaze-umaze-diverse-v0"], arrays)
    np.testing.assert_array_equal(made["rewards"], [0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(made["terminals"], [0, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(made["timeouts"], [1, 0, 0, 0, 0, 0])
    assert made["next_observations"] is arrays["next_observations"]
    assert behaviours.labelled(RECIPES["hopper-medium-v0"], arrays) is arrays


def test_an_ant_that_gathers_data_runs_on_at_its_goal():
    env = behaviours.environment(RECIPES["antmaze-umaze-play-v0"], [0, 1], "d4rl", 1)
    env.place(np.pad(env.goals, ((0, 0), (0, 27))) + np.eye(29)[2] + np.eye(29)[3], env.goals)
    step = env.step(np.zeros((2, 8)))
    assert step.success.all() and not step.terminal.any() and not step.truncated.any()
    ending = AntMazeVecEnv("antmaze-umaze", [0, 1], "d4rl", 1)
    ending.place(step.next_obs, env.goals)
    assert ending.step(np.zeros((2, 8))).terminal.all()


def test_goals_of_evaluation_lie_around_the_one_that_pays():
    env = AntMazeVecEnv("antmaze-medium", range(500))
    env.reset()
    np.testing.assert_allclose(env.goals.mean(axis=0), middle_goal(env.maze), atol=0.05)


def test_the_shipped_actor_reaches_goals():
    """8 evaluation episodes of the small maze; docs/datasets.md has the rates of hundreds in each."""
    recipe = RECIPES["antmaze-umaze-play-v0"]
    env, rng = AntMazeVecEnv("antmaze-umaze", range(8), "d4rl"), np.random.default_rng(0)
    policy = next(iter(behaviours.parts(recipe)[0].values()))(env)
    obs, arrived, playing = env.reset(), np.zeros(8, bool), np.ones(8, bool)
    for _ in range(400):
        step = env.step(policy(obs, rng))
        arrived |= playing & step.success
        playing &= ~step.terminal
        obs = step.next_obs
        if not playing.any():
            break
    assert arrived.sum() >= 6
