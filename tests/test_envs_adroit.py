"""The door against D4RL's own demonstrations and against the maintained package's environment."""

import h5py
import numpy as np
import pytest

from cfdg_jax.envs import adroit
from cfdg_jax.envs.registry import make_env, spec_of
from cfdg_jax.errors import UserError
from cfdg_jax.types import Env


@pytest.fixture
def robotics():
    return pytest.importorskip("gymnasium_robotics", reason="the extra adroit is not installed")


@pytest.fixture(scope="module")
def demonstrations(data_dir):
    """The columns of D4RL's file, and where its 25 demonstrations begin."""
    with h5py.File(data_dir / "d4rl" / "door-v0_demos_clipped.hdf5") as file:
        columns = {name: file[name][:] for name in ("observations", "actions", "rewards", "terminals", "infos/qvel")}
    return columns, np.concatenate([[0], np.flatnonzero(columns["terminals"])[:-1] + 1])


def test_replaying_the_demonstrations_gives_their_observations_and_rewards(robotics, demonstrations):
    columns, starts = demonstrations
    assert len(starts) == 25
    env = make_env("door", range(25))
    env.place_start(columns["observations"][starts].astype(np.float64))
    for t in range(20):
        step = env.step(columns["actions"][starts + t])
        expected = columns["observations"][starts + t + 1]
        errors = np.abs(step.next_obs - expected).max(axis=1)
        assert errors.max() < 5e-7 and (errors < 3e-7).mean() > 0.9, f"after {t + 1} steps"
        assert np.abs(step.reward - columns["rewards"][starts + t]).max() < 1e-6, f"at step {t}"


def test_rewards_of_whole_demonstrations(demonstrations):
    """The recorded reward is that of the state reached."""
    columns, _ = demonstrations
    inside = np.flatnonzero(~columns["terminals"])
    reached = (columns[name][inside + 1].astype(np.float64) for name in ("observations", "infos/qvel"))
    assert np.abs(adroit.door_reward(*reached) - columns["rewards"][inside]).max() < 1e-6


def test_it_is_the_packages_door_but_for_the_reward(robotics):
    from gymnasium_robotics.envs.adroit_hand.adroit_door import AdroitHandDoorEnv

    theirs, ours = AdroitHandDoorEnv(), make_env("door", [7])
    assert isinstance(ours, Env)
    np.testing.assert_array_equal(ours.reset()[0], theirs.reset(seed=7)[0])
    for action in np.random.default_rng(0).uniform(-1, 1, (30, 28)):
        step, (obs, _, _, _, info) = ours.step(action[None]), theirs.step(action)
        np.testing.assert_allclose(step.next_obs[0], obs, rtol=0, atol=1e-12)
        assert step.success[0] == info["success"] and not step.terminal[0]
    np.testing.assert_array_equal(ours.reset()[0], theirs.reset()[0])


def test_200_steps_a_try_and_reference_scores():
    spec = spec_of("door", "d4rl")
    assert (spec.obs_dim, spec.act_dim, spec.horizon, spec.terminates) == (39, 28, 200, False)
    assert spec.reference == pytest.approx((-56.512833, 2880.5693))


def test_the_time_limit(robotics):
    env = make_env("door", [0])
    env.reset()
    ends = [bool(env.step(np.zeros((1, 28))).truncated[0]) for _ in range(200)]
    assert ends == [False] * 199 + [True]


def test_restored_states_and_threads_give_the_same_bits(robotics):
    plan = np.random.default_rng(1).uniform(-1, 1, (6, 5, 28))
    loop, pool = (make_env("door", range(5), threads=threads) for threads in (1, 2))
    loop.reset()
    for action in plan[:3]:
        loop.step(action)
    pool.reset()
    pool.set_state(loop.get_state())
    for action in plan[3:]:
        ours, theirs = loop.step(action), pool.step(action)
        np.testing.assert_array_equal(ours.next_obs, theirs.next_obs)
        np.testing.assert_array_equal(ours.reward, theirs.reward)
    np.testing.assert_array_equal(loop.reset(), pool.reset())


def test_without_the_package_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "gymnasium_robotics.envs.adroit_hand.adroit_door", None)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    adroit.build_model.cache_clear()
    with pytest.raises(UserError, match=r"gymnasium-robotics.*cfdg-jax\[adroit\]"):
        make_env("door", [0])
