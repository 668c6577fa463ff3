"""CFDG (arXiv 2508.06806): one diffusion model of transitions, labelled by origin, sampled with guidance.

    normaliser <- equal-weight mixture of offline and online rows
    repeat:     half a batch of offline rows, label 0; half of online rows, label 1
                each label <- null with probability p_uncond;  denoising loss
    generate:   D = (1 + w) D(x, label) - w D(x, null);  clip actions, threshold terminals, screen

No code of the authors was found; what their text leaves open is decided in the config, field by field.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cfdg_jax.data import buffer as ring
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import (
    Averaging,
    GeneratorState,
    Normaliser,
    drop_labels,
    filled,
    fit_normaliser,
    fit_scan,
    init_state,
    normalise,
    optimiser,
    unnormalise,
)
from cfdg_jax.diffusion.guidance import classifier_free
from cfdg_jax.diffusion.network import LabelEmbed, Precision, resmlp
from cfdg_jax.diffusion.samplers import Solver, sample
from cfdg_jax.types import Array, Augmenter, Buffer, Key, Metrics, Params, RowLayout, Source, Spec, require

OFFLINE, ONLINE, NULL = 0, 1, 2
"""Labels; null is the token of the unconditional branch."""
LABELS = {int(Source.SYNTHETIC_OFFLINE): OFFLINE, int(Source.SYNTHETIC_ONLINE): ONLINE}
"""The label that generates each synthetic source."""
OUTLIER = 10.0  # |z| beyond which a generated row is screened out (reference 4.2)
ACTION_LIMIT = 1.0 - 1e-5  # keeps atanh finite for squashed policies (IQL dataset_utils.py)


@dataclasses.dataclass(frozen=True)
class CFDGConfig:
    """The generator. Network and sampler as SynthER's online agent (config/online/sac_synther_dmc.gin)."""

    width: int = 1024  # units of the residual blocks (SynthER online)
    blocks: int = 6  # residual blocks (SynthER)
    dim_t: int = 256  # units of time and label embeddings (SynthER online)
    layer_norm: bool = False  # before activations (off in all of SynthER's configs)
    label_embed: LabelEmbed = "mlp"  # mlp: added to the time embedding (lucidrains); onehot_concat: joined to x
    steps: int = 100_000  # optimiser steps of a refresh (SynthER online; not stated by CFDG)
    batch: int = 256  # rows per step, half offline and half online (SynthER; balance: EDIS)
    lr: float = 3e-4  # AdamW, cosine to 0 over `steps` (SynthER)
    p_uncond: float = 0.1  # share of labels replaced by null (Ho & Salimans: .1 to .2; not stated by CFDG)
    ema_decay: float = 0.995  # of the averaged weights that sample (SynthER)
    ema_every: int = 10  # optimiser steps between updates of the average (SynthER)
    warm_start: bool = False  # keep the network between refreshes, at a constant rate (off: SynthER, EDIS)
    w: float = 0.3  # guidance weight, 0 is plain conditional (CFDG Eq. 7; value not stated)
    sampler_steps: int = 128  # N of Heun's method, 2 N - 1 evaluations (SynthER; 32 is the fast choice)
    churn: float = 80.0  # S_churn, 0 samples deterministically (SynthER)
    online_share: float = 0.8  # synthetic-online share of generated rows, 8:2 (CFDG)
    terminal_threshold: float = 0.5  # a generated flag above it is a terminal (SynthER offline)
    precision: Precision = "default"  # of matrix products; bfloat16 on accelerators trades accuracy for speed

    def __post_init__(self) -> None:
        minima = {"width": 1, "blocks": 1, "dim_t": 1, "steps": 1, "batch": 2, "ema_every": 1, "sampler_steps": 2}
        for name, least in minima.items():
            value = getattr(self, name)
            require(value >= least, f"augment.{name}", f"is {value}", f"must be at least {least}")
        require(self.batch % 2 == 0, "augment.batch", f"is {self.batch}", "must be even: half offline, half online")
        require(self.lr > 0, "augment.lr", f"is {self.lr}", "must be positive")
        for name in ("w", "churn"):
            value = getattr(self, name)
            require(value >= 0, f"augment.{name}", f"is {value}", "must be at least 0")
        for name in ("p_uncond", "online_share", "terminal_threshold", "ema_decay"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name}", f"is {value}", "must lie between 0 and 1")
        require(
            self.w == 0 or self.p_uncond > 0,
            "augment.p_uncond",
            f"is 0 while w is {self.w}",
            "guidance needs a trained null label; use p_uncond > 0 or w = 0",
        )


