"""One step of the simulator from an observation and an action, to check generated rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cfdg_jax.envs.locomotion import ROBOTS, MujocoVecEnv

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
