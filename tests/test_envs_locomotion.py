"""The robots against Gymnasium's own ``-v4`` environments, saving and restoring, and what users may get wrong."""

import io

import gymnasium
import numpy as np
import pytest

from cfdg_jax.envs.dynamics import quiet_models
from cfdg_jax.envs.locomotion import ROBOTS, MujocoVecEnv, build_model
from cfdg_jax.errors import UserError
from cfdg_jax.types import Env

TASKS = list(ROBOTS)


def gymnasium_envs(task, count):
    with quiet_models():
        return [gymnasium.make(ROBOTS[task].gym_id) for _ in range(count)]


def actions(task, steps, num, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, num, ROBOTS[task].act_dim)).astype(dtype)


def rollout(env, plan):
    """Steps through `plan` `[T, num, A]`, resetting ended episodes: observations, rewards, endings."""
    rows = []
    for action in plan:
        step = env.step(action)
        ended = step.terminal | step.truncated
        obs = env.reset(ended) if ended.any() else step.next_obs
        rows.append((step.next_obs, step.reward, step.terminal, step.truncated, obs))
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_dynamics_equal_gymnasium(task, dtype):
    """1,000 steps of 3 environments, resets included, in a loop and in a pool of threads."""
    seeds, steps = [3, 11, 0], 1000 if dtype == np.float64 else 200
    theirs = gymnasium_envs(task, len(seeds))
    loop, pool = MujocoVecEnv(task, seeds, threads=1), MujocoVecEnv(task, seeds, threads=2)
    start = np.stack([env.reset(seed=seed)[0] for env, seed in zip(theirs, seeds, strict=True)])
    np.testing.assert_array_equal(loop.reset(), start)
    np.testing.assert_array_equal(pool.reset(), start)
    endings = 0
    for action in actions(task, steps, len(seeds), dtype=dtype):
        results = [env.step(a) for env, a in zip(theirs, action, strict=True)]
        obs, reward, terminal, truncated = (np.stack([result[i] for result in results]) for i in range(4))
        for step in (loop.step(action), pool.step(action)):
            np.testing.assert_allclose(step.next_obs, obs, rtol=0, atol=1e-10)
            np.testing.assert_allclose(step.reward, reward, rtol=0, atol=1e-10)
            np.testing.assert_array_equal(step.terminal, terminal)
            np.testing.assert_array_equal(step.truncated, truncated)
        ended = terminal | truncated
        endings += ended.sum()
        if ended.any():
            fresh_loop, fresh_pool = loop.reset(ended), pool.reset(ended)
            for i in range(len(seeds)):
                expected = theirs[i].reset()[0] if ended[i] else obs[i]
                np.testing.assert_allclose(fresh_loop[i], expected, rtol=0, atol=1e-10)
                np.testing.assert_allclose(fresh_pool[i], expected, rtol=0, atol=1e-10)
    assert endings >= len(seeds) or steps < 1000


@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_dynamics_leave_the_model_alone(task):
    (theirs,) = gymnasium_envs(task, 1)
    model, frame_skip, _ = build_model(task, "gymnasium")
    assert frame_skip == theirs.unwrapped.frame_skip
    for field in ("body_mass", "body_inertia", "body_ipos", "geom_margin", "geom_gap", "dof_invweight0"):
        np.testing.assert_array_equal(getattr(model, field), getattr(theirs.unwrapped.model, field))


@pytest.mark.parametrize("dynamics", ["gymnasium", "d4rl"])
@pytest.mark.parametrize("task", TASKS)
def test_shapes_and_types(task, dynamics):
    env = MujocoVecEnv(task, [1, 2], dynamics)
    assert isinstance(env, Env) and env.num == 2
    obs = env.reset()
    step = env.step(np.zeros((2, env.spec.act_dim)))
    assert obs.shape == step.next_obs.shape == (2, env.spec.obs_dim)
    assert obs.dtype == step.next_obs.dtype == step.reward.dtype == np.float64
    assert step.reward.shape == (2,)
    assert step.terminal.dtype == step.truncated.dtype == step.success.dtype == bool
    assert env.spec.terminates == (task != "halfcheetah")
    if task == "ant":
        assert env.spec.obs_dim == (111 if dynamics == "d4rl" else 27)
        assert not np.any(step.next_obs[:, 27:])


