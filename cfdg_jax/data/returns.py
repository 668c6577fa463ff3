"""Returns-to-go of online episodes, written into their rows when the episodes end.

While an episode runs, the returns of its rows are unknown (``-inf``, which Cal-QL reads as no bound). `mc_returns` of
`cfdg_jax.data.transforms` is the same rule for whole datasets.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from cfdg_jax.data.transforms import Truncation
from cfdg_jax.types import Array, Buffer, RowLayout


def close_episodes(
    online: Buffer,
    layout: RowLayout,
    done: Array,
    lengths: Array,
    window: int,
    discount: float,
    sparse_failure: float | None = None,
    truncation: Truncation = "none",
    failure_rule: Literal["all", "last"] = "all",
) -> Buffer:
    """Writes ``mc_return`` of the episodes that end with the newest row.

    Args:
      online: Rings of all seeds, `[S, C, D]`, the newest row just inserted.
      layout: Of the rows.
      done: `[S]` bool, the seeds whose episode ended.
      lengths: `[S]` rows of that episode.
      window: Longest episode, at most C; of a longer one only the newest `window` rows are written and looked at.
      discount: In [0, 1).
      sparse_failure: As in `mc_returns`.
      truncation: As in `mc_returns`.
      failure_rule: As in `mc_returns`.
    """
    age = jnp.arange(window)
    index = (online.position - 1 - age) % online.rows.shape[-2]
    reward = online.rows[:, index, layout.reward]  # newest first
    of_episode = done[:, None] & (age < lengths[:, None])
    tail = jnp.zeros(done.shape)
    if truncation != "none":
        mean = jnp.where(of_episode, reward, 0.0).sum(axis=1) / jnp.maximum(of_episode.sum(axis=1), 1)
        onwards = mean if truncation == "mean_reward" else reward[:, 0]
        bootstraps = online.rows[:, index[0], layout.terminal] == 0
        tail = jnp.where(bootstraps, onwards * discount / (1 - discount), 0.0)

    def after(newer, older):
        return newer[0] * older[0], older[1] + older[0] * newer[1]

    gammas = jnp.full(reward.shape, discount, reward.dtype)
    returns = jax.lax.associative_scan(after, (gammas, reward.at[:, 0].add(tail)), axis=1)[1]
    if sparse_failure is not None:
        judged = of_episode if failure_rule == "all" else of_episode & (age == 0)
        best = jnp.where(judged, reward, -jnp.inf).max(axis=1, keepdims=True)
        returns = jnp.where(best <= sparse_failure + 1e-6, sparse_failure / (1 - discount), returns)
    known = jnp.where(of_episode, returns, online.rows[:, index, layout.mc_return])
    return online._replace(rows=online.rows.at[:, index, layout.mc_return].set(known))
