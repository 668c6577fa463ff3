"""What the generators of transitions share: their network and sampler, the rows they draw, and what becomes of samples.

samples in normalised space -> screen -> raw units -> clip actions, threshold terminals -> packed rows
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.core import ring
from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import (
    Averaging,
    GeneratorState,
    Normaliser,
    fit_normaliser,
    fit_step,
    init_state,
    optimiser,
    scan_steps,
    unnormalise,
)
from cfdg_jax.diffusion.network import LabelEmbed, Network, Precision, resmlp
from cfdg_jax.diffusion.samplers import Solver, sample
from cfdg_jax.errors import require
from cfdg_jax.types import Array, Buffer, Key, Metrics, Params, RowLayout

OUTLIER = 10.0  # |z| beyond which a generated row is screened out (reference 4.2)
ACTION_LIMIT = 1.0 - 1e-5  # keeps atanh finite for squashed policies (IQL dataset_utils.py)
RowSolver = Literal["heun", "dpm++2m", "dpm++2m-sde", "dpm++3m"]
Rows = Literal["online", "offline", "pooled"]
"""Real rows that a generator learns; pooled: half of each batch offline, half online."""


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Network, training and sampler as SynthER's online agent (config/online/sac_synther_dmc.gin)."""

    width: int = 1024  # units of the residual blocks (SynthER online; 2048 offline)
    blocks: int = 6  # residual blocks (SynthER)
    dim_t: int = 256  # units of time and label embeddings (SynthER online; 128 offline)
    layer_norm: bool = False  # before activations (off in all of SynthER's configs)
    steps: int = 100_000  # optimiser steps of a refresh (SynthER; not stated by CFDG)
    batch: int = 256  # rows per step (SynthER; 1024 for offline data of 800K rows and more)
    lr: float = 3e-4  # AdamW, cosine to 0 over `steps` (SynthER)
    ema_decay: float = 0.995  # of the averaged weights that sample (SynthER)
    ema_every: int = 10  # optimiser steps between updates of the average (SynthER)
    warm_start: bool = False  # keep the network between refreshes, at a constant rate (off: SynthER, EDIS)
    recent_window: int = 0  # newest online rows that count as online data; 0: all (CFDG, SynthER)
    solver: RowSolver = "heun"  # SynthER's; the dpm++ kinds need one evaluation a step instead of two
    sampler_steps: int = 128  # N: 2 N - 1 evaluations of heun (SynthER; 32 is the fast choice), N of dpm++
    churn: float = 80.0  # S_churn of heun, 0 samples deterministically (SynthER)
    next_obs: Literal["absolute", "change"] = "absolute"  # change: models s' - s, whose scale a short fit gets right
    terminal_threshold: float = 0.5  # a generated flag above it is a terminal (SynthER offline)
    precision: Precision = "default"  # of matrix products; bfloat16 on accelerators trades accuracy for speed

    def __post_init__(self) -> None:
        minima = {"width": 1, "blocks": 1, "dim_t": 1, "steps": 1, "batch": 2, "ema_every": 1, "sampler_steps": 2}
        for name, least in (minima | {"recent_window": 0, "churn": 0}).items():
            value = getattr(self, name)
            require(value >= least, f"augment.{name}", f"is {value}", f"must be at least {least}")
        require(self.recent_window != 1, "augment.recent_window", "is 1", "must be 0 (all rows) or at least 2")
        require(self.lr > 0, "augment.lr", f"is {self.lr}", "must be positive")
        for name in ("terminal_threshold", "ema_decay"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name}", f"is {value}", "must lie between 0 and 1")

    @property
    def fitted_to(self) -> Rows:
        """The rows that the generator learns."""
        return "pooled"

    @property
    def sampler(self) -> Solver:
        return Solver(steps=self.sampler_steps, kind=self.solver, churn=self.churn)


def row_network(config: DenoiserConfig, columns: int, labels: int = 0, label_embed: LabelEmbed = "mlp") -> Network:
    """The denoising network of rows of `columns` generated columns."""
    return resmlp(
        columns,
        width=config.width,
        dim_t=config.dim_t,
        blocks=config.blocks,
        labels=labels,
        label_embed=label_embed,
        layer_norm=config.layer_norm,
        precision=config.precision,
    )


class RowTraining(NamedTuple):
    """A denoiser of rows in training, for one seed; its state is a `GeneratorState`.

    Attributes:
      init: ``(key, offline_rows, online) -> state``.
      refit: ``(state, offline_rows, online) -> state`` with the normaliser of the present rows if the network is kept
        between refreshes, so that it follows the ring; unchanged otherwise.
      step: ``(state, offline_rows, online, key) -> (state, metrics)``, one optimiser step.
    """

    init: Callable[[Key, Array, Buffer], GeneratorState]
    refit: Callable[[GeneratorState, Array, Buffer], GeneratorState]
    step: Callable[[GeneratorState, Array, Buffer, Key], tuple[GeneratorState, Metrics]]

    def fit(
        self, state: GeneratorState, offline_rows: Array, online: Buffer, key: Key, steps: int
    ) -> tuple[GeneratorState, Metrics]:
        """`steps` steps; metrics are means over them."""
        state = self.refit(state, offline_rows, online)
        return scan_steps(lambda state, key: self.step(state, offline_rows, online, key), state, key, steps)


