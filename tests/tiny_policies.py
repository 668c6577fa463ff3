"""A small random actor, as training leaves one."""

import numpy as np


def tiny(seed):
    """(step, return, parameters) of a small random actor."""
    rng = np.random.default_rng(seed)
    sizes = ((11, 8), (8, 8), (8, 6))
    layer = lambda size: {"kernel": rng.normal(0, 0.3, size).astype(np.float32), "bias": np.zeros(size[1], np.float32)}
    return 1000 * seed, 10.0 * seed, {f"l{i}": layer(size) for i, size in enumerate(sizes)}
