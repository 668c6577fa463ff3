"""The ant of the mazes on open ground, paid for its speed along a direction that changes now and then.

`benchmarks/train_behaviour.py ant-goals` learns in it the actor that `cfdg_jax.data.navigate` steers through the mazes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cfdg_jax.data.navigate import FEATURES, features
from cfdg_jax.envs.antmaze import FRAME_SKIP, build_model
from cfdg_jax.envs.simulators import Simulators
from cfdg_jax.types import Spec, Step

HORIZON = 300
TURN_EVERY = 40
"""Mean steps between two changes of direction."""
_TIME_STEP = 0.1
_ALIVE, _EFFORT = 0.3, 0.1


class GoalAnt:
    """`cfdg_jax.types.Env`: reward is the speed along the wanted direction, less a share of the effort, plus a bonus
    for every step; lying on its back ends the episode."""

    def __init__(self, seeds: Sequence[int]):
        model, advance = build_model("ant", "d4rl")
        self.spec = Spec(FEATURES, 8, HORIZON)
        self._sims = Simulators(model, advance, FRAME_SKIP, seeds, threads=1)
        self.num = self._sims.num
        self._direction = np.zeros((self.num, 2))

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        for i in range(self.num) if mask is None else np.flatnonzero(mask):
            generator, model = self._sims.generators[i], self._sims.model
            qpos = model.qpos0 + generator.uniform(-0.1, 0.1, model.nq)
            heading = generator.uniform(0, 2 * np.pi) / 2
            qpos[3:7] = [np.cos(heading), 0.0, 0.0, np.sin(heading)]
            self._sims.restart(int(i), qpos, 0.1 * generator.standard_normal(model.nv))
            self._turn(int(i))
        return self._observe()

    def _turn(self, i: int) -> None:
        angle = self._sims.generators[i].uniform(0, 2 * np.pi)
        self._direction[i] = np.cos(angle), np.sin(angle)

    def step(self, action: np.ndarray) -> Step:
        before = self._sims.coordinates()[0][:, :2]
        action = np.clip(action, -1.0, 1.0)
        self._sims.advance(action)
        qpos, _ = self._sims.coordinates()
        speed = ((qpos[:, :2] - before) * self._direction).sum(axis=1) / _TIME_STEP
        reward = speed + _ALIVE - _EFFORT * np.square(action).mean(axis=1)
        upright = 1.0 - 2.0 * (qpos[:, 4] ** 2 + qpos[:, 5] ** 2)
        terminal = (upright < 0.0) | (qpos[:, 2] < 0.2)
        for i, generator in enumerate(self._sims.generators):
            if generator.random() < 1 / TURN_EVERY:
                self._turn(i)
        return Step(self._observe(), reward, terminal, self._sims.elapsed >= HORIZON, np.zeros(self.num, bool))

    def _observe(self) -> np.ndarray:
        return features(np.concatenate(self._sims.coordinates(), axis=1), self._direction)

    def get_state(self) -> dict[str, np.ndarray]:
        return {**self._sims.get_state(), "direction": self._direction.copy()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        self._sims.set_state(state, "ant-goals")
        self._direction = np.array(state["direction"])

    def close(self) -> None:
        self._sims.close()
