"""Hopper, HalfCheetah, Walker2d and Ant as Gymnasium's ``-v4`` defines them, many at once in native threads.

Rewards, terminations and reset noise are Gymnasium 1.4's (``gymnasium/envs/mujoco/*_v4.py``), the family D4RL's
``-v2`` sets were logged in; ``-v5`` pays no alive bonus on the terminal step and changes Walker2d's feet. The model is
built by Gymnasium's own class, so the physics is the installed MuJoCo's, or with ``dynamics="d4rl"`` that of the
MuJoCo which logged D4RL (`cfdg_jax.envs.dynamics`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import mujoco
import numpy as np

from cfdg_jax.envs.dynamics import Advance, check_dynamics, quiet_models, restore_d4rl_dynamics
from cfdg_jax.envs.generators import check_seeds, make_generator, pack_generators, unpack_generators
from cfdg_jax.errors import require
from cfdg_jax.types import Spec, Step

_FULL_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_LOOP_UP_TO = 4  # environments that a plain loop steps at least as fast as two threads (measured; 5 are even)


def _hopper_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    state = np.concatenate([qpos[:, 2:], qvel], axis=1)
    return (np.abs(state) < 100).all(1) & (qpos[:, 1] > 0.7) & (np.abs(qpos[:, 2]) < 0.2)


def _walker2d_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    return (qpos[:, 1] > 0.8) & (qpos[:, 1] < 2.0) & (np.abs(qpos[:, 2]) < 1.0)


def _ant_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    finite = np.isfinite(qpos).all(1) & np.isfinite(qvel).all(1)
    return finite & (qpos[:, 2] >= 0.2) & (qpos[:, 2] <= 1.0)


@dataclasses.dataclass(frozen=True)
class Robot:
    """What sets one locomotion task apart.

    Attributes:
      gym_id: The Gymnasium environment whose model and frame skip are used.
      obs_dim: Observed positions and velocities.
      act_dim: ``A``.
      hidden: Leading coordinates of qpos left out of the observation (the root's place).
      control_cost: Weight of the squared action in the reward.
      alive_bonus: Reward of every step, the terminal one included.
      reset_noise: Scale of the noise on the initial state.
      gaussian_velocity: Whether initial velocities are normal rather than uniform.
      velocity_limit: Bound of observed velocities.
      healthy: ``(qpos [n, nq], qvel [n, nv]) -> [n]`` bool; an unhealthy state is terminal. None never terminates.
      tracked_body: Body whose position along x is rewarded, or None for the root coordinate. The position of a body
        lags the coordinates by one stage of the integrator, so for Ant the two differ.
      contact_zeros: Columns of contact forces in D4RL's observation, which its MuJoCo left at zero.
    """

    gym_id: str
    obs_dim: int
    act_dim: int
    hidden: int
    control_cost: float
    alive_bonus: float
    reset_noise: float
    gaussian_velocity: bool = False
    velocity_limit: float = np.inf
    healthy: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    tracked_body: str | None = None
    contact_zeros: int = 0


ROBOTS = {
    "hopper": Robot("Hopper-v4", 11, 3, 1, 1e-3, 1.0, 5e-3, velocity_limit=10.0, healthy=_hopper_healthy),
    "halfcheetah": Robot("HalfCheetah-v4", 17, 6, 1, 0.1, 0.0, 0.1, gaussian_velocity=True),
    "walker2d": Robot("Walker2d-v4", 17, 6, 1, 1e-3, 1.0, 5e-3, velocity_limit=10.0, healthy=_walker2d_healthy),
    "ant": Robot(
        "Ant-v4", 27, 8, 2, 0.5, 1.0, 0.1, gaussian_velocity=True, healthy=_ant_healthy, tracked_body="torso",
        contact_zeros=84,
    ),
}  # fmt: skip
HORIZON = 1000


def locomotion_spec(task: str, dynamics: str, reference: tuple[float, float] | None = None) -> Spec:
    """The `Spec` of a task in `ROBOTS`; Ant is observed with 84 more zeros under D4RL's dynamics."""
    check_dynamics(dynamics)
    robot = ROBOTS[task]
    obs_dim = robot.obs_dim + (robot.contact_zeros if dynamics == "d4rl" else 0)
    return Spec(obs_dim, robot.act_dim, HORIZON, terminates=robot.healthy is not None, reference=reference)


@functools.cache
def build_model(task: str, dynamics: str) -> tuple[mujoco.MjModel, int, Advance]:
    """A task's model, its simulator steps per environment step and what makes them.

    The model is the same object for the whole process: do not change it.
    """
    with quiet_models():
        env: Any = gymnasium.make(ROBOTS[task].gym_id).unwrapped
        advance = restore_d4rl_dynamics(env.model, env.fullpath) if dynamics == "d4rl" else mujoco.mj_step
        env.close()
    return env.model, env.frame_skip, advance


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class MujocoVecEnv:
    """`cfdg_jax.types.Env` for the tasks in `ROBOTS`, each environment with its own seed.

    Environment i draws its resets from a generator seeded as ``gymnasium.Env.reset(seed=seeds[i])`` seeds, so it lives
    through exactly what a single environment of that seed lives through. `Step` holds float64 arrays; `terminal` and
    `truncated` may both be True in the last step before the time limit. Call `reset` before the first `step`.

    Args:
      task: A key of `ROBOTS`.
      seeds: One non-negative seed per environment.
      dynamics: ``gymnasium`` leaves the model untouched, ``d4rl`` restores the dynamics that logged D4RL.
      threads: Threads that step the simulators; 0 chooses by number of environments and cores.
      reference: Passed on to `spec`.
    """

    def __init__(
        self,
        task: str,
        seeds: Sequence[int],
        dynamics: str = "gymnasium",
        threads: int = 0,
        reference: tuple[float, float] | None = None,
    ):
        require(threads >= 0, "threads", f"is {threads}", "must be 0 (choose) or more")
        seeds = check_seeds(seeds)
        self.spec = locomotion_spec(task, dynamics, reference)
        self.num = len(seeds)
        self._robot = ROBOTS[task]
        self._model, self._frame_skip, self._advance = build_model(task, dynamics)
        self._dt = self._model.opt.timestep * self._frame_skip
        self._padding = np.zeros((self.num, self.spec.obs_dim - self._robot.obs_dim))
        self._datas = [mujoco.MjData(self._model) for _ in seeds]
        self._generators = [make_generator(seed) for seed in seeds]
        self._elapsed = np.zeros(self.num, np.int64)
        self._x = np.zeros(self.num)
        self._bind_views()
        self._start_threads(threads)

    def _bind_views(self) -> None:
        """Keeps arrays that look into the simulators' memory; fetching them at every step costs more than reading."""
        self._qpos = [data.qpos for data in self._datas]
        self._qvel = [data.qvel for data in self._datas]
        self._ctrl = [data.ctrl for data in self._datas]
        if self._robot.tracked_body is None:
            self._place = [data.qpos[:1] for data in self._datas]
        else:
            self._place = [data.body(self._robot.tracked_body).xpos[:1] for data in self._datas]

    def _start_threads(self, threads: int) -> None:
        if threads == 0:
            threads = 1 if self.num <= _LOOP_UP_TO else _cores()
        threads = min(threads, self.num)
        bounds = np.linspace(0, self.num, threads + 1).astype(int)
        self._own_share, *self._shares = [range(low, high) for low, high in itertools.pairwise(bounds)]
        self._pool = ThreadPoolExecutor(threads - 1, "mujoco") if self._shares else None

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes where `mask` `[num]` is True (everywhere by default); returns observations `[num, O]`."""
        for i in range(self.num) if mask is None else np.flatnonzero(mask):
            self._reset_one(int(i))
        return self._observe(*self._coordinates())

    def _reset_one(self, i: int) -> None:
        robot, model, data, generator = self._robot, self._model, self._datas[i], self._generators[i]
        mujoco.mj_resetData(model, data)
        data.qpos += generator.uniform(-robot.reset_noise, robot.reset_noise, model.nq)
        if robot.gaussian_velocity:
            data.qvel += robot.reset_noise * generator.standard_normal(model.nv)
        else:
            data.qvel += generator.uniform(-robot.reset_noise, robot.reset_noise, model.nv)
        mujoco.mj_forward(model, data)
        self._x[i] = self._place[i][0]
        self._elapsed[i] = 0

    def place(self, obs: np.ndarray) -> None:
        """Puts the simulators where `obs` `[num, O]` says, the unobserved place of the root at 0, episodes new.

        Observed velocities are taken as they are: where one was clipped to the limit the true state is not known.
        """
        robot, model = self._robot, self._model
        for i, data in enumerate(self._datas):
            mujoco.mj_resetData(model, data)
            data.qpos[: robot.hidden] = 0.0
            data.qpos[robot.hidden :] = obs[i, : model.nq - robot.hidden]
            data.qvel[:] = obs[i, model.nq - robot.hidden : robot.obs_dim]
            mujoco.mj_forward(model, data)
            data.qacc_warmstart[:] = 0.0
            self._x[i] = self._place[i][0]
        self._elapsed[:] = 0

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]`, clipped to [-1, 1]."""
        action = np.clip(action, -1.0, 1.0)
        futures = [self._pool.submit(self._simulate, share, action) for share in self._shares] if self._pool else ()
        self._simulate(self._own_share, action)
        for future in futures:
            future.result()
        self._elapsed += 1
        qpos, qvel = self._coordinates()
        x = np.concatenate(self._place)
        # The cost stays in the action's own precision, as Gymnasium computes it.
        cost = self._robot.control_cost * np.square(action).sum(axis=1)
        reward = (x - self._x) / self._dt + self._robot.alive_bonus - cost
        self._x = x
        terminal = np.zeros(self.num, bool) if self._robot.healthy is None else ~self._robot.healthy(qpos, qvel)
        truncated = self._elapsed >= self.spec.horizon
        return Step(self._observe(qpos, qvel), reward, terminal, truncated, np.zeros(self.num, bool))

    def _simulate(self, share: range, action: np.ndarray) -> None:
        """Runs the simulators in `share`; MuJoCo releases the interpreter lock, so shares run side by side."""
        for i in share:
            self._ctrl[i][:] = action[i]
            self._advance(self._model, self._datas[i], self._frame_skip)

    def _coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        return np.stack(self._qpos), np.stack(self._qvel)

    def _observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        limit = self._robot.velocity_limit
        return np.concatenate([qpos[:, self._robot.hidden :], np.clip(qvel, -limit, limit), self._padding], axis=1)

    def get_state(self) -> dict[str, np.ndarray]:
        """The state from which `set_state` continues bit for bit, in this object or another of as many environments.

        Returns:
          ``physics`` `[num, _]` MuJoCo's full integration state, warm starts included; ``x`` `[num]` the place that
          the next reward counts from; ``elapsed`` `[num]` steps of the episodes; ``generators`` `[num, 6]`.
        """
        physics = np.empty((self.num, mujoco.mj_stateSize(self._model, _FULL_STATE)))
        for row, data in zip(physics, self._datas, strict=True):
            mujoco.mj_getState(self._model, data, row, _FULL_STATE)
        return {
            "physics": physics,
            "x": self._x.copy(),
            "elapsed": self._elapsed.copy(),
            "generators": pack_generators(self._generators),
        }

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned; `UserError` if it is of another task or number of environments."""
        expected = (self.num, mujoco.mj_stateSize(self._model, _FULL_STATE))
        found = np.shape(state["physics"])
        require(
            found == expected,
            "environment state",
            f"holds simulators of shape {found}",
            f"{self._robot.gym_id} under MuJoCo {mujoco.__version__} needs {expected}",
        )
        for row, data in zip(np.asarray(state["physics"], np.float64), self._datas, strict=True):
            mujoco.mj_setState(self._model, data, row, _FULL_STATE)
        self._x = np.array(state["x"], np.float64)
        self._elapsed = np.array(state["elapsed"], np.int64)
        unpack_generators(self._generators, np.asarray(state["generators"]))

    def close(self) -> None:
        """Ends the threads."""
        if self._pool:
            self._pool.shutdown()
