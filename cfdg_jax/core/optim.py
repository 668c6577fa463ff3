"""Adam with the learning rate outside its state, and Polyak averages.

The rate is a function of the un-batched update count that every ``update`` is given, not of a counter inside the
optimiser's state. So both phases share one state structure whatever their schedules, moments carry over at the
hand-over, and a schedule is computed once for all seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.types import Array, Metrics, Params

S = TypeVar("S")

Anneal = Literal["never", "offline", "each", "wave"]
"""In which phases a policy's rate falls to 0 by a half cosine: none, the offline one, or each of the two; ``wave``: it
falls offline and rises again online, as one long cosine (CORL, whose phases have as many updates)."""


class Optimiser(NamedTuple):
    """A first-order method as two pure functions.

    Attributes:
      init: ``(params) -> state``.
      apply: ``(params, grads, state, step) -> (params, state)``; `step` `[]` int32 is the number of updates before
        this one in the phase and sets the learning rate.
    """

    init: Callable[[Params], Any]
    apply: Callable[[Params, Params, Any, Array | int], tuple[Params, Any]]


def adam(
    learning_rate: float | optax.Schedule,
    clip_norm: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> Optimiser:
    """Adam.

    Args:
      learning_rate: The rate, or a function of the number of updates before this one in the phase.
      clip_norm: Largest global norm of a gradient; None for no clipping.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added to the root of the second moment.
    """
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    rate = learning_rate if callable(learning_rate) else optax.constant_schedule(learning_rate)

    @jax.named_scope("adam")
    def apply(params: Params, grads: Params, state: Any, step: Array | int) -> tuple[Params, Any]:
        grads, _ = clip.update(grads, optax.EmptyState())
        count = optax.safe_increment(state.count)
        zero = _zero_behind(grads)
        first, second = 1.0 / (1.0 - jnp.array([b1, b2], zero.dtype) ** count)  # both corrections in one kernel
        lr = rate(step) + zero
        mu = jax.tree.map(lambda m, g: (1 - b1) * g + b1 * m, state.mu, grads)
        nu = jax.tree.map(lambda v, g: (1 - b2) * jnp.square(g) + b2 * v, state.nu, grads)
        move = lambda p, m, v: p - lr * (first * m / (jnp.sqrt(second * v) + eps))
        return jax.tree.map(move, params, mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return Optimiser(optax.scale_by_adam(b1, b2, eps).init, apply)


def _zero_behind(grads: Params) -> Array:
    """0, known once the backward pass has ended: where parameters are read for the last time.

    A step that waits for it is made in place. XLA would start with the last layer, and copies each large array whose
    old values the pass still needs; its barriers are dropped on a CPU. The first array is the first layer's.
    """
    return 0.0 * jnp.ravel(jax.tree.leaves(grads)[0])[0]


def policy_rate(
    learning_rate: float, anneal: Anneal, phase: Literal["offline", "online"], phase_updates: int
) -> optax.Schedule:
    """A policy's rate in `phase`, which has `phase_updates` updates; at most `learning_rate`."""
    falling = optax.cosine_decay_schedule(learning_rate, phase_updates)
    if anneal == "each" or (phase == "offline" and anneal != "never"):
        return falling
    if anneal == "wave":
        return lambda step: learning_rate - falling(step)
    return optax.constant_schedule(learning_rate)


def at_every(delay: int, step: Array | int, move: Callable[[S], tuple[S, Metrics]], state: S) -> tuple[S, Metrics]:
    """``move(state)`` at every `delay`-th update of a phase, the state as it is at the others.

    `step` `[]` counts the updates before this one. It has no seed axis, so the branch is a real one. The metrics belong
    to the group ``moves`` and are 0 where no move is made, so their means are over the moves.
    """
    if delay == 1:
        return move(state)

    def taken(state: S) -> tuple[S, Metrics]:
        state, metrics = move(state)
        return state, {f"{name}@moves": value for name, value in metrics.items()} | {"@moves": jnp.ones(())}

    def left(state: S) -> tuple[S, Metrics]:
        return state, jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), jax.eval_shape(taken, state)[1])

    return jax.lax.cond((step + 1) % delay == 0, taken, left, state)


@jax.named_scope("average")
def polyak(target: Params, online: Params, tau: float) -> Params:
    """``tau * online + (1 - tau) * target``, leaf by leaf."""
    return optax.incremental_update(online, target, tau)
