"""What one step of the environments sends to the learner."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cfdg_jax.types import Array, Spec


class Packet(NamedTuple):
    """One raw step of all seeds. It travels as one matrix: one transfer for each environment step.

    Attributes:
      obs: `[S, O]` observation.
      action: `[S, A]` action in [-1, 1].
      reward: `[S]` raw reward.
      next_obs: `[S, O]` observation that truly followed.
      terminal: `[S]` whether the task ended.
      current: `[S, O]` observation that the next action is chosen for: after a reset, if there was one.
    """

    obs: Any
    action: Any
    reward: Any
    next_obs: Any
    terminal: Any
    current: Any

    def pack(self, xp: Any = np) -> Any:
        """The float32 matrix `[S, 3 O + A + 2]`; `xp` is `numpy` or `jax.numpy`."""
        columns = self._replace(reward=self.reward[:, None], terminal=self.terminal[:, None])
        return xp.concatenate([xp.asarray(column, xp.float32) for column in columns], axis=1)

    @classmethod
    def unpack(cls, matrix: Array, spec: Spec) -> Packet:
        """The fields of a packed step."""
        size, dim = spec.obs_dim, spec.act_dim
        ends = np.cumsum([size, dim, 1, size, 1, size]).tolist()
        obs, action, reward, next_obs, terminal, current = (
            matrix[:, start:end] for start, end in zip([0, *ends], ends, strict=False)
        )
        return cls(obs, action, reward[:, 0], next_obs, terminal[:, 0], current)

    @staticmethod
    def width(spec: Spec) -> int:
        """Columns of a packed step."""
        return 3 * spec.obs_dim + spec.act_dim + 2
