"""The rows of generators of transitions: which real rows they draw, and what becomes of samples.

samples in normalised space -> screen -> raw units -> clip actions, threshold terminals -> packed rows
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.augment.base import DenoiserConfig
from cfdg_jax.core import ring
from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import Normaliser, unnormalise
from cfdg_jax.diffusion.samplers import Push, sample
from cfdg_jax.types import Array, Buffer, Key, Metrics, RowLayout

OUTLIER = 10.0  # |z| beyond which a generated row is screened out (docs/algorithms.md#synther)
ACTION_LIMIT = 1.0 - 1e-5  # keeps atanh finite for squashed policies
TERMINAL = 0.5  # a generated flag above it is a terminal (docs/algorithms.md#synther)


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
    model: RowModel,
    config: DenoiserConfig,
    layout: RowLayout,
    with_terminal: bool,
    key: Key,
    source: int,
    rows: int,
    push: Push | None = None,
) -> tuple[Array, Metrics]:
    """`rows` packed rows `[rows, D]` of `source` from a model, and ``rejected``; `push` as for `samplers.sample`."""
    z = sample(model.denoise, config.sampler, key, (rows, layout.generative_width(with_terminal)), push)
    z, rejected = screen(z)
    packed = to_rows(unnormalise(model.normaliser, z), layout, source, with_terminal)
    if config.next_obs == "change":
        packed = packed.at[..., layout.next_obs].add(packed[..., layout.obs])
    return packed, {"rejected": rejected}


def screen(z: Array) -> tuple[Array, Array]:
    """Replaces generated rows that are not finite or leave ``|z| <= 10`` by accepted rows of the same chunk.

    Args:
      z: `[n, d]` generated rows in normalised space.

    Returns:
      `[n, d]` rows, all accepted ones in their places, and the number of rows replaced, float32. Where no row is
      accepted there is nothing to draw on: every row is NaN then and the number is n, by which a refresh knows to
      keep the rows it had.
    """
    accepted = jnp.all(jnp.abs(z) <= OUTLIER, axis=-1)
    count = accepted.sum()
    accepted_first = jnp.argsort(~accepted, stable=True)
    substitute = accepted_first[(jnp.cumsum(~accepted) - 1) % jnp.maximum(count, 1)]
    screened = z[jnp.where(accepted, jnp.arange(z.shape[0]), substitute)]
    return jnp.where(count > 0, screened, jnp.nan), (z.shape[0] - count).astype(jnp.float32)


def to_rows(x: Array, layout: RowLayout, source: int, with_terminal: bool, threshold: float = TERMINAL) -> Array:
    """Packs generated columns `[n, d]` in raw units into rows `[n, D]` of `source` with unknown return.

    Actions are clipped to ±(1 - 1e-5); a flag above `threshold` becomes 1, any other 0; NaN stays NaN.
    """
    flag = x[:, layout.generative_width(with_terminal) - 1]
    terminal = jnp.where(jnp.isnan(flag), jnp.nan, flag > threshold) if with_terminal else 0.0
    action = jnp.clip(x[:, layout.action], -ACTION_LIMIT, ACTION_LIMIT)
    return layout.pack(
        x[:, layout.obs], action, x[:, layout.reward], x[:, layout.next_obs], terminal, -jnp.inf, float(source)
    )
