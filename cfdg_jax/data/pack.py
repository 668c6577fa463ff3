"""A dataset as the packed rows that agents, generators and stratifiers see."""

from __future__ import annotations

import numpy as np

from cfdg_jax.data.arrays import ACTION_LIMIT
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.returns import ReturnRule, mc_returns
from cfdg_jax.data.transforms import Transforms, apply_observation, apply_reward
from cfdg_jax.types import Source

CHUNK = 65_536
"""Rows that are transformed at once."""
ALIGNMENT = 64
"""Bytes."""


def pack(dataset: Dataset, transforms: Transforms, rule: ReturnRule | None = None) -> np.ndarray:
    """The dataset as packed rows: transformed, with returns-to-go, marked as offline.

    The returns-to-go are those of transformed rewards. Loose rows have none: theirs are unknown, -inf.

    Args:
      dataset: The offline data, `N` rows.
      transforms: Applied to rewards and observations.
      rule: Of the returns-to-go, its `failure_reward` raw; `ReturnRule()` by default.

    Returns:
      `[N, D]` float32.

    Raises:
      UserError: as `mc_returns`.
    """
    reward = apply_reward(transforms.reward, dataset.rewards)
    if dataset.loose:
        returns = np.full(len(dataset), -np.inf, np.float32)
    else:
        transformed = (rule or ReturnRule()).transformed(transforms.reward)
        returns = mc_returns(transformed, reward, dataset.ends, dataset.terminals)
    rows = _aligned(len(dataset), dataset.layout.width)
    for first in range(0, len(rows), CHUNK):  # so that no second copy of all observations is held
        part = slice(first, first + CHUNK)
        rows[part] = dataset.layout.pack(
            apply_observation(transforms.observation, dataset.observations[part]),
            np.clip(dataset.actions[part], -ACTION_LIMIT, ACTION_LIMIT),
            reward[part],
            apply_observation(transforms.observation, dataset.next_observations[part]),
            dataset.terminals[part],
            returns[part],
            float(Source.OFFLINE),
            xp=np,
        )
    return rows


def _aligned(rows: int, width: int) -> np.ndarray:
    """An array `[rows, width]` that begins where JAX's CPU device takes it over without a copy."""
    spare = ALIGNMENT // 4
    memory = np.empty(rows * width + spare, np.float32)
    first = (-memory.ctypes.data % ALIGNMENT) // 4
    return memory[first : first + rows * width].reshape(rows, width)
