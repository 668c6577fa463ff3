"""Gymnasium environments by id, and the registry of names."""

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils import EzPickle

from cfdg_jax.envs import adroit
from cfdg_jax.envs.gym_bridge import GymVecEnv
from cfdg_jax.envs.gym_task import parse_task, task_of_spec
from cfdg_jax.envs.registry import REFERENCE_RETURNS, make_env, spec_of, task_names
from cfdg_jax.errors import UserError
from cfdg_jax.types import Env


class Lamp(gymnasium.Env):
    """Sums lopsided 2 x 2 actions; succeeds above 10. Attributes to test saving come through `burden`."""

    observation_space = spaces.Dict({"sum": spaces.Box(-99, 99, (2, 2)), "age": spaces.Box(0, 99, (1,), np.int64)})
    action_space = spaces.Box(np.float32([[-1, 0], [2, -3]]), np.float32([[1, 4], [3, 3]]))

    def __init__(self, burden=None, action_space=None, observation_space=None):
        self.burden = burden() if burden else None
        self.action_space = action_space or self.action_space
        self.observation_space = observation_space or self.observation_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sum, self.age = self.np_random.uniform(-1, 1, (2, 2)), 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.sum, self.age = self.sum + action + self.np_random.normal(size=(2, 2)) * 0.01, self.age + 1
        lit = bool(self.sum.sum() > 10)
        return self._obs(), float(self.sum[0, 0]), lit, False, {"is_success": lit}

    def _obs(self):
        return {"sum": self.sum.astype(np.float32), "age": np.array([self.age])}


class OldReset(Lamp):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class OldStep(Lamp):
    def step(self, action):
        return super().step(action)[:4]


class Wider(Lamp):
    def _obs(self):
        return {"sum": np.zeros((2, 3), np.float32), "age": np.array([self.age])}


class Valve(gymnasium.Env):
    """Remembers which of its four settings arrive, and what it was made with."""

    observation_space = spaces.Box(-99, 99, (1,))
    action_space = spaces.Box(0, 3, (1,), np.int64)

    def __init__(self, scale=1.0, name="valve"):
        self.scale, self.name, self.seen = scale, name, []

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.seen.append(int(action[0]))
        return np.zeros(1, np.float32), self.scale * self.seen[-1], False, False, {}


class Remade(Lamp, EzPickle):
    def __init__(self):
        EzPickle.__init__(self)
        Lamp.__init__(self)


@pytest.fixture(scope="module", autouse=True)
def registered():
    variants = {
        "Lamp-v0": {},
        "LampGenerator-v0": {"burden": lambda: (i for i in range(3))},
        "LampInside-v0": {"burden": Remade},
        "LampUnbounded-v0": {"action_space": spaces.Box(-np.inf, np.inf, (1,))},
        "LampDiscrete-v0": {"observation_space": spaces.Dict({"a": spaces.Discrete(3)})},
        "LampEndless-v0": {},
    }
    for name, kwargs in variants.items():
        limit = None if "Endless" in name else 6
        gymnasium.register(name, lambda kw=kwargs: Lamp(**kw), max_episode_steps=limit)
    others = {f"{kind.__name__}-v0": kind for kind in (OldReset, OldStep, Wider, Valve)}
    for name, kind in others.items():
        gymnasium.register(name, kind, max_episode_steps=6)
    yield
    for name in (*variants, *others):
        del gymnasium.registry[name]


def plan(env, steps, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, env.num, env.spec.act_dim)).astype(np.float32)


@pytest.mark.parametrize(("gym_id", "scale"), [("Pendulum-v1", 2.0), ("MountainCarContinuous-v0", 1.0)])
def test_bridge_equals_gymnasium(gym_id, scale):
    """Over a time limit and the resets after it."""
    seeds = [3, 8]
    env, theirs = make_env(f"gym:{gym_id}", seeds), [gymnasium.make(gym_id) for _ in seeds]
    assert isinstance(env, Env) and env.spec.horizon == theirs[0].spec.max_episode_steps
    np.testing.assert_array_equal(env.reset(), [e.reset(seed=s)[0] for e, s in zip(theirs, seeds, strict=True)])
    truncations = 0
    for action in plan(env, env.spec.horizon + 30):
        step = env.step(action)
        wanted = [e.step(a * np.float32(scale)) for e, a in zip(theirs, action, strict=True)]
        np.testing.assert_allclose(step.next_obs, [w[0] for w in wanted], atol=1e-5)
        np.testing.assert_allclose(step.reward, [w[1] for w in wanted], atol=1e-5)
        np.testing.assert_array_equal(step.terminal, [w[2] for w in wanted])
        np.testing.assert_array_equal(step.truncated, [w[3] for w in wanted])
        truncations += step.truncated.sum()
        if step.truncated.any():
            assert step.truncated.all() and not step.terminal.any()
            np.testing.assert_array_equal(env.reset(step.truncated), [e.reset()[0] for e in theirs])
    assert truncations == 2


