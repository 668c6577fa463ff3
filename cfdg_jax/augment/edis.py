"""EDIS (Liu et al. 2024, arXiv 2407.12448): a pooled diffusion model pushed, while it samples, by three energies.

    denoiser   SynthER's, on offline and online rows together
    energies   E(x, sigma) of a whole noised row, each low on online rows x+ and high on generated rows x-
               L = E(x+) + log sum over {x+, x-_1 .. x-_10} of exp(-E)     so that exp(-E) ~ p_online / p_generated
               x-:  state: any row;  policy: the same s;  transition: the same s and a
    generate   slope (x - D) / sigma  +  kappa_s dE_state/ds + kappa_p dE_policy/da + kappa_t dE_transition/ds'

Differences from liuxhym/EDIS that no option takes back: the online rows' own actions stand in for fresh actions of the
policy, which a generator does not know; energies are asked at the x and sigma of the denoiser, after churn, where the
release asks before it; rewards come from the denoiser.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cfdg_jax.augment.base import check_use, reduced_values
from cfdg_jax.augment.rows import (
    DenoiserConfig,
    RowModel,
    draw_online,
    generate_rows,
    modelled,
    row_model,
    row_network,
)
from cfdg_jax.augment.synther import unlabelled_training
from cfdg_jax.core.networks import Network, ensemble, mlp
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import GeneratorState, Normaliser, lockstep, normalise
from cfdg_jax.diffusion.guidance import inpainted
from cfdg_jax.diffusion.samplers import sample
from cfdg_jax.errors import require
from cfdg_jax.methods import Augmenter, Entry, Preset, Task, Values
from cfdg_jax.types import Array, Buffer, Key, Metrics, Params, RowLayout, Source, Spec

STATE, POLICY, TRANSITION = 0, 1, 2
"""Places of the energies in their stacked parameters."""
LEVELS = 128  # N of the noise levels that energies are trained on, whatever the sampler's own


@dataclasses.dataclass(frozen=True)
class EDISConfig(DenoiserConfig):
    """The denoiser's fields are SynthER's, the energies' those of IQL-EDIS (algorithms/iql_edis.py)."""

    steps: int = 30_000  # denoiser steps of a refresh (IQL-EDIS; 50_000 on some tasks, Cal-QL-EDIS 10_000)
    terminals: bool = True  # model the terminal flag where there is one; off: generated rows never end (released)
    energy_steps: int = 20  # optimiser steps of the energies in a refresh, after the denoiser's (released)
    energy_batch: int = 256  # online rows per step (released)
    energy_hidden: tuple[int, ...] = (256, 256, 256)  # of each energy (released)
    energy_lr: float = 1e-3  # Adam (released)
    negatives: int = 10  # generated rows per online row (released)
    energy_every: int = 16  # energies learn every so many of 128 noise levels, from the highest (released)
    energy_window: int = 0  # newest online rows that are positives; 0: all (released)
    kappa_state: float = 2.0  # push of s (IQL-EDIS; Cal-QL-EDIS .01 to 2 by task)
    kappa_policy: float = 0.1  # push of a (IQL-EDIS)
    kappa_transition: float = 0.1  # push of s' (IQL-EDIS)
    kappa_of: Literal["slope", "score"] = "slope"  # what kappa dE is added to (slope: released; score: exact at 1)
    guidance_clip: float = 10.0  # largest norm of the push, per square root of columns (released)
    contrast: Literal["corrected", "released"] = (
        "corrected"  # released: its masks, units and mixed groups, see _released
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.batch % 2 == 0, "augment.batch", f"is {self.batch}", "must be even: half offline, half online")
        for name in ("energy_steps", "energy_batch", "negatives"):
            value = getattr(self, name)
            require(value >= 1, f"augment.{name}", f"is {value}", "must be at least 1")
        require(
            1 <= self.energy_every <= LEVELS,
            "augment.energy_every",
            f"is {self.energy_every}",
            f"must be 1 to {LEVELS}",
        )
        require(self.energy_window >= 0, "augment.energy_window", f"is {self.energy_window}", "must be at least 0")
        for name in ("energy_lr", "guidance_clip"):
            value = getattr(self, name)
            require(value > 0, f"augment.{name}", f"is {value}", "must be positive")
        for name in ("kappa_state", "kappa_policy", "kappa_transition"):
            value = getattr(self, name)
            require(value >= 0, f"augment.{name}", f"is {value}", "must be at least 0")
        require(all(width > 0 for width in self.energy_hidden), "augment.energy_hidden", "has a width of 0", "use > 0")


