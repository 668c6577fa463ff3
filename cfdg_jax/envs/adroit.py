"""Adroit's hand as D4RL logged it: the maintained package's models, with D4RL's rewards, ends and steps a try.

The models are those of gymnasium-robotics' ``AdroitHand*-v1`` (extra ``adroit``), the hand of Rajeswaran et al. 2018;
replayed on today's MuJoCo the door follows D4RL's demonstrations to float32 rounding. Those classes' own rewards are
not used: release 1.4.2 pays for the palm's distance from what it should grasp instead of charging for it, which its own
warning says, and its pen goes on after it fell.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from cfdg_jax.envs.adroit_tasks import HAND_TASKS, Scene
from cfdg_jax.envs.dynamics import quiet_models
from cfdg_jax.envs.simulators import Simulators
from cfdg_jax.errors import UserError
from cfdg_jax.types import Spec, Step

TASKS = tuple(HAND_TASKS)
FRAME_SKIP = 5


def adroit_spec(task: str, reference: tuple[float, float] | None = None) -> Spec:
    """The `Spec` of a task in `TASKS`; a try ends with the time limit, and the pen's when it falls."""
    hand = HAND_TASKS[task]
    ends = hand.failed is not None
    return Spec(hand.obs_dim, hand.act_dim, hand.horizon, terminates=ends, reference=reference)


@functools.cache
def build_model(task: str = "door") -> mujoco.MjModel:
    """A task's model with its actuators as the package sets them; do not change it.

    Raises:
      UserError: if gymnasium-robotics is not installed.
    """
    try:
        with quiet_models():
            from gymnasium_robotics.envs import adroit_hand
    except ImportError as error:
        remedy = "install it with: pip install 'cfdg-jax[adroit]'"
        raise UserError("env.task", f"'{task}' needs the gymnasium-robotics package", remedy) from error
    with quiet_models():
        env = getattr(adroit_hand, HAND_TASKS[task].package)()
    env.close()
    return env.model


class HandVecEnv:
    """`cfdg_jax.types.Env` of the tasks in `TASKS`.

    Environment i draws what its task draws at a reset from a generator seeded as Gymnasium seeds. The hand always
    starts at rest, so that a first observation determines the state; later ones leave out velocities.

    Args:
      task: One of `TASKS`.
      seeds: One non-negative seed per environment.
      threads: Threads that step the simulators; 0 chooses.
      reference: Passed on to `spec`.
    """

    def __init__(self, task: str, seeds: Sequence[int], threads: int = 0, reference: tuple[float, float] | None = None):
        self.spec, self.task, model = adroit_spec(task, reference), task, build_model(task)
        self._hand = HAND_TASKS[task]
        self.simulators = Simulators([copy.copy(model) for _ in seeds], mujoco.mj_step, FRAME_SKIP, seeds, threads)
        self.num = self.simulators.num
        self._centre, self._reach = model.actuator_ctrlrange.mean(axis=1), np.ptp(model.actuator_ctrlrange, axis=1) / 2
        self._seen = {  # arrays that look into the simulators' memory
            name: [getattr(getattr(data, kind)(object_), field) for data in self.simulators.datas]
            for name, (kind, object_, field) in self._hand.seen.items()
        }
        self._moved = {
            f"{field} {object_}": [
                getattr(each, field)[getattr(each, kind)(object_).id] for each in self.simulators.models
            ]
            for field, kind, object_ in self._hand.moved
        }

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes where `mask` `[num]` is True (everywhere by default); returns observations `[num, O]`."""
        for i in range(self.num) if mask is None else np.flatnonzero(mask):
            self._hand.draw(self.simulators.models[i], self.simulators.generators[i])
            self._start(int(i))
        return self._observe()[0]

    def _start(self, i: int) -> None:
        model = self.simulators.models[i]
        self.simulators.restart(i, model.qpos0, np.zeros(model.nv))

    def place_start(self, obs: np.ndarray) -> None:
        """Starts new episodes in which all that a reset moves is where first observations `[num, O]` show it."""
        for i, row in enumerate(obs):
            self._start(i)
            rest = {name: views[i].copy() for name, views in self._seen.items()}
            self._hand.place(self.simulators.models[i], rest, row)
            self._start(i)

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]`, clipped to [-1, 1]."""
        self.simulators.advance(self._centre + np.clip(action, -1.0, 1.0) * self._reach)
        obs, scene = self._observe()
        hand = self._hand
        terminal = np.zeros(self.num, bool) if hand.failed is None else hand.failed(obs, scene)
        truncated = self.simulators.elapsed >= self.spec.horizon
        return Step(obs, hand.reward(obs, scene), terminal, truncated, hand.success(obs, scene))

    def _observe(self) -> tuple[np.ndarray, Scene]:
        scene = Scene(*self.simulators.coordinates(), {name: np.stack(views) for name, views in self._seen.items()})
        return self._hand.observe(scene), scene

    def get_state(self) -> dict[str, np.ndarray]:
        """The state from which `set_state` continues bit for bit: `Simulators.get_state`, what a reset moved and what
        is looked at `[num, _]`."""
        views = {**self._moved, **self._seen}
        return {**self.simulators.get_state(), **{name: np.stack(each) for name, each in views.items()}}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned; `UserError` if it is of another task or number of environments."""
        self.simulators.set_state(state, self.task)
        for name, views in {**self._moved, **self._seen}.items():
            for view, value in zip(views, state[name], strict=True):
                view[:] = value

    def close(self) -> None:
        """Ends the threads."""
        self.simulators.close()