def cfdg(config: CFDGConfig, spec: Spec, with_terminal: bool) -> Augmenter:
    """CFDG's generator as an `Augmenter`; its state is a `GeneratorState`.

    `init` and `fit` need at least two offline rows and two rows in the online ring. With `warm_start`, `fit` also
    refits the normaliser, so that a kept state follows the ring.

    Args:
      config: See `CFDGConfig`.
      spec: The task.
      with_terminal: Model the terminal flag; otherwise generated rows never terminate.
    """
    layout, columns = spec.layout, spec.layout.generative_width(with_terminal)
    identity = (columns - 1,) if with_terminal else ()
    network = resmlp(
        columns,
        width=config.width,
        dim_t=config.dim_t,
        blocks=config.blocks,
        labels=3,
        label_embed=config.label_embed,
        layer_norm=config.layer_norm,
        precision=config.precision,
    )
    tx = optimiser(config.lr, None if config.warm_start else config.steps)
    averaging = Averaging(decay=config.ema_decay, every=config.ema_every)
    solver = Solver(steps=config.sampler_steps, churn=config.churn)

    def fit_moments(offline_rows: Array, online: Buffer) -> Normaliser:
        require(
            offline_rows.shape[0] >= 2, "augment", "cfdg needs offline rows", "name a dataset or set augment to none"
        )
        return fit_normaliser([(offline_rows, None), (online.rows, filled(online))], columns, identity)

    def init(key: Key, offline_rows: Array, online: Buffer) -> GeneratorState:
        return init_state(network.init(key), tx, fit_moments(offline_rows, online))

    def fit(state: GeneratorState, offline_rows: Array, online: Buffer, key: Key, steps: int) -> tuple[Any, Metrics]:
        if config.warm_start:
            state = state._replace(normaliser=fit_moments(offline_rows, online))

        def loss(params: Params, key: Key) -> Array:
            row_key, label_key, sigma_key, noise_key = jax.random.split(key, 4)
            rows, labels = draw_balanced(offline_rows, online, row_key, config.batch // 2)
            clean = normalise(state.normaliser, rows[:, :columns])
            labels = drop_labels(label_key, labels, config.p_uncond, NULL)
            sigma, noise = edm.draw_sigma(sigma_key, labels.shape), jax.random.normal(noise_key, clean.shape)
            return edm.loss(network, params, clean, sigma, noise, labels).mean()

        return fit_scan(state, loss, tx, averaging, key, steps)

    def generate(state: GeneratorState, key: Key, source: int, rows: int) -> tuple[Array, Metrics]:
        guided = classifier_free(edm.denoiser(network, state.ema), LABELS[int(source)], NULL, config.w)
        z = sample(guided, solver, key, (rows, columns))
        z, rejected = screen(z)
        packed = to_rows(unnormalise(state.normaliser, z), layout, source, with_terminal, config.terminal_threshold)
        return packed, {"rejected": rejected}

    shares = {int(Source.SYNTHETIC_ONLINE): config.online_share, int(Source.SYNTHETIC_OFFLINE): 1 - config.online_share}
    shares = {source: share for source, share in shares.items() if share > 0}
    return Augmenter(init, fit, generate, shares, config.steps, config.warm_start)


def draw_balanced(offline_rows: Array, online: Buffer, key: Key, half: int) -> tuple[Array, Array]:
    """`half` offline rows and as many online rows `[2 half, D]`, with their labels `[2 half]`.

    Drawing in proportion to the data would shift the null label's density, and with it what one w means, at every
    refresh (reference 5.3).
    """
    offline_key, online_key = jax.random.split(key)
    index = jax.random.randint(offline_key, (half,), 0, offline_rows.shape[0])
    rows = jnp.concatenate([offline_rows[index], ring.sample(online, online_key, half)])
    return rows, jnp.repeat(jnp.array([OFFLINE, ONLINE]), half)


def screen(z: Array) -> tuple[Array, Array]:
    """Replaces generated rows that are not finite or leave ``|z| <= 10`` by accepted rows of the same chunk.

    Args:
      z: `[n, d]` generated rows in normalised space.

    Returns:
      `[n, d]` rows, all accepted ones in their places, and the number of rows replaced, float32. Where no row is
      accepted there is nothing to draw on: every row is NaN then and the number is n, so that a finiteness check
      stops the run.
    """
    accepted = jnp.all(jnp.abs(z) <= OUTLIER, axis=-1)
    count = accepted.sum()
    accepted_first = jnp.argsort(~accepted, stable=True)
    substitute = accepted_first[(jnp.cumsum(~accepted) - 1) % jnp.maximum(count, 1)]
    screened = z[jnp.where(accepted, jnp.arange(z.shape[0]), substitute)]
    return jnp.where(count > 0, screened, jnp.nan), (z.shape[0] - count).astype(jnp.float32)


def to_rows(x: Array, layout: RowLayout, source: int, with_terminal: bool, threshold: float) -> Array:
    """Packs generated columns `[n, d]` in raw units into rows `[n, D]` of `source` with unknown return.

    Actions are clipped to ±(1 - 1e-5); a flag above `threshold` becomes 1, any other 0; NaN stays NaN.
    """
    flag = x[:, layout.generative_width(with_terminal) - 1]
    terminal = jnp.where(jnp.isnan(flag), jnp.nan, flag > threshold) if with_terminal else 0.0
    action = jnp.clip(x[:, layout.action], -ACTION_LIMIT, ACTION_LIMIT)
    return layout.pack(
        x[:, layout.obs], action, x[:, layout.reward], x[:, layout.next_obs], terminal, -jnp.inf, float(source)
    )