class EDISState(NamedTuple):
    """The denoiser's state, then the energies'.

    Attributes:
      denoiser: SynthER's state.
      energies: Parameters of the three energies, stacked.
      opt_state: Their Adam moments.
      step: `[]` int32, steps of both kinds since the start.
      metrics: The newest of every metric; 0 before its kind of step.
    """

    denoiser: GeneratorState
    energies: Params
    opt_state: Any
    step: Array
    metrics: Metrics


class Columns(NamedTuple):
    """Masks `[d]` over generated columns."""

    state: np.ndarray
    action: np.ndarray
    next_state: np.ndarray

    @classmethod
    def of(cls, layout: RowLayout, columns: int) -> Columns:
        place = np.arange(columns)
        within = lambda part: (place >= part.start) & (place < part.stop)
        return cls(within(layout.obs), within(layout.action), within(layout.next_obs))

    def shared(self) -> np.ndarray:
        """Columns `[3, d]` that the negatives of each energy have from their online row."""
        return np.stack([np.zeros_like(self.state), self.state, self.state | self.action])


def edis(config: EDISConfig, spec: Spec, with_terminal: bool) -> Augmenter:
    """EDIS's generator as an `Augmenter`; its state is an `EDISState`.

    `init` and `fit` need at least two offline rows and two rows in the online ring.

    Args:
      config: See `EDISConfig`.
      spec: The task.
      with_terminal: Model the terminal flag; otherwise generated rows never terminate.
    """
    with_terminal = with_terminal and config.terminals
    layout, columns = spec.layout, spec.layout.generative_width(with_terminal)
    network, energy = row_network(config, columns), energy_network(config, columns)
    training = unlabelled_training(config, "pooled", network, layout, with_terminal)
    adam, masks = optax.adam(config.energy_lr), Columns.of(spec.layout, columns)
    fit_steps = config.steps + config.energy_steps

    def init(key: Key, offline_rows: Array, online: Buffer) -> EDISState:
        denoiser_key, energy_key = jax.random.split(key)
        energies = energy.init(energy_key)
        metrics = {name: jnp.zeros(()) for name in ("loss", "gradient_norm", "energy_loss")}
        denoiser = training.init(denoiser_key, offline_rows, online)
        return EDISState(denoiser, energies, adam.init(energies), jnp.zeros((), jnp.int32), metrics)

    def energy_step(state: EDISState, online: Buffer, key: Key) -> EDISState:
        row_key, loss_key = jax.random.split(key)
        rows = draw_online(online, row_key, config.energy_batch, config.energy_window)
        rows = modelled(config, layout, rows)[:, :columns]
        unlabelled = edm.denoiser(network, state.denoiser.ema)
        denoise = lambda x, sigma: unlabelled(x, sigma, None)
        contrast = _corrected if config.contrast == "corrected" else _released
        loss_of = contrast(config, energy, masks, denoise, state.denoiser.normaliser, rows, loss_key)
        loss, gradient = jax.value_and_grad(loss_of)(state.energies)
        updates, opt_state = adam.update(gradient, state.opt_state)
        energies = optax.apply_updates(state.energies, updates)
        metrics = state.metrics | {"energy_loss": loss}
        return state._replace(energies=energies, opt_state=opt_state, metrics=metrics)

    def fit(state: EDISState, offline_rows: Array, online: Buffer, key: Key, steps: int) -> tuple[EDISState, Metrics]:
        keys, made = jax.random.split(key, steps), lockstep(state.step) % fit_steps
        denoising = jnp.clip(config.steps - made, 0, steps)

        def denoiser_step(i: Array, state: EDISState) -> EDISState:
            denoiser, metrics = training.step(state.denoiser, offline_rows, online, keys[i])
            return state._replace(denoiser=denoiser, metrics=state.metrics | metrics)

        state = state._replace(denoiser=training.refit(state.denoiser, offline_rows, online))
        state = jax.lax.fori_loop(0, denoising, denoiser_step, state)
        state = jax.lax.fori_loop(denoising, steps, lambda i, state: energy_step(state, online, keys[i]), state)
        return state._replace(step=state.step + steps), state.metrics

    def model(state: EDISState, source: int) -> RowModel:
        del source
        denoiser = state.denoiser
        unlabelled = edm.denoiser(network, denoiser.ema)
        plain = lambda x, sigma: unlabelled(x, sigma, None)
        energies = lambda x, sigma: energy.apply(
            state.energies, energy_inputs(x, sigma, config.contrast, denoiser.normaliser)
        )
        units = 1.0 if config.contrast == "corrected" else denoiser.normaliser.std
        guided = energy_guidance(plain, energies, config, masks, units)
        return row_model(guided, denoiser.normaliser, config, layout, with_terminal)

    def generate(state: EDISState, key: Key, source: int, rows: int) -> tuple[Array, Metrics]:
        return generate_rows(model(state, source), config, layout, with_terminal, key, source, rows)

    shares = {int(Source.SYNTHETIC_ONLINE): 1.0}
    return Augmenter(init, fit, generate, shares, fit_steps, config.warm_start, model)


