"""D4RL's normalised score."""

from __future__ import annotations

import numpy as np

from cfdg_jax.envs.registry import REFERENCE_RETURNS


def reference_returns(task: str) -> tuple[float, float] | None:
    """(minimum, maximum) undiscounted raw return of `task` (Farama-Foundation/D4RL), or None without one.

    References belong to an environment, whatever the dataset or its version: all AntMaze tasks share one. Other
    environments of a similar name, such as ``gym:Hopper-v5``, have none.
    """
    return REFERENCE_RETURNS.get("antmaze" if task.startswith("antmaze-") else task)


def normalized_score(task: str, returns) -> np.ndarray | None:
    """``100 (R - min) / (max - min)`` of raw returns of any shape, or None where `task` has no reference."""
    reference = reference_returns(task)
    if reference is None:
        return None
    low, high = reference
    return 100.0 * (np.asarray(returns, np.float64) - low) / (high - low)
