"""Small arrays in D4RL's layout whose rows are told apart at a glance."""

import numpy as np

NEXT = np.array([1, -1])
"""From an observation to the next one."""


def raw(n=6, timeouts=(2,), terminals=(), following=True, dtype=np.float32, flags=bool):
    """Episodes whose observations count up from 100 times the episode's number."""
    rng = np.random.default_rng(0)
    episode = np.concatenate([[0], np.cumsum(np.isin(np.arange(n - 1), (*timeouts, *terminals)))])
    within = np.arange(n) - np.array([np.flatnonzero(episode == e)[0] for e in episode])
    obs = np.stack([100.0 * episode + within, -within], axis=1)
    arrays = {
        "observations": obs.astype(dtype),
        "actions": rng.uniform(-1, 1, (n, 3)).astype(dtype),
        "rewards": np.arange(n).astype(dtype),
        "terminals": np.isin(np.arange(n), terminals).astype(flags),
        "timeouts": np.isin(np.arange(n), timeouts).astype(flags),
    }
    if following:
        arrays["next_observations"] = (obs + NEXT).astype(dtype)
    return arrays