def energy_network(config: EDISConfig, columns: int) -> Network:
    """Three energies of a row and its noise level: ``apply(params, inputs [..., columns + 1]) -> [3, ...]``."""
    network = ensemble(mlp(columns + 1, 1, config.energy_hidden, init="pytorch"), 3)
    return Network(network.init, lambda params, inputs: network.apply(params, inputs)[..., 0])


def energy_inputs(x: Array, sigma: Array, contrast: str, normaliser: Normaliser) -> Array:
    """What energies see of x `[..., d]` in normalised space at sigma `[...]`: columns and noise level, `[..., d + 1]`.

    The corrected ones see what the denoising network sees, the released ones raw units and the sampler's step index.
    """
    sigma = jnp.broadcast_to(sigma, x.shape[:-1])
    if contrast == "corrected":
        c = edm.preconditioning(sigma)
        return jnp.concatenate([c.c_in[..., None] * x, c.c_noise[..., None]], axis=-1)
    high, low = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    index = (LEVELS - 1) * (high - sigma ** (1 / 7)) / (high - low)
    return jnp.concatenate([x * normaliser.std + normaliser.mean, index[..., None]], axis=-1)


def energy_guidance(
    denoise: Denoise,
    energies: Callable[[Array, Array], Array],
    config: EDISConfig,
    masks: Columns,
    units: Array | float = 1.0,
) -> Denoise:
    """The denoiser whose slope, or score, is pushed by the energies ``(x [n, d], sigma []) -> [3, n]``.

    Gradients are with respect to ``units x``; a push longer than `guidance_clip` times sqrt(d) is cut to that.
    """
    kappa = np.stack([
        config.kappa_state * masks.state,
        config.kappa_policy * masks.action,
        config.kappa_transition * masks.next_state,
    ])  # fmt: skip
    if not kappa.any():
        return denoise
    limit = config.guidance_clip * kappa.shape[1] ** 0.5

    def guided(x: Array, sigma: Array) -> Array:
        _, pullback = jax.vjp(lambda x: energies(x, sigma), x)
        ones = jnp.eye(3)[:, :, None] * jnp.ones(x.shape[0])
        gradients = jax.vmap(lambda cotangent: pullback(cotangent)[0])(ones)
        push = jnp.sum(kappa[:, None, :] * gradients, axis=0) / units
        norm = jnp.linalg.norm(push, axis=-1, keepdims=True)
        push = push * jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
        return denoise(x, sigma) - (sigma if config.kappa_of == "slope" else sigma**2) * push

    return guided


# -- contrast ----------------------------------------------------------------------------------------------------------


