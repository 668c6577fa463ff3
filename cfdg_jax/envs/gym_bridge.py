"""Any Gymnasium environment with a Box action space, by id."""

from __future__ import annotations

import difflib
import io
import pickle
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle

from cfdg_jax.envs.generators import check_seeds
from cfdg_jax.envs.gym_task import parse_task
from cfdg_jax.errors import UserError, require
from cfdg_jax.types import Spec, Step

_NOT_STATE = {"env", "spec", "_cached_spec", "model", "mujoco_renderer"}
"""Attributes that link environments to each other and to what their constructor makes."""


def gym_spec(gym_id: str) -> Spec:
    """The `Spec` of a Gymnasium id, from an environment made and stepped once for it; `UserError` as `GymVecEnv`."""
    env, spec = _make(gym_id)
    try:
        _try_a_step(env, spec, f"gym:{gym_id}")
    finally:
        env.close()
    return spec


class GymVecEnv:
    """`cfdg_jax.types.Env` over copies of ``gymnasium.make(gym_id)``, stepped one after the other.

    Actions in [-1, 1] are mapped linearly onto the Box, and rounded where it holds integers. Observations, a Box or a
    Dict of Boxes, are flattened as `gymnasium.spaces.flatten` does. `success` is what an environment reports as
    ``info["success"]`` or ``info["is_success"]``. The first `reset` of environment i is ``reset(seed=seeds[i])``, later
    ones carry on.

    Args:
      gym_id: A registered id with a time limit, with settings or without; see `cfdg_jax.envs.gym_task`.
      seeds: One non-negative seed per environment.

    Raises:
      UserError: for an unknown id, one whose requirements are missing, one without a time limit, with spaces other
        than those above, or that does not follow Gymnasium's API.
    """

    def __init__(self, gym_id: str, seeds: Sequence[int]):
        self._gym_id = gym_id
        self._seeds = check_seeds(seeds)
        self.num = len(self._seeds)
        self.spec = gym_spec(gym_id)
        self._envs = [_make(gym_id)[0] for _ in self._seeds]
        box: Any = self._envs[0].action_space
        self._low, self._high = box.low.astype(np.float64), box.high.astype(np.float64)
        self._obs = np.zeros((self.num, self.spec.obs_dim))
        self._started = np.zeros(self.num, bool)

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes where `mask` `[num]` is True (everywhere by default); returns observations `[num, O]`."""
        for i in range(self.num) if mask is None else np.flatnonzero(mask):
            seed = None if self._started[i] else self._seeds[i]
            self._obs[i] = self._flat(self._envs[i].reset(seed=seed)[0])
            self._started[i] = True
        return self._obs.copy()

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]`, clipped to [-1, 1]."""
        native = self._native(action)
        reward = np.zeros(self.num)
        terminal, truncated, success = np.zeros((3, self.num), bool)
        for i, env in enumerate(self._envs):
            obs, reward[i], terminal[i], truncated[i], info = env.step(native[i])
            self._obs[i] = self._flat(obs)
            success[i] = bool(info.get("success", info.get("is_success", False)))
        return Step(self._obs.copy(), reward, terminal, truncated, success)

    def _native(self, action: np.ndarray) -> np.ndarray:
        """`action` `[num, A]` in the Box's own units and type, `[num, ...]`."""
        share = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
        native = self._low + share.reshape(self.num, *self._low.shape) * (self._high - self._low)
        dtype = self._envs[0].action_space.dtype
        return (np.rint(native) if np.issubdtype(dtype, np.integer) else native).astype(dtype)

    def _flat(self, obs: Any) -> np.ndarray:
        return np.asarray(spaces.flatten(self._envs[0].observation_space, obs))

    def get_state(self) -> dict[str, np.ndarray]:
        """The state from which `set_state` continues.

        It is what each environment and its wrappers hold as Python attributes, generators and MuJoCo's data included,
        pickled. A simulator that cannot be pickled, such as Box2D's, cannot be saved.

        Returns:
          ``obs`` `[num, O]`, ``started`` `[num]`, and ``simulators`` `[bytes]` uint8, a compressed pickle.

        Raises:
          UserError: if an environment cannot be saved.
        """
        attributes = [[_attributes(layer) for layer in _layers(env)] for env in self._envs]
        pickled = io.BytesIO()
        try:
            _AttributePickler(pickled).dump(attributes)
        except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError) as error:
            problem = f"the simulator of gym:{self._gym_id} cannot be saved ({error})"
            raise UserError("env.task", problem, "a run of it cannot be resumed") from error
        compressed = np.frombuffer(zlib.compress(pickled.getvalue(), level=1), np.uint8)
        return {"obs": self._obs.copy(), "started": self._started.copy(), "simulators": compressed}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned. It unpickles: only for states from a source you trust."""
        expected, found = self._obs.shape, np.shape(state["obs"])
        require(found == expected, "environment state", f"holds observations of shape {found}", f"needs {expected}")
        self._obs = np.array(state["obs"], np.float64)
        self._started = np.array(state["started"], bool)
        saved = pickle.loads(zlib.decompress(np.asarray(state["simulators"], np.uint8).tobytes()))
        for env, layers in zip(self._envs, saved, strict=True):
            for layer, attributes in zip(_layers(env), layers, strict=True):
                data = attributes.get("data")
                if isinstance(data, mujoco.MjData):
                    mujoco.mj_copyData(layer.data, layer.model, attributes.pop("data"))
                vars(layer).update(attributes)

    def close(self) -> None:
        """Closes the environments."""
        for env in self._envs:
            env.close()


def _make(gym_id: str) -> tuple[gymnasium.Env, Spec]:
    """An environment and its `Spec`, or a `UserError` that says what is not supported."""
    name = f"gym:{gym_id}"
    known_as, settings = parse_task(gym_id)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env = gymnasium.make(known_as, disable_env_checker=True, **settings)
    except (gymnasium.error.NameNotFound, gymnasium.error.NamespaceNotFound) as error:
        near = [f"gym:{other}" for other in difflib.get_close_matches(known_as, gymnasium.registry, 3, 0.5)]
        remedy = f"choose {', '.join(near or ['an id that gymnasium.registry holds'])}"
        raise UserError("env.task", f"{name!r} is not known", remedy) from error
    except Exception as error:  # its constructor may raise anything
        remedy = "check its settings and what it requires"
        raise UserError("env.task", f"{name!r} cannot be made ({error or type(error).__name__})", remedy) from error
    box, observed = env.action_space, env.observation_space
    bounded = isinstance(box, spaces.Box) and np.isfinite([box.low, box.high]).all()
    require(bool(bounded), "env.task", f"{name} has the action space {box}", "only a bounded Box is supported")
    parts = observed.spaces.values() if isinstance(observed, spaces.Dict) else [observed]
    require(
        all(isinstance(part, spaces.Box) for part in parts),
        "env.task",
        f"{name} has the observation space {observed}",
        "only a Box or a Dict of Boxes is supported",
    )
    horizon = env.spec.max_episode_steps if env.spec else None
    if horizon is None:
        raise UserError("env.task", f"{name} has no time limit", "register it with max_episode_steps")
    return env, Spec(spaces.flatdim(observed), spaces.flatdim(box), horizon)


def _try_a_step(env: gymnasium.Env, spec: Spec, name: str) -> None:
    """Raises `UserError` unless `env` starts and steps as Gymnasium's API has it."""
    box: Any = env.action_space
    middle = ((box.low.astype(np.float64) + box.high) / 2).astype(box.dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first, _ = env.reset(seed=0)
            second, reward, terminated, truncated, _ = env.step(middle)
        widths = {len(np.asarray(spaces.flatten(env.observation_space, obs))) for obs in (first, second)}
        float(reward), bool(terminated), bool(truncated)
    except Exception as error:
        problem = f"{name} does not follow Gymnasium's API ({str(error) or type(error).__name__})"
        remedy = "reset returns observation, info; step observation, reward, terminated, truncated, info"
        raise UserError("env.task", problem, remedy) from error
    found = f"{name} gives observations of width {max(widths)}, but its space has {spec.obs_dim}"
    require(widths == {spec.obs_dim}, "env.task", found, "correct the environment's observation_space")


def _layers(env: gymnasium.Env) -> list[Any]:
    """The wrappers from the outside in, then the environment itself."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return layers


def _attributes(layer: gymnasium.Env) -> dict[str, Any]:
    return {name: value for name, value in vars(layer).items() if name not in _NOT_STATE}


class _AttributePickler(pickle.Pickler):
    """Refuses environments inside attributes: many pickle as their constructor's arguments, without their state."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, gymnasium.Env | EzPickle):
            raise pickle.PicklingError(f"{type(obj).__name__} pickles without its state")
        return NotImplemented