def test_spaces_are_flattened_and_rescaled():
    env = make_env("gym:Lamp-v0", [0, 1])
    assert (env.spec.obs_dim, env.spec.act_dim, env.spec.horizon) == (5, 4, 6)
    start = env.reset()
    np.testing.assert_array_equal(start[:, 0], 0)  # Dict entries in the order of their names: age, sum
    low, high = env.step(np.full((2, 4), -1.0)).next_obs, env.step(np.full((2, 4), 7.0)).next_obs
    np.testing.assert_allclose(low[:, 1:] - start[:, 1:], [[-1, 0, 2, -3]] * 2, atol=0.1)
    np.testing.assert_allclose(high[:, 1:] - low[:, 1:], [[1, 4, 3, 3]] * 2, atol=0.1)


def test_every_whole_number_of_a_box_is_reached():
    env = GymVecEnv("Valve-v0", [0])
    inner = env._envs[0].unwrapped
    env.reset()
    for action in [-1.0, -0.9, -1 / 3, 1 / 3, 0.9, 1.0]:
        env.step(np.array([[action]], np.float32))
    assert inner.seen == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", (1.0, "valve", 6)), ("?scale=2.5&max_episode_steps=9", (2.5, "valve", 9)), ("?name=a%26b", (1.0, "a&b", 6))],
)
def test_settings_reach_the_environment(query, expected):
    env = make_env(f"gym:Valve-v0{query}", [0, 1])
    for made in env._envs:
        assert (made.unwrapped.scale, made.unwrapped.name, env.spec.horizon) == expected
    env.reset()
    assert env.step(np.ones((2, 1))).reward.tolist() == [3 * expected[0]] * 2
    truncated = [env.step(np.ones((2, 1))).truncated.all() for _ in range(1, expected[2])]
    assert truncated == [False] * (expected[2] - 2) + [True]


def test_a_spec_and_its_task_make_the_same():
    settings = {"scale": 0.5, "name": "x y&z=[1]"}
    spec = gymnasium.make("Valve-v0", max_episode_steps=4, **settings).spec
    task = task_of_spec(spec)
    assert parse_task(task) == ("Valve-v0", settings | {"max_episode_steps": 4})
    assert task_of_spec(gymnasium.make("Valve-v0").spec) == "Valve-v0"
    elsewhere = gymnasium.envs.registration.EnvSpec("Lab-v0", "labenv.parts:Lab", max_episode_steps=5)
    assert task_of_spec(elsewhere) == "labenv:Lab-v0?max_episode_steps=5"
    spec.kwargs["name"] = Valve
    with pytest.raises(ValueError, match="Valve-v0 with settings that are no plain values"):
        task_of_spec(spec)


@pytest.mark.parametrize("library", ["osmesa", "nonsense"])
def test_a_rendering_library_that_is_missing_stops_nothing(library):
    """MuJoCo imports what MUJOCO_GL names, though nothing here renders; the variable stays as it was."""
    code = "import os; from cfdg_jax.envs import dynamics; print(os.environ['MUJOCO_GL'], dynamics.mujoco.__version__)"
    ran = subprocess.run([sys.executable, "-c", code], env=os.environ | {"MUJOCO_GL": library}, capture_output=True)
    assert ran.returncode == 0 and ran.stdout.decode().split()[0] == library, ran.stderr.decode()


def test_success_end_and_time_limit_are_kept_apart():
    env = make_env("gym:Lamp-v0", [0, 1])
    env.reset()
    zero, one = np.zeros(4), np.ones(4)
    first, second = (env.step(np.stack([one, -one])) for _ in range(2))
    assert not first.terminal.any()
    for flags in (second.terminal, second.success):
        np.testing.assert_array_equal(flags, [True, False])
    env.reset(np.array([True, False]))
    last = [env.step(np.stack([-one, zero - 1])) for _ in range(4)][-1]
    np.testing.assert_array_equal(last.truncated, [False, True])
    assert not last.terminal.any() and not last.success.any()
    np.testing.assert_array_equal(last.next_obs[:, 0], [4, 6])