def _corrected(
    config: EDISConfig, energy: Network, masks: Columns, denoise: Denoise, normaliser: Normaliser, rows: Array, key: Key
) -> Callable[[Params], Array]:
    """The mean contrastive loss of the three energies, as a function of their parameters.

    Rows and negatives are noised to the same level, one level per group, and the columns a negative shares with its
    row (none, s, s and a) are shared before noise.
    """
    sample_key, level_key, noise_key = jax.random.split(key, 3)
    clean = normalise(normaliser, rows)
    count, columns = clean.shape
    repeated = jnp.repeat(clean, config.negatives, axis=0)
    negatives = []
    for kept, kind_key in zip(masks.shared(), jax.random.split(sample_key, 3), strict=True):
        field = inpainted(denoise, repeated, jnp.asarray(kept)) if kept.any() else denoise
        drawn = sample(field, config.sampler, kind_key, repeated.shape)
        negatives.append(jnp.where(kept, repeated, drawn))
    groups = jnp.stack(negatives).reshape(3, count, config.negatives, columns)
    groups = jnp.concatenate([jnp.broadcast_to(clean[:, None], (3, count, 1, columns)), groups], axis=2)
    levels = edm.schedule(LEVELS)[:-1][:: config.energy_every]
    sigma = jnp.asarray(levels, jnp.float32)[jax.random.randint(level_key, (3, count, 1), 0, len(levels))]
    noisy = groups + sigma[..., None] * jax.random.normal(noise_key, groups.shape)
    inputs = jax.lax.stop_gradient(energy_inputs(noisy, sigma, "corrected", normaliser))

    def loss(params: Params) -> Array:
        each = _each(energy, params, inputs)
        return -jax.nn.log_softmax(-each, axis=-1)[..., 0].mean()

    return loss


def _released(
    config: EDISConfig, energy: Network, masks: Columns, denoise: Denoise, normaliser: Normaliser, rows: Array, key: Key
) -> Callable[[Params], Array]:
    """The loss that liuxhym/EDIS minimises (diffusion/trainer.py), whose negatives are hardly ever samples.

    Everything is in raw units, to which noise of EDM's normalised levels is added. Negatives at the highest level are
    pure noise; below it the mask of the condition covers all columns, so they are the condition and zeros. The state's
    energy sees the highest level alone, one group of all rows. Groups are cut from arrays ordered by level and then by
    row, which mixes both. Losses are sums.
    """
    del denoise
    noise_key, start_key = jax.random.split(key)
    indices = np.arange(0, LEVELS, config.energy_every)
    levels, count, k = edm.schedule(LEVELS)[indices], rows.shape[0], config.negatives
    sigma = jnp.asarray(levels, jnp.float32)[:, None, None]
    positive = rows + sigma * jax.random.normal(noise_key, (3, len(levels), *rows.shape))
    start = normaliser.mean + normaliser.std * 80.0 * jax.random.normal(start_key, (3, count * k, rows.shape[1]))
    condition = jnp.where(masks.shared()[:, None], rows, 0.0)
    constants = jnp.broadcast_to(
        jnp.repeat(condition, k, axis=1)[:, None], (3, len(levels) - 1, count * k, rows.shape[1])
    )
    negative = jnp.concatenate([start[:, None], constants], axis=1)
    with_index = lambda x: jnp.concatenate(
        [x, jnp.broadcast_to(jnp.asarray(indices, jnp.float32)[:, None, None], (*x.shape[:-1], 1))], axis=-1
    )

    def loss(params: Params) -> Array:
        high, low = _each(energy, params, with_index(positive)), _each(energy, params, with_index(negative))
        state = -high[STATE, 0] - jax.nn.logsumexp(-jnp.concatenate([high[STATE, 0], low[STATE, 0]]))
        grouped = lambda x, size: x.reshape(2, count, size, len(levels))
        pair = jnp.concatenate([grouped(high[1:], 1), grouped(low[1:], k)], axis=2)
        return -state.sum() - jax.nn.log_softmax(-pair, axis=2)[:, :, 0].sum()

    return loss


def _each(energy: Network, params: Params, inputs: Array) -> Array:
    """Each energy of its own inputs: `[3, ..., d + 1]` -> `[3, ...]`."""
    own = lambda p, x: energy.apply(jax.tree.map(lambda leaf: leaf[None], p), x)[0]
    return jax.vmap(own)(params, inputs)


def _values(preset: Preset, task: Task) -> Values:
    """IQL-EDIS (docs/algorithms.md#edis)."""
    if preset == "paper":
        return {"refresh.every": 10_000, "refresh.rows": 100_000}
    values = reduced_values(preset) | {"augment.energy_batch": 64, "augment.negatives": 4}
    if preset == "smoke":
        values |= {"augment.energy_batch": 8, "augment.negatives": 2, "augment.energy_steps": 3}
        values |= {"augment.energy_hidden": (32, 32)}
    return values


ENTRY = Entry(
    EDISConfig,
    edis,
    about="a diffusion model pushed by three energies while it samples (Liu et al. 2024)",
    values=_values,
    check=check_use,
)
