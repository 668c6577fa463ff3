"""Training of a diffusion model: the normaliser, the optimiser, the averaged weights, one step and a scan of steps.

    repeat:  gradient of the loss -> clip to norm 1 -> AdamW on a cosine -> every 10th step: average the weights

The state of a generator is one NamedTuple of arrays. The learning-rate schedule lives in its optimiser state, so
training may be cut into calls of any length. Constants and their sources: docs/algorithms.md#edm.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.types import Array, Key, Metrics, Params


class Normaliser(NamedTuple):
    """Per-column standardisation; `mean` `[d]`, `std` `[d]`."""

    mean: Array
    std: Array


class GeneratorState(NamedTuple):
    """A diffusion model in training.

    Attributes:
      params: The network.
      ema: Its average, which samples.
      opt_state: Optimiser moments and the place on the learning-rate schedule.
      normaliser: Fitted once per refresh.
      step: `[]` int32, optimiser steps made.
    """

    params: Params
    ema: Params
    opt_state: Any
    normaliser: Normaliser
    step: Array


@jax.custom_batching.custom_vmap
def lockstep(count: Array) -> Array:
    """`count` of steps, which all seeds make together: batched over seeds it stays one number.

    A condition on it then stays a condition, where `jax.vmap` would run both branches for every seed.
    """
    return count


@lockstep.def_vmap
def _first_seed(seeds: int, batched: list[bool], count: Array) -> tuple[Array, bool]:
    del seeds
    return (count[0] if batched[0] else count), False


@dataclasses.dataclass(frozen=True)
class Averaging:
    """Exponential average of weights with warm-up, as ema-pytorch 0.8.3 makes it for SynthER.

    It acts at calls 1, 1 + every, 1 + 2 every, ...; up to call `warmup` + 1 it copies.
    """

    decay: float = 0.995
    every: int = 10
    warmup: int = 100
    power: float = 2 / 3

    @classmethod
    def over(cls, share: float, steps: int) -> Averaging:
        """The average over the last `share` of a fit of `steps` steps; 0 averages nothing.

        Its decay weighs the past by e^-1 after a window of ``share * steps`` steps: 1 - every / window, which makes
        SynthER's 0.995 of 2 % of its 100,000 steps. A decay that is kept while the fit gets shorter would sample
        weights from long before its end.
        """
        if share == 0:
            return cls(decay=0.0, every=1)
        return cls(decay=max(0.0, 1.0 - cls.every / (share * steps)))

    def due(self, call: Array) -> Array:
        """Whether optimiser step number `call` (from 1) is followed by an update of the average."""
        return (call - 1) % self.every == 0

    def decay_at(self, call: Array) -> Array:
        """Weight of the old average in the update after step `call`."""
        past = jnp.maximum(call - self.warmup - 1, 0).astype(jnp.float32)
        return jnp.minimum(1.0 - (1.0 + past) ** -self.power, self.decay)

    def update(self, average: Params, params: Params, call: Array) -> Params:
        """The average after optimiser step `call`."""
        call = lockstep(call)
        decay = self.decay_at(call)
        blend = lambda old, new: jax.tree.map(lambda o, n: decay * o + (1.0 - decay) * n, old, new)
        return jax.lax.cond(self.due(call), blend, lambda old, new: old, average, params)


# -- normaliser --------------------------------------------------------------------------------------------------------


def fit_normaliser(parts: Sequence[tuple[Array, Array | None]], columns: int) -> Normaliser:
    """Fits to the mixture in which every part weighs the same, whatever its number of rows.

    Args:
      parts: Pairs of rows `[n, D]` and a mask `[n]` of rows that count, or None for all. A part must hold two rows.
      columns: ``d``, leading columns that are modelled.

    Returns:
      Means and standard deviations + 1e-5 (conglu1997/SynthER), by the law of total variance, with unbiased variances
      inside the parts. A constant column normalises to 0.
    """
    means, variances = zip(*[_moments(rows[:, :columns], mask) for rows, mask in parts], strict=True)
    mean = sum(means) / len(parts)
    variance = sum(v + (m - mean) ** 2 for m, v in zip(means, variances, strict=True)) / len(parts)
    return Normaliser(mean, jnp.sqrt(variance) + 1e-5)


def _moments(rows: Array, mask: Array | None) -> tuple[Array, Array]:
    count = rows.shape[0] if mask is None else mask.sum()
    total = lambda x: (x if mask is None else jnp.where(mask[:, None], x, 0.0)).sum(axis=0)
    mean = total(rows) / count
    # The mean of what is left corrects the rounding of a long float32 sum; a constant column needs it exact.
    mean = mean + total(rows - mean) / count
    return mean, total((rows - mean) ** 2) / (count - 1)


def normalise(normaliser: Normaliser, x: Array) -> Array:
    """Raw units `[..., d]` to the space of the diffusion."""
    return (x - normaliser.mean) / normaliser.std


def unnormalise(normaliser: Normaliser, z: Array) -> Array:
    """The inverse of `normalise`."""
    return z * normaliser.std + normaliser.mean


# -- training ----------------------------------------------------------------------------------------------------------


def drop_labels(key: Key, labels: Any, probability: Array | float, null: Any) -> Any:
    """Replaces each label `[B]` by `null` with `probability`, row by row, never the batch as a whole.

    Labels may be a NamedTuple of arrays `[B]`, and null one of the same kind: all of a row are dropped together.
    """
    dropped = jax.random.bernoulli(key, probability, jax.tree.leaves(labels)[0].shape)
    return jax.tree.map(lambda label, none: jnp.where(dropped, none, label), labels, null)


def optimiser(lr: float, steps: int) -> optax.GradientTransformation:
    """SynthER's: gradient norm clipped to 1, AdamW(.9, .99), no decay, cosine to 0 over `steps`."""
    rate = optax.cosine_decay_schedule(lr, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b1=0.9, b2=0.99, weight_decay=0.0))


def init_state(params: Params, tx: optax.GradientTransformation, normaliser: Normaliser) -> GeneratorState:
    """The state before the first step; the average starts at the weights."""
    return GeneratorState(params, jax.tree.map(jnp.copy, params), tx.init(params), normaliser, jnp.zeros((), jnp.int32))


def fit_step(
    state: GeneratorState,
    loss: Callable[[Params], Array],
    tx: optax.GradientTransformation,
    averaging: Averaging,
) -> tuple[GeneratorState, Metrics]:
    """One optimiser step on the scalar ``loss(params)``; metrics are the loss and the unclipped gradient norm."""
    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    step = state.step + 1
    ema = averaging.update(state.ema, params, step)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
    return GeneratorState(params, ema, opt_state, state.normaliser, step), metrics


def fit_scan(
    state: GeneratorState,
    loss: Callable[[Params, Key], Array],
    tx: optax.GradientTransformation,
    averaging: Averaging,
    key: Key,
    steps: int,
) -> tuple[GeneratorState, Metrics]:
    """`steps` optimiser steps on ``loss(params, key)``, which draws its own rows; metrics are means over the steps."""
    step = lambda state, key: fit_step(state, lambda params: loss(params, key), tx, averaging)
    return scan_steps(step, state, key, steps)


def scan_steps(
    step: Callable[[GeneratorState, Key], tuple[GeneratorState, Metrics]], state: GeneratorState, key: Key, steps: int
) -> tuple[GeneratorState, Metrics]:
    """`steps` times ``step(state, key)``, each with a key of its own; metrics are means over the steps."""
    state, metrics = jax.lax.scan(step, state, jax.random.split(key, steps))
    return state, jax.tree.map(jnp.mean, metrics)
