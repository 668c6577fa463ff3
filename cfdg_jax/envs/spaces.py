"""Gymnasium's description of flat arrays, for files that must carry one."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Box


def box(width: int, bound: float = np.inf) -> Box:
    """Float32 vectors of `width` numbers within ``[-bound, bound]``."""
    return Box(-bound, bound, (width,), np.float32)
