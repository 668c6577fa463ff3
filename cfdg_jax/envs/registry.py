"""Environments by name.

========================================= ================================================================
``hopper halfcheetah walker2d ant``       Gymnasium's ``-v4`` robots (`cfdg_jax.envs.locomotion`)
``antmaze-umaze antmaze-medium -large``   D4RL's AntMaze (`cfdg_jax.envs.antmaze`)
``door hammer pen relocate``              D4RL's Adroit hand (`cfdg_jax.envs.adroit`), extra ``adroit``
``toy-sparse toy-dense``                  a point mass that must go around a wall (`cfdg_jax.envs.toy`)
``gym:ID`` ``gym:ID?name=value``          any Gymnasium id with Box actions (`cfdg_jax.envs.gym_bridge`)
========================================= ================================================================
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cfdg_jax.envs import adroit, antmaze
from cfdg_jax.envs.dynamics import check_dynamics
from cfdg_jax.envs.gym_bridge import GymVecEnv, gym_spec
from cfdg_jax.envs.host import HostEnv
from cfdg_jax.envs.locomotion import ROBOTS, MujocoVecEnv, locomotion_spec
from cfdg_jax.envs.mjx import make_body, package_for
from cfdg_jax.envs.toy import make_toy
from cfdg_jax.errors import UserError, require
from cfdg_jax.types import Env, Spec

REFERENCE_RETURNS: dict[str, tuple[float, float]] = {
    "hopper": (-20.272305, 3234.3),
    "halfcheetah": (-280.178953, 12135.0),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "pen": (96.262799, 3076.8331017826877),
    "relocate": (-6.425911, 4233.877797728884),
}
"""D4RL's (minimum, maximum) return by environment family, of a random and an expert policy; see
docs/algorithms.md#scores."""


_TOYS = {"toy-sparse": make_toy("sparse"), "toy-dense": make_toy("dense")}
_GYM = "gym:"


def task_names() -> list[str]:
    """Ids of the built-in environments; ``gym:ID`` is understood besides."""
    return [*ROBOTS, *antmaze.TASKS, *adroit.TASKS, *_TOYS]


def spec_of(task: str, dynamics: str = "gymnasium", backend: str = "mujoco") -> Spec:
    """The `Spec` of `task` as `make_env` would build it; the same errors."""
    _check(task, dynamics, backend)
    if task in _TOYS:
        return _TOYS[task].spec
    if task.startswith(_GYM):
        return gym_spec(task.removeprefix(_GYM))
    if task in antmaze.TASKS:
        return antmaze.antmaze_spec(task, REFERENCE_RETURNS["antmaze"])
    if task in adroit.TASKS:
        return adroit.adroit_spec(task, REFERENCE_RETURNS[task])
    return locomotion_spec(task, dynamics, REFERENCE_RETURNS[task])


def make_env(
    task: str, seeds: Sequence[int], dynamics: str = "gymnasium", threads: int = 0, backend: str = "mujoco"
) -> Env:
    """Environments of `task`, one per seed in `seeds`.

    Args:
      task: An id of `task_names`, or ``gym:ID``.
      seeds: One non-negative seed per environment; environment i does what a single one of that seed does.
      dynamics: ``gymnasium`` or ``d4rl`` (`cfdg_jax.envs.dynamics`); the toys and the hand have one dynamics and
        ignore it.
      threads: Threads that step MuJoCo; 0 chooses by number of environments and cores.
      backend: What steps the robots: ``mujoco``, or ``mjx`` in JAX (`cfdg_jax.envs.mjx`).

    Raises:
      UserError: for unknown names, with the nearest valid ones, for Gymnasium environments not supported, and for a
        `backend` that the task does not have or that is not installed.
    """
    _check(task, dynamics, backend)
    if backend == "mjx":
        return HostEnv(make_body(task, dynamics, REFERENCE_RETURNS[task]), seeds)
    if task in _TOYS:
        return HostEnv(_TOYS[task], seeds)
    if task.startswith(_GYM):
        return GymVecEnv(task.removeprefix(_GYM), seeds)
    if task in antmaze.TASKS:
        return antmaze.AntMazeVecEnv(task, seeds, dynamics, threads, REFERENCE_RETURNS["antmaze"])
    if task in adroit.TASKS:
        return adroit.HandVecEnv(task, seeds, threads, REFERENCE_RETURNS[task])
    return MujocoVecEnv(task, seeds, dynamics, threads, REFERENCE_RETURNS[task])


def _check(task: str, dynamics: str, backend: str) -> None:
    check_dynamics(dynamics)
    if task.startswith(_GYM):
        require(dynamics == "gymnasium", "env.dynamics", f"is d4rl for {task}", f"only {', '.join(ROBOTS)} have it")
    elif task not in task_names():
        near = difflib.get_close_matches(task, task_names(), 3, 0.5) or [*task_names(), "gym:ID"]
        raise UserError("env.task", f"{task!r} is not known", f"choose {', '.join(near)}")
    if backend == "mjx":
        package_for(task)