def row_training(
    config: DenoiserConfig,
    network: Network,
    columns: int,
    with_terminal: bool,
    parts: Callable[[Array, Buffer], list[tuple[Array, Array | None]]],
    loss: Callable[[Params, Normaliser, Array, Buffer, Key], Array],
) -> RowTraining:
    """The training of a denoiser of rows.

    Args:
      parts: ``(offline_rows, online) -> parts`` of the normaliser's equal-weight mixture.
      loss: ``(params, normaliser, offline_rows, online, key) -> []``, on rows it draws itself.
    """
    tx = optimiser(config.lr, None if config.warm_start else config.steps)
    averaging = Averaging(decay=config.ema_decay, every=config.ema_every)
    identity = (columns - 1,) if with_terminal else ()
    moments = lambda offline_rows, online: fit_normaliser(parts(offline_rows, online), columns, identity)

    def init(key: Key, offline_rows: Array, online: Buffer) -> GeneratorState:
        return init_state(network.init(key), tx, moments(offline_rows, online))

    def refit(state: GeneratorState, offline_rows: Array, online: Buffer) -> GeneratorState:
        return state._replace(normaliser=moments(offline_rows, online)) if config.warm_start else state

    def step(state: GeneratorState, offline_rows: Array, online: Buffer, key: Key) -> tuple[GeneratorState, Metrics]:
        return fit_step(state, lambda p: loss(p, state.normaliser, offline_rows, online, key), tx, averaging)

    return RowTraining(init, refit, step)


# -- real rows ---------------------------------------------------------------------------------------------------------


def modelled(config: DenoiserConfig, layout: RowLayout, rows: Array) -> Array:
    """Rows `[..., D]` as the generator sees them: with ``next_obs`` "change", s' - s in the place of s'.

    One step moves a state by a tenth of a standard deviation, so an error that is small for s' is large for what
    follows from (s, a). The change is standardised by its own moments.
    """
    if config.next_obs == "absolute":
        return rows
    return rows.at[..., layout.next_obs].add(-rows[..., layout.obs])


def draw_offline(rows: Array, key: Key, count: int) -> Array:
    """`count` rows `[count, D]` drawn uniformly with replacement."""
    return rows[jax.random.randint(key, (count,), 0, rows.shape[0])]


def draw_online(online: Buffer, key: Key, count: int, window: int = 0) -> Array:
    """`count` rows `[count, D]` drawn uniformly from the ring, or from its `window` newest rows."""
    return ring.sample_recent(online, key, count, window) if window else ring.sample(online, key, count)


def online_mask(online: Buffer, window: int = 0) -> Array:
    """Mask `[C]` of the rows of a one-seed ring that `draw_online` draws from."""
    capacity = online.rows.shape[0]
    age = (online.position - 1 - jnp.arange(capacity)) % capacity
    return age < (jnp.minimum(online.size, window) if window else online.size)


# -- generated rows ----------------------------------------------------------------------------------------------------


class RowModel(NamedTuple):
    """A density of generated columns, as its denoiser.

    Attributes:
      denoise: Of normalised columns, guidance included.
      normaliser: Of the columns.
      columns: ``(rows [..., D]) -> [..., d]``, the columns of packed rows in raw units. Its Jacobian has determinant 1.
    """

    denoise: Denoise
    normaliser: Normaliser
    columns: Callable[[Array], Array]


def row_model(
    denoise: Denoise, normaliser: Normaliser, config: DenoiserConfig, layout: RowLayout, with_terminal: bool
) -> RowModel:
    """The model of a denoiser of normalised columns."""
    width = layout.generative_width(with_terminal)
    return RowModel(denoise, normaliser, lambda rows: modelled(config, layout, rows)[..., :width])


def generate_rows(
    model: RowModel, config: DenoiserConfig, layout: RowLayout, with_terminal: bool, key: Key, source: int, rows: int
) -> tuple[Array, Metrics]:
    """`rows` packed rows `[rows, D]` of `source` from a model, and ``rejected``."""
    z = sample(model.denoise, config.sampler, key, (rows, layout.generative_width(with_terminal)))
    z, rejected = screen(z)
    packed = to_rows(unnormalise(model.normaliser, z), layout, source, with_terminal, config.terminal_threshold)
    if config.next_obs == "change":
        packed = packed.at[..., layout.next_obs].add(packed[..., layout.obs])
    return packed, {"rejected": rejected}


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
