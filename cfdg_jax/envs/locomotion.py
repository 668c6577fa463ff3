"""Hopper, HalfCheetah, Walker2d and Ant as Gymnasium's ``-v4`` defines them, many at once in native threads.

Rewards, terminations and reset noise are Gymnasium 1.4's (``gymnasium/envs/mujoco/*_v4.py``), the family D4RL's
``-v2`` sets were logged in; ``-v5`` pays no alive bonus on the terminal step and changes Walker2d's feet. The model is
built by Gymnasium's own class, so the physics is the installed MuJoCo's, or with ``dynamics="d4rl"`` that of the
MuJoCo which logged D4RL (`cfdg_jax.envs.dynamics`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np

from cfdg_jax.envs.dynamics import Advance, check_dynamics, quiet_models, restore_d4rl_dynamics
from cfdg_jax.envs.simulators import Simulators
from cfdg_jax.types import Spec, Step


def _hopper_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    near = (abs(qpos[:, 2:]) < 100).all(1) & (abs(qvel) < 100).all(1)
    return near & (qpos[:, 1] > 0.7) & (abs(qpos[:, 2]) < 0.2)


def _walker2d_healthy(qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
    return (qpos[:, 1] > 0.8) & (qpos[:, 1] < 2.0) & (abs(qpos[:, 2]) < 1.0)


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
        Of the planar robots it takes NumPy's arrays and JAX's.
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
    healthy: Callable[[Any, Any], Any] | None = None
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
    zeros = robot.contact_zeros if dynamics == "d4rl" else 0
    terminates = robot.healthy is not None
    return Spec(robot.obs_dim + zeros, robot.act_dim, HORIZON, terminates, reference, zeros)


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
        self.spec = locomotion_spec(task, dynamics, reference)
        self._robot = ROBOTS[task]
        self._model, frame_skip, advance = build_model(task, dynamics)
        self.simulators = Simulators(self._model, advance, frame_skip, seeds, threads)
        self.num = self.simulators.num
        self._dt = self._model.opt.timestep * frame_skip
        self._padding = np.zeros((self.num, self.spec.obs_dim - self._robot.obs_dim))
        self._x = np.zeros(self.num)
        if self._robot.tracked_body is None:
            self._place = [data.qpos[:1] for data in self.simulators.datas]
        else:
            self._place = [data.body(self._robot.tracked_body).xpos[:1] for data in self.simulators.datas]

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes where `mask` `[num]` is True (everywhere by default); returns observations `[num, O]`."""
        for i in range(self.num) if mask is None else np.flatnonzero(mask):
            self._reset_one(int(i))
        return self._observe(*self.simulators.coordinates())

    def _reset_one(self, i: int) -> None:
        robot, model, generator = self._robot, self._model, self.simulators.generators[i]
        qpos = model.qpos0 + generator.uniform(-robot.reset_noise, robot.reset_noise, model.nq)
        if robot.gaussian_velocity:
            qvel = robot.reset_noise * generator.standard_normal(model.nv)
        else:
            qvel = generator.uniform(-robot.reset_noise, robot.reset_noise, model.nv)
        self.simulators.restart(i, qpos, qvel)
        self._x[i] = self._place[i][0]

    def place(self, obs: np.ndarray) -> None:
        """Puts the simulators where `obs` `[num, O]` says, the unobserved place of the root at 0, episodes new.

        Observed velocities are taken as they are: where one was clipped to the limit the true state is not known.
        """
        hidden, coordinates = self._robot.hidden, self._model.nq - self._robot.hidden
        for i, row in enumerate(obs):
            qpos = np.concatenate([np.zeros(hidden), row[:coordinates]])
            self.simulators.restart(i, qpos, row[coordinates : self._robot.obs_dim])
            self.simulators.datas[i].qacc_warmstart[:] = 0.0
            self._x[i] = self._place[i][0]

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]`, clipped to [-1, 1]."""
        action = np.clip(action, -1.0, 1.0)
        self.simulators.advance(action)
        qpos, qvel = self.simulators.coordinates()
        x = np.concatenate(self._place)
        # The cost stays in the action's own precision, as Gymnasium computes it.
        cost = self._robot.control_cost * np.square(action).sum(axis=1)
        reward = (x - self._x) / self._dt + self._robot.alive_bonus - cost
        self._x = x
        terminal = np.zeros(self.num, bool) if self._robot.healthy is None else ~self._robot.healthy(qpos, qvel)
        truncated = self.simulators.elapsed >= self.spec.horizon
        return Step(self._observe(qpos, qvel), reward, terminal, truncated, np.zeros(self.num, bool))

    def _observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        limit = self._robot.velocity_limit
        return np.concatenate([qpos[:, self._robot.hidden :], np.clip(qvel, -limit, limit), self._padding], axis=1)

    def get_state(self) -> dict[str, np.ndarray]:
        """The state from which `set_state` continues bit for bit, in this object or another of as many environments.

        Returns:
          ``physics`` `[num, _]` MuJoCo's full integration state, warm starts included; ``x`` `[num]` the place that
          the next reward counts from; ``elapsed`` `[num]` steps of the episodes; ``generators`` `[num, 6]`.
        """
        return {**self.simulators.get_state(), "x": self._x.copy()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned; `UserError` if it is of another task or number of environments."""
        self.simulators.set_state(state, self._robot.gym_id)
        self._x = np.array(state["x"], np.float64)

    def close(self) -> None:
        """Ends the threads."""
        self.simulators.close()
