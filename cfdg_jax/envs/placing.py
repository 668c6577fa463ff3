"""Puts recorded rows into an environment and steps it: what `cfdg_jax.envs.agreement` compares."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from cfdg_jax.envs import adroit, antmaze, toy
from cfdg_jax.envs.adroit_tasks import HAND_TASKS
from cfdg_jax.envs.locomotion import ROBOTS, MujocoVecEnv

_COPIES = 64
_OPEN_LOOP = 20
"""Steps that a demonstration is followed from its beginning."""
_LAGGING_REWARD = 0.2
"""Tolerance of a reward that counts from a place which a recording does not hold (Ant)."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """What the environment did from recorded states.

    Attributes:
      rows: `[n]` which rows of the data.
      next_obs: `[n, O]`.
      reward: `[n]`, or None where the observation does not determine it.
      terminal: `[n]` bool, or None where it does not.
      reward_tolerance: Largest difference of rewards that agree.
      notes: What is not compared, and why.
    """

    rows: np.ndarray
    next_obs: np.ndarray
    reward: np.ndarray | None
    terminal: np.ndarray | None
    reward_tolerance: float = 1e-3
    notes: tuple[str, ...] = ()

    def comparable(self, data: Any) -> np.ndarray:
        """`[n]` rows whose next observation is the one that followed: at an end some files only repeat the own."""
        repeated = (data.observations[self.rows] == data.next_observations[self.rows]).all(axis=1)
        return ~(data.ends[self.rows] & repeated)


def can_place(task: str) -> str:
    """Empty, or why rows of `task` cannot be put into its environment."""
    if task in ROBOTS or task in antmaze.TASKS or task in adroit.TASKS or task in toy.TASKS:
        return ""
    return "its environment cannot be put into a recorded state" if task else "the data do not name an environment"


def place_rows(task: str, dynamics: str, data: Any, count: int, shift: int = 0) -> Placed:
    """Steps the environment from `count` rows spread over `data`, with the action `shift` rows further on."""
    if task in adroit.TASKS:
        return _from_starts(task, data, count, shift)
    rows = _sample(task, data, count)
    rows = rows[(rows + shift >= 0) & (rows + shift < len(data.rewards))]
    obs, action = data.observations[rows].astype(np.float64), data.actions[rows + shift].astype(np.float64)
    if task in toy.TASKS:
        next_obs, reward, terminal = toy.step_from(task, obs, action)
        return Placed(rows, next_obs, reward, terminal)
    env: MujocoVecEnv | antmaze.AntMazeVecEnv
    in_maze = task in antmaze.TASKS
    env = (antmaze.AntMazeVecEnv if in_maze else MujocoVecEnv)(task, range(min(_COPIES, len(rows))), dynamics)
    next_obs, reward, terminal = np.empty(obs.shape), np.empty(len(rows)), np.empty(len(rows), bool)
    for start in range(0, len(rows), env.num):
        index = np.arange(start, start + env.num).clip(max=len(rows) - 1)
        env.place(obs[index])
        step = env.step(action[index])
        next_obs[index], reward[index], terminal[index] = step.next_obs, step.reward, step.terminal
    env.close()
    if in_maze:
        hidden = "rewards and terminals are not compared: the goal is not in the observation"
        return Placed(rows, next_obs, None, None, notes=(hidden,))
    lags = ROBOTS[task].tracked_body is not None
    notes = ("rewards are compared roughly: they count from a place that is not in the observation",) if lags else ()
    return Placed(rows, next_obs, reward, terminal, _LAGGING_REWARD if lags else 1e-3, notes)


def _sample(task: str, data: Any, count: int) -> np.ndarray:
    """Rows spread over the data, and a quarter as many terminal ones, none with a velocity cut at the limit."""
    good = np.ones(len(data.rewards), bool)
    if task in ROBOTS and np.isfinite(ROBOTS[task].velocity_limit):
        robot = ROBOTS[task]
        velocities = slice((robot.obs_dim - robot.hidden) // 2, robot.obs_dim)
        for obs in (data.observations, data.next_observations):
            good &= np.abs(obs[:, velocities]).max(axis=1) < robot.velocity_limit - 1e-4
    spread = lambda rows, n: rows[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)] if len(rows) else rows
    ordinary, last = np.flatnonzero(good & ~data.ends), np.flatnonzero(good & data.terminals)
    return np.sort(np.concatenate([spread(ordinary, count), spread(last, count // 4)]))


def _from_starts(task: str, data: Any, count: int, shift: int) -> Placed:
    """Follows demonstrations from their beginning for some steps."""
    starts = np.flatnonzero(np.concatenate([[True], data.ends[:-1]]))
    resting = np.abs(data.observations[starts, : HAND_TASKS[task].joints]).max(axis=1) < 1e-6
    lengths = np.diff(np.append(starts, len(data.rewards)))
    starts = starts[resting & (lengths > _OPEN_LOOP + 1)][: max(1, count // _OPEN_LOOP)]
    notes = (f"velocities are not in the observation: the first {_OPEN_LOOP} steps of {len(starts)} episodes replayed",)
    if not len(starts):
        return Placed(starts, np.empty((0, data.observations.shape[1])), None, None, notes=notes)
    env, first = adroit.HandVecEnv(task, range(len(starts))), max(0, -shift)
    env.place_start(data.observations[starts].astype(np.float64))
    rows, found, rewards = [], [], []
    for t in range(_OPEN_LOOP):
        step = env.step(data.actions[starts + t + (shift if t >= first else 0)].astype(np.float64))
        rows.append(starts + t)
        found.append(step.next_obs)
        rewards.append(step.reward)
    env.close()
    return Placed(np.concatenate(rows), np.concatenate(found), np.concatenate(rewards), None, notes=notes)
