"""What the simulator says of a row: one step from an observation and an action, and whether the task has ended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cfdg_jax.envs.locomotion import ROBOTS, MujocoVecEnv, build_model

COPIES = 64
"""Simulators that work on a call at a time."""


def one_step(task: str, dynamics: str) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] | None:
    """``(obs [n, O], action [n, A]) -> (next_obs [n, O], reward [n])`` of a task, all in raw units.

    Returns:
      None where an observation does not determine the state: anything but the MuJoCo tasks.
    """
    if task not in ROBOTS:
        return None

    def simulate(obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        env = MujocoVecEnv(task, range(COPIES), dynamics)
        next_obs, reward = np.empty(obs.shape), np.empty(len(obs))
        try:
            for start in range(0, len(obs), COPIES):
                index = np.arange(start, start + COPIES).clip(max=len(obs) - 1)
                env.place(np.asarray(obs, np.float64)[index])
                result = env.step(np.asarray(action, np.float64)[index])
                next_obs[index], reward[index] = result.next_obs, result.reward
        finally:
            env.close()
        return next_obs, reward

    return simulate


def termination(task: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """``(obs [n, O]) -> [n]`` bool: whether the task ends where an observation, in raw units, says.

    Returns:
      None for tasks that never end by themselves, and where an observation does not determine the state.
    """
    if task not in ROBOTS or ROBOTS[task].healthy is None:
        return None
    robot = ROBOTS[task]
    healthy, positions = robot.healthy, build_model(task, "gymnasium")[0].nq - robot.hidden
    assert healthy is not None

    def ended(obs: np.ndarray) -> np.ndarray:
        qpos = np.concatenate([np.zeros((len(obs), robot.hidden)), obs[:, :positions]], axis=1)
        return ~healthy(qpos, obs[:, positions : robot.obs_dim])

    return ended
