"""Terms of actor-critic losses, per row: shapes `[B]` (or `[Q, B]` for critics), reduced by the caller.

Nothing averages over the batch but the step that descends, so any row can carry its own weight, and the average that a
metric needs is taken once for many updates.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

from cfdg_jax.types import Array


def weighted(per_row: Array, weight: Array | float | None = None) -> Array:
    """``weight * per_row`` `[B]`, whose mean is over **all** rows: a weight of 0 does not rescale others."""
    return per_row if weight is None else weight * per_row


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of `x` `[B]` where `mask`, 0 where there are no such rows."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(mask.sum(), 1)


def expectile(error: Array, level: Array | float) -> Array:
    """Asymmetric square ``|level - 1{error < 0}| error^2`` (docs/algorithms.md#iql); its minimiser is the expectile."""
    return jnp.where(error > 0, level, 1.0 - level) * jnp.square(error)


def awr_weight(advantage: Array, temperature: float, limit: float = 100.0) -> tuple[Array, Array]:
    """``min(exp(temperature * advantage), limit)`` without overflow, and whether the limit binds (both `[B]`).

    `temperature` is the inverse temperature beta (docs/algorithms.md#iql). No gradient flows through the weight.
    """
    log_weight = temperature * jax.lax.stop_gradient(advantage)
    log_limit = math.log(limit)
    return jnp.exp(jnp.minimum(log_weight, log_limit)), (log_weight >= log_limit).astype(jnp.float32)


def td_target(reward: Array, terminal: Array, next_value: Array, discount: float) -> Array:
    """``reward + discount * (1 - terminal) * next_value`` without gradient.

    A time limit is no terminal (docs/algorithms.md#data).
    """
    return jax.lax.stop_gradient(reward + discount * (1.0 - terminal) * next_value)


def td_loss(q: Array, target: Array, over_critics: Literal["sum", "mean"] = "sum") -> Array:
    """Squared errors `[B]` of critics `[Q, B]` against one target `[B]`, summed or averaged over the critics."""
    squares = jnp.square(q - target[None])
    return jnp.sum(squares, axis=0) if over_critics == "sum" else jnp.mean(squares, axis=0)


def temperature_loss(log_alpha: Array, log_prob: Array, target_entropy: float) -> Array:
    """``-alpha (log_prob + target_entropy)`` `[B]`: alpha rises while entropy is too low (docs/algorithms.md#sac)."""
    return -jnp.exp(log_alpha) * jax.lax.stop_gradient(log_prob + target_entropy)


def log_temperature_loss(log_alpha: Array, log_prob: Array, target_entropy: float) -> Array:
    """``-log_alpha (log_prob + target_entropy)`` `[B]`: `temperature_loss` linear in log alpha (CQL, Cal-QL, APL).

    Its steps do not shrink with alpha.
    """
    return -log_alpha * jax.lax.stop_gradient(log_prob + target_entropy)