def test_an_environment_among_many_is_the_single_one_of_its_seed():
    seeds, plan = [5, 9, 5, 123456789012], actions("hopper", 60, 4)
    plan[:, 2] = plan[:, 0]
    many = MujocoVecEnv("hopper", seeds)
    many.reset()
    together = rollout(many, plan)
    for i, seed in enumerate(seeds):
        single = MujocoVecEnv("hopper", [seed])
        single.reset()
        for whole, alone in zip(together, rollout(single, plan[:, i : i + 1]), strict=True):
            np.testing.assert_array_equal(whole[:, i], alone[:, 0])
    np.testing.assert_array_equal(together[0][:, 0], together[0][:, 2])
    assert np.abs(together[0][0, 0] - together[0][0, 1]).max() > 1e-4


@pytest.mark.parametrize(
    ("task", "dynamics"), [(t, "gymnasium") for t in TASKS] + [("hopper", "d4rl"), ("ant", "d4rl")]
)
def test_restored_state_continues_bit_for_bit(task, dynamics):
    """In the same object and in another of other seeds, in a pool of threads, from arrays that went through a file."""
    before, after = actions(task, 130, 2), actions(task, 260, 2, seed=1)
    env = MujocoVecEnv(task, [1, 2], dynamics)
    env.reset()
    rollout(env, before)
    file = io.BytesIO()
    np.savez(file, **env.get_state())
    file.seek(0)
    saved = dict(np.load(file, allow_pickle=False))
    expected = rollout(env, after)
    expected_reset = env.reset()
    other = MujocoVecEnv(task, [7, 8], dynamics, threads=2)
    for again in (env, other):
        again.set_state(saved)
        for found, wanted in zip(rollout(again, after), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(again.reset(), expected_reset)
    if task == "hopper":
        assert expected[2].sum() > 2, "resets must lie within what was compared"


def test_restored_state_shows_the_same_observation():
    env = MujocoVecEnv("walker2d", [1])
    env.reset()
    last = env.step(np.ones((1, 6))).next_obs
    other = MujocoVecEnv("walker2d", [2])
    other.set_state(env.get_state())
    np.testing.assert_array_equal(other.reset(np.zeros(1, bool)), last)


def test_time_limit_truncates_and_nothing_resets_by_itself():
    env = MujocoVecEnv("halfcheetah", [0, 1])
    env.reset()
    env.set_state({**env.get_state(), "elapsed": np.array([998, 5])})
    first, second, third = (env.step(np.full((2, 6), 0.3)) for _ in range(3))
    assert not first.truncated.any()
    np.testing.assert_array_equal(second.truncated, [True, False])
    np.testing.assert_array_equal(third.truncated, [True, False])
    assert not second.terminal.any()
    moved = np.abs(third.next_obs - second.next_obs).max(axis=1)
    assert (moved < 5).all() and np.abs(env.reset(np.array([True, False]))[0] - third.next_obs[0]).max() > 0.1


def test_reset_touches_only_what_is_asked():
    env = MujocoVecEnv("hopper", [0, 1, 2])
    env.reset()
    obs = env.step(actions("hopper", 1, 3)[0]).next_obs
    after = env.reset(np.array([False, True, False]))
    np.testing.assert_array_equal(after[[0, 2]], obs[[0, 2]])
    assert (after[1] != obs[1]).any()


def test_actions_are_clipped():
    wild, tame = MujocoVecEnv("hopper", [0]), MujocoVecEnv("hopper", [0])
    wild.reset(), tame.reset()
    a, b = wild.step(np.array([[3.0, -9.0, 0.5]])), tame.step(np.array([[1.0, -1.0, 0.5]]))
    np.testing.assert_array_equal(a.next_obs, b.next_obs)
    np.testing.assert_array_equal(a.reward, b.reward)


def test_building_prints_and_leaves_nothing(tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    build_model.__wrapped__("halfcheetah", "d4rl")
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert not [warning for warning in recwarn if "out of date" in str(warning.message)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MujocoVecEnv("hopper", []), "seeds: is empty"),
        (lambda: MujocoVecEnv("hopper", [1, -2]), "seeds: holds -2"),
        (lambda: MujocoVecEnv("hopper", [1], threads=-1), "threads: is -1"),
        (lambda: MujocoVecEnv("hopper", [1], "mujoco"), "env.dynamics: is 'mujoco'; choose gymnasium or d4rl"),
        (
            lambda: MujocoVecEnv("hopper", [1]).set_state(MujocoVecEnv("hopper", [1, 2]).get_state()),
            "environment state: holds simulators of shape (2,",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value).startswith(message)