@pytest.mark.parametrize("gym_id", ["Pendulum-v1", "Lamp-v0", "Reacher-v4", "Hopper-v5"])
def test_restored_state_continues_bit_for_bit(gym_id):
    """Reacher-v4's reward reads positions of before the step, which no MuJoCo state vector holds."""
    env = GymVecEnv(gym_id, [1, 2])
    env.reset()
    for action in plan(env, 5):
        env.step(action)
    saved = env.get_state()
    assert all(type(value) is np.ndarray and value.dtype != object for value in saved.values())

    def go(env):
        steps = [env.step(action) for action in plan(env, 12, seed=1)]
        return [np.stack([getattr(step, name) for step in steps]) for name in ("next_obs", "reward")] + [env.reset()]

    expected = go(env)
    for again in (env, GymVecEnv(gym_id, [7, 8])):
        again.set_state(saved)
        np.testing.assert_array_equal(again.reset(np.zeros(2, bool)), saved["obs"])
        for found, wanted in zip(go(again), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("gym_id", "what"), [("LampGenerator-v0", "generator"), ("LampInside-v0", "Remade")])
def test_what_cannot_be_saved_says_so(gym_id, what):
    env = make_env(f"gym:{gym_id}", [0])
    env.reset()
    with pytest.raises(UserError, match=f"^env.task: the simulator of gym:{gym_id} cannot be saved .*{what}"):
        env.get_state()


@pytest.mark.parametrize(
    ("task", "dynamics", "message"),
    [
        ("gym:CartPole-v1", "gymnasium", "gym:CartPole-v1 has the action space Discrete(2); only a bounded Box"),
        ("gym:LampUnbounded-v0", "gymnasium", "only a bounded Box is supported"),
        ("gym:LampDiscrete-v0", "gymnasium", "only a Box or a Dict of Boxes is supported"),
        ("gym:LampEndless-v0", "gymnasium", "has no time limit; register it with max_episode_steps"),
        ("gym:Pendulun-v1", "gymnasium", "'gym:Pendulun-v1' is not known; choose gym:Pendulum-v1"),
        ("gym:Pendulum-v77", "gymnasium", "'gym:Pendulum-v77' cannot be made"),
        ("gym:Pendulum-v1?g=1&h=2", "gymnasium", "cannot be made (PendulumEnv.__init__() got an unexpected keyword"),
        ("gym:OldReset-v0", "gymnasium", "gym:OldReset-v0 does not follow Gymnasium's API"),
        ("gym:OldStep-v0", "gymnasium", "Gymnasium's API (not enough values to unpack (expected 5, got 4))"),
        ("gym:Wider-v0", "gymnasium", "gives observations of width 7, but its space has 5; correct the environment's"),
        ("gym:Pendulum-v1", "d4rl", "env.dynamics: is d4rl for gym:Pendulum-v1"),
        ("hoper", "gymnasium", "env.task: 'hoper' is not known; choose hopper"),
        (
            "xyz",
            "gymnasium",
            "antmaze-umaze, antmaze-medium, antmaze-large, door, hammer, pen, relocate, toy-sparse",
        ),
        ("hopper", "mujoco", "env.dynamics: is 'mujoco'; choose gymnasium or d4rl"),
    ],
)
def test_refusals(task, dynamics, message):
    for ask in (lambda: spec_of(task, dynamics), lambda: make_env(task, [0], dynamics)):
        with pytest.raises(UserError) as error:
            ask()
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("task", [*task_names(), "gym:Pendulum-v1"])
def test_spec_is_what_is_built(task):
    if task in adroit.TASKS:
        pytest.importorskip("gymnasium_robotics")
    for dynamics in ("gymnasium",) if task.startswith("gym") else ("gymnasium", "d4rl"):
        env = make_env(task, [0], dynamics, threads=1)
        assert env.spec == spec_of(task, dynamics)
        assert env.spec.reference == REFERENCE_RETURNS.get("antmaze" if task.startswith("antmaze") else task)
        assert env.reset().shape == (1, env.spec.obs_dim)
        assert env.step(np.zeros((1, env.spec.act_dim))).next_obs.shape == (1, env.spec.obs_dim)
        env.close()
