"""D4RL's AntMaze on today's MuJoCo: Gymnasium's own ant, its specification edited in code, between walls.

Facts of Farama-Foundation/D4RL (``d4rl/locomotion``): ten steps a second, torques up to 30, softer contacts than
Gymnasium's; observations are all positions and velocities, the place first; a step within 0.5 of the goal pays 1 and
ends the episode, nothing else does; every evaluation episode starts in one cell and draws a goal in another
(``-v2``). Play and diverse sets differ in how the data were gathered, so they share an environment.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np

from cfdg_jax.envs.dynamics import Advance, check_dynamics, quiet_models, restore_d4rl_dynamics
from cfdg_jax.envs.maze import SIZES, UNIT, Cell, Maze, maze
from cfdg_jax.envs.simulators import Simulators
from cfdg_jax.types import Spec, Step

TASKS = tuple(f"antmaze-{size}" for size in SIZES)
GOAL_RADIUS = 0.5
FRAME_SKIP = 5
HORIZONS = {"antmaze-umaze": 700, "antmaze-medium": 1000, "antmaze-large": 1000}
_TIME_STEP = 0.02
_TORQUE = 30.0
_SOLREF, _SOLIMP = [0.02, 1.0], [0.8, 0.8, 0.01, 0.5, 2.0]
_NOISE = 0.1
_POSITIONS, _VELOCITIES = 15, 14


def middle_goal(layout: Maze) -> np.ndarray:
    """The middle `[2]` of the places where evaluation draws its goals."""
    return layout.centre(layout.goal) + (UNIT / 4 + UNIT / 8) / 2


def antmaze_spec(task: str, reference: tuple[float, float] | None = None) -> Spec:
    """The `Spec` of a task in `TASKS`."""
    return Spec(_POSITIONS + _VELOCITIES, 8, HORIZONS[task], reference=reference)


def ant_specification() -> tuple[mujoco.MjSpec, str]:
    """D4RL's ant on open ground, to be compiled, and the file of Gymnasium's ant that it is made from."""
    with quiet_models():
        env: Any = gymnasium.make("Ant-v4").unwrapped
        path = env.fullpath
        env.close()
        spec = mujoco.MjSpec.from_file(path)
    spec.option.timestep = _TIME_STEP
    for geom in spec.geoms:
        geom.solref[:], geom.solimp[:] = _SOLREF, _SOLIMP
    for motor in spec.actuators:
        motor.gear[0] = _TORQUE
    return spec, path


@functools.cache
def build_model(task: str, dynamics: str) -> tuple[mujoco.MjModel, Advance]:
    """The model of a task in `TASKS`, or of ``ant`` on open ground, and what makes its steps.

    The model is the same object for the whole process: do not change it.
    """
    check_dynamics(dynamics)
    spec, path = ant_specification()
    if task in TASKS:
        layout, half = maze(task.removeprefix("antmaze-")), UNIT / 2
        for cell in layout.walls:
            x, y = layout.centre(cell)
            spec.worldbody.add_geom(
                name=f"block_{cell[0]}_{cell[1]}",
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[x, y, half / 2],
                size=[half, half, half / 2],
                contype=1,
                conaffinity=1,
                condim=3,
                density=5.0,
                margin=0.01,
                friction=[1.0, 0.5, 0.5],
                solref=_SOLREF,
                solimp=_SOLIMP,
                rgba=[0.7, 0.5, 0.3, 1.0],
            )
    with quiet_models():
        model = spec.compile()
        advance = restore_d4rl_dynamics(model, path) if dynamics == "d4rl" else mujoco.mj_step
    return model, advance


class AntMazeVecEnv:
    """`cfdg_jax.types.Env` for the tasks in `TASKS`.

    Environment i draws all that is random from a generator of seed i: at a reset noise on positions, noise on
    velocities, then the goal.

    Attributes:
      goals: `[num, 2]` the goals of the running episodes, which no observation shows.

    Args:
      task: One of `TASKS`.
      seeds: One non-negative seed per environment.
      dynamics: ``d4rl`` or ``gymnasium`` (`cfdg_jax.envs.dynamics`).
      threads: Threads that step the simulators; 0 chooses.
      reference: Passed on to `spec`.
      starts: Cells that an episode may start in; by default evaluation's.
      targets: Cells that a goal may lie in; by default evaluation's.
      ends_at_goal: Whether an episode ends there; D4RL's gathering of data goes on.
    """

    def __init__(
        self,
        task: str,
        seeds: Sequence[int],
        dynamics: str = "d4rl",
        threads: int = 0,
        reference: tuple[float, float] | None = None,
        starts: Sequence[Cell] | None = None,
        targets: Sequence[Cell] | None = None,
        ends_at_goal: bool = True,
    ):
        self.spec, self.task = antmaze_spec(task, reference), task
        self.maze = maze(task.removeprefix("antmaze-"))
        model, advance = build_model(task, dynamics)
        self.simulators = Simulators(model, advance, FRAME_SKIP, seeds, threads)
        self.num = self.simulators.num
        self._starts, self._targets = starts, list(targets or [self.maze.goal])
        self._ends_at_goal = ends_at_goal
        self.goals = np.zeros((self.num, 2))

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes where `mask` `[num]` is True (everywhere by default); returns observations `[num, O]`."""
        for i in range(self.num) if mask is None else np.flatnonzero(mask):
            generator, model = self.simulators.generators[i], self.simulators.model
            qpos = model.qpos0 + generator.uniform(-_NOISE, _NOISE, model.nq)
            qvel = _NOISE * generator.standard_normal(model.nv)
            if self._starts is not None:  # D4RL's gathering of data: anywhere in the upper half of a free cell
                cell = self._starts[int(generator.integers(len(self._starts)))]
                qpos[:2] = np.maximum(self.maze.centre(cell) + generator.uniform(0.0, UNIT / 4, 2), 0.0)
            self.simulators.restart(int(i), qpos, qvel)
            self.goals[i] = self._draw_goal(generator)
        return self._observe()

    def _draw_goal(self, generator: np.random.Generator) -> np.ndarray:
        cell = self._targets[generator.integers(len(self._targets))] if len(self._targets) > 1 else self._targets[0]
        noise = generator.uniform(0.0, UNIT / 4, 2) + generator.uniform(0.0, UNIT / 8, 2)
        return np.maximum(self.maze.centre(cell) + noise, 0.0)

    def place(self, obs: np.ndarray, goals: np.ndarray | None = None) -> None:
        """Puts the simulators where `obs` `[num, O]` says, episodes new; `goals` `[num, 2]` where known."""
        for i, row in enumerate(obs):
            self.simulators.restart(i, row[:_POSITIONS], row[_POSITIONS:])
            self.simulators.datas[i].qacc_warmstart[:] = 0.0
        if goals is not None:
            self.goals[:] = goals

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]`, clipped to [-1, 1]."""
        self.simulators.advance(np.clip(action, -1.0, 1.0))
        obs = self._observe()
        arrived = np.linalg.norm(obs[:, :2] - self.goals, axis=1) <= GOAL_RADIUS
        truncated = self.simulators.elapsed >= self.spec.horizon
        return Step(obs, arrived.astype(np.float64), arrived & self._ends_at_goal, truncated, arrived.copy())

    def _observe(self) -> np.ndarray:
        return np.concatenate(self.simulators.coordinates(), axis=1)

    def get_state(self) -> dict[str, np.ndarray]:
        """The state from which `set_state` continues bit for bit: `Simulators.get_state` and ``goals`` `[num, 2]`."""
        return {**self.simulators.get_state(), "goals": self.goals.copy()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned; `UserError` if it is of another task or number of environments."""
        self.simulators.set_state(state, self.task)
        self.goals = np.array(state["goals"], np.float64)

    def close(self) -> None:
        """Ends the threads."""
        self.simulators.close()
