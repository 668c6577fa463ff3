"""Adroit's door as D4RL logged it: the maintained package's model, with D4RL's reward and 200 steps a try.

The model is that of gymnasium-robotics' ``AdroitHandDoor-v1`` (extra ``adroit``), the hand of Rajeswaran et al. 2018;
replayed on today's MuJoCo it follows D4RL's demonstrations to float32 rounding. That class's own reward is not used:
release 1.4.2 pays for the palm's distance from the handle instead of charging for it, which its own warning says.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from cfdg_jax.envs.dynamics import quiet_models
from cfdg_jax.envs.simulators import Simulators
from cfdg_jax.errors import UserError
from cfdg_jax.types import Spec, Step

TASKS = ("door",)
HORIZON = 200
FRAME_SKIP = 5
DOOR_LOW, DOOR_HIGH = np.array([-0.3, 0.25, 0.252]), np.array([-0.2, 0.35, 0.35])
"""Where a reset puts the door's frame."""
_OBSERVED = 39
JOINTS = 27
"""Leading columns of the observation: the hand's joints, all 0 at a reset."""
OPEN = 1.35
"""Angle of the hinge from which the door counts as open."""
_BONUSES = ((0.2, 2.0), (1.0, 8.0), (OPEN, 10.0))


def adroit_spec(task: str, reference: tuple[float, float] | None = None) -> Spec:
    """The `Spec` of a task in `TASKS`; trying ends with the time limit alone."""
    return Spec(_OBSERVED, 28, HORIZON, terminates=False, reference=reference)


@functools.cache
def build_model() -> mujoco.MjModel:
    """The door's model with its actuators as the package sets them; do not change it.

    Raises:
      UserError: if gymnasium-robotics is not installed.
    """
    try:
        with quiet_models():
            from gymnasium_robotics.envs.adroit_hand.adroit_door import AdroitHandDoorEnv
    except ImportError as error:
        remedy = "install it with: pip install 'cfdg-jax[adroit]'"
        raise UserError("env.task", "'door' needs the gymnasium-robotics package", remedy) from error
    with quiet_models():
        env: Any = AdroitHandDoorEnv()
    env.close()
    return env.model


def door_reward(obs: np.ndarray, velocities: np.ndarray) -> np.ndarray:
    """D4RL's reward `[n]` for reaching observations `[n, O]` with `velocities` `[n, nv]` (``door_v0.py``)."""
    hinge = obs[:, 28]
    reward = -0.1 * np.linalg.norm(obs[:, 35:38], axis=1) - 0.1 * (hinge - 1.57) ** 2
    reward -= 1e-5 * np.square(velocities).sum(axis=1)
    return reward + sum(bonus * (hinge > angle) for angle, bonus in _BONUSES)


class DoorVecEnv:
    """`cfdg_jax.types.Env` of the door: a hand must undo the latch and swing the door open.

    Environment i draws the place of its door from a generator seeded as Gymnasium seeds. The hand always starts at
    rest, so that a first observation determines the state; later ones leave out velocities.

    Args:
      task: ``door``.
      seeds: One non-negative seed per environment.
      threads: Threads that step the simulators; 0 chooses.
      reference: Passed on to `spec`.
    """

    def __init__(self, task: str, seeds: Sequence[int], threads: int = 0, reference: tuple[float, float] | None = None):
        self.spec, self.task, model = adroit_spec(task, reference), task, build_model()
        self.simulators = Simulators([copy.copy(model) for _ in seeds], mujoco.mj_step, FRAME_SKIP, seeds, threads)
        self.num = self.simulators.num
        self._centre, self._reach = model.actuator_ctrlrange.mean(axis=1), np.ptp(model.actuator_ctrlrange, axis=1) / 2
        self._frame = model.body("frame").id
        self._hinge = int(model.joint("door_hinge").qposadr[0])
        self._palm = [data.site("S_grasp").xpos for data in self.simulators.datas]
        self._handle = [data.site("S_handle").xpos for data in self.simulators.datas]

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes where `mask` `[num]` is True (everywhere by default); returns observations `[num, O]`."""
        for i in range(self.num) if mask is None else np.flatnonzero(mask):
            generator = self.simulators.generators[i]
            self._start(int(i), np.array([generator.uniform(*ends) for ends in zip(DOOR_LOW, DOOR_HIGH, strict=True)]))
        return self._observe()

    def _start(self, i: int, door: np.ndarray) -> None:
        model = self.simulators.models[i]
        model.body_pos[self._frame] = door
        self.simulators.restart(i, model.qpos0, np.zeros(model.nv))

    def place_start(self, obs: np.ndarray) -> None:
        """Starts new episodes with the door where first observations `[num, O]` show its handle."""
        for i, row in enumerate(obs):
            self._start(i, DOOR_LOW)
            self._start(i, DOOR_LOW + row[32:35] - self._handle[i])

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]`, clipped to [-1, 1]."""
        self.simulators.advance(self._centre + np.clip(action, -1.0, 1.0) * self._reach)
        obs, velocities = self._observe(), self.simulators.coordinates()[1]
        truncated = self.simulators.elapsed >= self.spec.horizon
        return Step(obs, door_reward(obs, velocities), np.zeros(self.num, bool), truncated, obs[:, 28] >= OPEN)

    def _observe(self) -> np.ndarray:
        qpos, _ = self.simulators.coordinates()
        palm, handle, hinge = np.stack(self._palm), np.stack(self._handle), qpos[:, self._hinge, None]
        is_open = np.where(hinge > 1.0, 1.0, -1.0)
        return np.concatenate([qpos[:, 1:-2], qpos[:, -1:], hinge, palm, handle, palm - handle, is_open], axis=1)

    def get_state(self) -> dict[str, np.ndarray]:
        """The state from which `set_state` continues bit for bit: `Simulators.get_state` and ``doors`` `[num, 3]`."""
        doors = np.stack([model.body_pos[self._frame] for model in self.simulators.models])
        places = {"palm": np.stack(self._palm), "handle": np.stack(self._handle)}
        return {**self.simulators.get_state(), "doors": doors, **places}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned; `UserError` if it is of another task or number of environments."""
        self.simulators.set_state(state, self.task)
        for i, model in enumerate(self.simulators.models):
            model.body_pos[self._frame] = state["doors"][i]
            self._palm[i][:], self._handle[i][:] = state["palm"][i], state["handle"][i]

    def close(self) -> None:
        """Ends the threads."""
        self.simulators.close()
