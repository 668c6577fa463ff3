"""The hand against D4RL's own demonstrations, its experts, and the maintained package's environments."""

import h5py
import numpy as np
import pytest

from cfdg_jax.envs import adroit
from cfdg_jax.envs.adroit_tasks import door_reward, euler_angles
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
    assert np.abs(door_reward(*reached) - columns["rewards"][inside]).max() < 1e-6


PACKAGE = {"door": "Door", "hammer": "Hammer", "pen": "Pen", "relocate": "Relocate"}
GRASP = {
    "door": lambda obs: obs[35:38],
    "hammer": lambda obs: obs[33:36] - obs[36:39],
    "pen": lambda obs: np.zeros(3),
    "relocate": lambda obs: obs[30:33],
}
"""From the palm to what it should grasp: the package pays a tenth of its length, D4RL charges it."""


@pytest.mark.parametrize("task", adroit.TASKS)
def test_it_is_the_packages_but_for_the_reward_of_grasping(robotics, task):
    from gymnasium_robotics.envs import adroit_hand

    theirs, ours = getattr(adroit_hand, f"AdroitHand{PACKAGE[task]}Env")(), make_env(task, [7])
    assert isinstance(ours, Env)
    np.testing.assert_allclose(ours.reset()[0], theirs.reset(seed=7)[0], rtol=0, atol=1e-15)
    for action in np.random.default_rng(0).uniform(-1, 1, (30, ours.spec.act_dim)):
        step, (obs, reward, _, _, info) = ours.step(action[None]), theirs.step(action)
        np.testing.assert_allclose(step.next_obs[0], obs, rtol=0, atol=1e-12)
        assert step.reward[0] == pytest.approx(reward - 0.2 * np.linalg.norm(GRASP[task](obs)), abs=1e-12)
        assert step.success[0] == info["success"]
    np.testing.assert_allclose(ours.reset()[0], theirs.reset()[0], rtol=0, atol=1e-15)


def expert(data_dir, task):
    """The policy behind D4RL's expert set of a task; the formula is in the data's README."""
    with np.load(data_dir / "policies" / "dapg_adroit_policies.npz") as file:
        w = {name.split("/")[1]: file[name].astype(np.float64) for name in file.files if name.startswith(f"{task}/")}

    def act(obs):
        x = np.tanh((obs - w["in_shift"]) / (w["in_scale"] + 1e-8) @ w["w0"].T + w["b0"])
        x = np.tanh(x @ w["w1"].T + w["b1"]) @ w["w2"].T + w["b2"]
        return w["out_scale"] * x + w["out_shift"]

    return act


@pytest.mark.parametrize(("task", "low", "high"), [("hammer", 115, 140), ("pen", 60, 140), ("relocate", 90, 115)])
def test_d4rls_experts_score_here_as_in_their_sets(robotics, data_dir, task, low, high):
    """Cloned from D4RL's expert sets, policies score 126.8 (hammer), 109.7 (pen) and 107.6 (CORL's table)."""
    env, policy = make_env(task, range(6)), expert(data_dir, task)
    obs, total, playing = env.reset(), np.zeros(6), np.ones(6, bool)
    while playing.any():
        step = env.step(policy(obs))
        total += step.reward * playing
        playing &= ~(step.terminal | step.truncated)
        obs = step.next_obs
    env.close()
    worst, best = env.spec.reference
    assert low < 100 * (total.mean() - worst) / (best - worst) < high


def test_a_pen_that_falls_ends_the_try(robotics):
    env, rng = make_env("pen", range(6)), np.random.default_rng(0)
    env.reset()
    steps = [env.step(rng.uniform(-1, 1, (6, 24))) for _ in range(99)]
    fell = np.stack([step.next_obs[:, 26] < 0.075 for step in steps])
    ended = np.stack([step.terminal for step in steps])
    np.testing.assert_array_equal(ended, fell)
    assert 0 < ended.any(axis=0).sum() < 6 and env.spec.terminates


@pytest.mark.parametrize("task", adroit.TASKS)
def test_steps_do_not_depend_on_the_other_environments(robotics, task):
    one, many = make_env(task, [5]), make_env(task, [4, 5, 6])
    np.testing.assert_array_equal(one.reset()[0], many.reset()[1])
    action = np.random.default_rng(2).uniform(-1, 1, (3, one.spec.act_dim))
    for _ in range(3):
        alone, among = one.step(action[1:2]), many.step(action)
        np.testing.assert_array_equal(alone.next_obs[0], among.next_obs[1])
        assert alone.reward[0] == among.reward[1]


def test_angles_of_turns_about_three_axes():
    angles = np.random.default_rng(0).uniform(-1.5, 1.5, (200, 3))
    x, y, z = (np.eye(3)[None].repeat(200, 0) for _ in range(3))
    for turn, axis, angle in ((x, 0, angles[:, 0]), (y, 1, angles[:, 1]), (z, 2, angles[:, 2])):
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        turn[:, i, i] = turn[:, j, j] = np.cos(angle)
        turn[:, i, j], turn[:, j, i] = -np.sin(angle), np.sin(angle)
    np.testing.assert_allclose(euler_angles(x @ y @ z), angles, atol=1e-12)


@pytest.mark.parametrize(
    ("task", "shape", "reference"),
    [
        ("door", (39, 28, 200, False), (-56.512833, 2880.5693)),
        ("hammer", (46, 26, 200, False), (-274.856578, 12794.1348)),
        ("pen", (45, 24, 100, True), (96.262799, 3076.8331)),
        ("relocate", (39, 30, 200, False), (-6.425911, 4233.8778)),
    ],
)
def test_steps_a_try_and_reference_scores(task, shape, reference):
    spec = spec_of(task, "d4rl")
    assert (spec.obs_dim, spec.act_dim, spec.horizon, spec.terminates) == shape
    assert spec.reference == pytest.approx(reference)


def test_the_time_limit(robotics):
    env = make_env("door", [0])
    env.reset()
    ends = [bool(env.step(np.zeros((1, 28))).truncated[0]) for _ in range(200)]
    assert ends == [False] * 199 + [True]


@pytest.mark.parametrize("task", adroit.TASKS)
def test_restored_states_and_threads_give_the_same_bits(robotics, task):
    loop, pool = (make_env(task, range(5), threads=threads) for threads in (1, 2))
    plan = np.random.default_rng(1).uniform(-1, 1, (6, 5, loop.spec.act_dim))
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

    monkeypatch.setitem(sys.modules, "gymnasium_robotics.envs", None)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    adroit.build_model.cache_clear()
    with pytest.raises(UserError, match=r"gymnasium-robotics.*cfdg-jax\[adroit\]"):
        make_env("door", [0])
