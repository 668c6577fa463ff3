"""The rows of generators of transitions: which real rows they draw, and what becomes of samples.

samples in normalised space -> raw units -> screen -> clip actions, flag terminals -> packed rows
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.augment.base import DenoiserConfig
from cfdg_jax.augment.terminals import flags_of
from cfdg_jax.core import ring
from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import GeneratorState, Normaliser, unnormalise
from cfdg_jax.diffusion.samplers import Push, sample
from cfdg_jax.types import Array, Buffer, Key, Metrics, RowLayout, Spec

OUTLIER = 10.0  # |z| beyond which a generated row is screened out (docs/algorithms.md#synther)
OFTEN = 4  # times that a row may stand among generated ones
ACTION_LIMIT = 1.0 - 1e-5  # keeps atanh finite for squashed policies


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
    return ring.take(rows, jax.random.randint(key, (count,), 0, rows.shape[0]))


def draw_online(online: Buffer, key: Key, count: int, window: int = 0) -> Array:
    """`count` rows `[count, D]` drawn uniformly from the ring, or from its `window` newest rows."""
    return ring.sample_recent(online, key, count, window) if window else ring.sample(online, key, count)


def online_mask(online: Buffer, window: int = 0) -> Array:
    """Mask `[C]` of the rows of a one-seed ring that `draw_online` draws from."""
    capacity = online.rows.shape[0]
    age = (online.position - 1 - jnp.arange(capacity)) % capacity
    return age < (jnp.minimum(online.size, window) if window else online.size)


# -- generated rows ----------------------------------------------------------------------------------------------------


class RowState(NamedTuple):
    """What a generator of rows learns.

    Attributes:
      denoiser: Of the modelled columns.
      flags: `terminals.FlagState`, or () where the task never ends.
    """

    denoiser: GeneratorState
    flags: Any


class RowModel(NamedTuple):
    """A density of generated columns, as its denoiser.

    Attributes:
      denoise: Of normalised columns, guidance included.
      normaliser: Of the columns.
      columns: ``(rows [..., D]) -> [..., d]``, the columns of packed rows in raw units. Its Jacobian has determinant 1.
      ended: ``(obs [..., O]) -> [...]`` bool, whether the task ends at a state; None where it never does.
      over: The same of states that no row starts from.
      rate: `[]`, share of the real rows of its kind that end; None where that is not known.
    """

    denoise: Denoise
    normaliser: Normaliser
    columns: Callable[[Array], Array]
    ended: Callable[[Array], Array] | None = None
    over: Callable[[Array], Array] | None = None
    rate: Array | float | None = None


def row_model(
    denoise: Denoise, state: RowState, config: DenoiserConfig, spec: Spec, part: int | None = None
) -> RowModel:
    """The model of a denoiser of normalised columns and the classifier beside it.

    Args:
      part: That of the generator's data whose rows it makes; None for all alike.
    """
    layout, flags, normaliser = spec.layout, flags_of(spec), state.denoiser.normaliser
    columns = lambda rows: modelled(config, layout, rows)[..., : layout.generative_width]
    if flags is None:
        return RowModel(denoise, normaliser, columns)
    of = lambda ask: functools.partial(ask, state.flags, normaliser)
    rate = state.flags.rates.mean() if part is None else state.flags.rates[part]
    return RowModel(denoise, normaliser, columns, of(flags.ended), of(flags.over), rate)


def generate_rows(
    model: RowModel,
    config: DenoiserConfig,
    layout: RowLayout,
    key: Key,
    source: int,
    rows: int,
    push: Push | None = None,
) -> tuple[Array, Metrics]:
    """`rows` packed rows `[rows, D]` of `source` from a model, and ``rejected``; `push` as for `samplers.sample`.

    Rejected are rows that are not finite, that leave ``|z| <= 10`` in normalised space, or that start where the task
    has ended. Most of these would have ended: a denoiser blurs on which side of the line they start. So those that do
    end are drawn again, until as many do as in the data, but none more than `OFTEN` times.
    """
    z = sample(model.denoise, config.sampler, key, (rows, layout.generative_width), push)
    x = unnormalise(model.normaliser, z)
    if config.next_obs == "change":
        x = x.at[:, layout.next_obs].add(x[:, layout.obs])
    accepted = jnp.all(jnp.abs(z) <= OUTLIER, axis=-1)
    if model.over is None or model.ended is None:
        x, rejected = screen(x, accepted)
        return to_rows(x, layout, source, 0.0), {"rejected": rejected}
    accepted &= ~model.over(x[:, layout.obs])
    ends = model.ended(x[:, layout.next_obs]) & accepted
    count = ends.sum()
    wanted = count if model.rate is None else jnp.clip(jnp.round(model.rate * rows), count, OFTEN * count)
    x, rejected = screen(x, accepted, ends, wanted)
    return to_rows(x, layout, source, model.ended(x[:, layout.next_obs])), {"rejected": rejected}


def screen(x: Array, accepted: Array, ends: Array | bool = False, wanted: Array | float = 0.0) -> tuple[Array, Array]:
    """Replaces generated rows that are not accepted by accepted ones of the same chunk, `wanted` of which end.

    Args:
      x: `[n, d]` generated rows.
      accepted: `[n]` bool.
      ends: `[n]` bool, which of the accepted rows end.
      wanted: `[]`, number of rows that end; of no account where none of the accepted ones does, or all of them.

    Returns:
      `[n, d]` rows and the number that was not accepted, float32. Rows stay in their places, but for those not
      accepted and those of the kind that is too many. Where no row is accepted there is nothing to draw on: every row
      is NaN then and the number is n, by which a refresh knows to keep the rows it had.
    """
    count, ends = x.shape[0], accepted & ends
    goes_on = accepted & ~ends
    order = jnp.argsort(jnp.where(ends, 0, jnp.where(goes_on, 2, 1)), stable=True)
    first = jnp.arange(count)  # places in that order; ends fill them from the front, the others from the back
    last = count - 1 - first
    repeated = lambda place, some: place % jnp.maximum(some.sum(), 1)
    wanted = jnp.where(ends.any(), jnp.where(goes_on.any(), wanted, count), 0)
    taken = jnp.where(first < wanted, order[repeated(first, ends)], order[count - 1 - repeated(last, goes_on)])
    screened = x[jnp.zeros(count, int).at[order].set(taken)]
    return jnp.where(accepted.any(), screened, jnp.nan), (count - accepted.sum()).astype(jnp.float32)


def to_rows(x: Array, layout: RowLayout, source: int, terminal: Array | float) -> Array:
    """Packs generated columns `[n, d]` in raw units and flags `[n]` into rows `[n, D]` of `source`, returns unknown.

    Actions are clipped to ±(1 - 1e-5).
    """
    action = jnp.clip(x[:, layout.action], -ACTION_LIMIT, ACTION_LIMIT)
    return layout.pack(
        x[:, layout.obs], action, x[:, layout.reward], x[:, layout.next_obs], terminal, -jnp.inf, float(source)
    )
