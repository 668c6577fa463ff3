"""Rolling a policy out in many environments at once, into rows in D4RL's layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from cfdg_jax.types import Env, require


class Policy(Protocol):
    """Behaviour to log: ``(obs [n, O], rng) -> action [n, A]`` in [-1, 1], all randomness from `rng`."""

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


class _Log:
    """Steps of n environments in order of time, kept until they are put in order of environment."""

    def __init__(self) -> None:
        self.steps: list[tuple[np.ndarray, ...]] = []

    def rows(self, kept: np.ndarray) -> list[np.ndarray]:
        """One array per field; environment i contributes its first `kept[i]` steps, all in a block."""
        columns = [np.stack(field, axis=1) for field in zip(*self.steps, strict=True)]  # [n, T, ...]
        inside = np.arange(len(self.steps)) < kept[:, None]
        return [column[inside] for column in columns]


def collect(
    env: Env,
    policy: Policy,
    rows: int,
    rng: np.random.Generator,
    progress: Callable[[int], object] | None = None,
) -> dict[str, np.ndarray]:
    """Logs `rows` transitions of `policy`.

    Each environment plays until it has its share of the rows and then finishes its episode, so that long episodes are
    neither cut nor left out; the surplus is cut from the end, where one episode may remain unfinished.

    Args:
      env: Environments; they are reset first.
      policy: The behaviour.
      rows: Rows wanted, at least 1.
      rng: The policy's randomness; with freshly seeded environments it determines the result.
      progress: Called with the number of new rows now and then.

    Returns:
      ``observations``, ``actions``, ``rewards``, ``next_observations`` float32 and ``terminals``, ``timeouts`` bool,
      one environment's episodes after the other's. A cut, by the time limit or by `rows`, is a timeout.
    """
    require(rows >= 1, "rows", f"is {rows}", "must be at least 1")
    share, log = -(-rows // env.num), _Log()
    kept = np.zeros(env.num, np.int64)
    playing = np.ones(env.num, bool)
    reported = 0
    obs = env.reset()
    while playing.any():
        action = np.clip(policy(obs, rng), -1.0, 1.0).astype(np.float32)
        step = env.step(action)
        timeout = np.asarray(step.truncated) & ~np.asarray(step.terminal)
        fields = (obs, action, step.reward, step.next_obs)
        log.steps.append((*(np.asarray(x, np.float32) for x in fields), np.asarray(step.terminal), timeout))
        kept += playing
        done = np.asarray(step.terminal) | timeout
        playing &= ~(done & (kept >= share))
        obs = env.reset(done) if done.any() else step.next_obs
        counted = int(np.minimum(kept, share).sum())
        if progress is not None and (counted - reported >= 1000 or not playing.any()):
            progress(min(counted, rows) - reported)
            reported = min(counted, rows)
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    arrays = {name: value[:rows] for name, value in zip(names, log.rows(kept), strict=True)}
    arrays["timeouts"][-1] = not arrays["terminals"][-1]
    return arrays
