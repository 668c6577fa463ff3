"""What is told of a row beside its label: a score of the row, as a quantile (docs/algorithms.md#condition).

    score      of every real row, when a refresh begins
    quantile   its place among the scores of offline and online rows, both parts weighing the same
    sample     quantiles drawn uniformly from the top part

GODA (Huang et al., arXiv 2412.20519) conditions on the return-to-go, PGR (Wang et al., arXiv 2410.18082) on curiosity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.augment.rows import online_mask
from cfdg_jax.core import ring
from cfdg_jax.core.networks import mlp
from cfdg_jax.diffusion.fit import Normaliser, fit_normaliser, normalise
from cfdg_jax.diffusion.network import UNKNOWN
from cfdg_jax.methods import Judge
from cfdg_jax.types import Array, Buffer, Key, Params, RowLayout

Condition = Literal["label", "return", "advantage", "surprise", "td"]
"""Beside the label: nothing (``label``), or a score of the row. ``return``: its return-to-go; ``advantage``:
Q(s, a) - Q(s, pi(s)); ``td``: the size of its TD error; ``surprise``: the error of a forward model."""
JUDGED = ("advantage", "td")
"""Scores that only an agent can give."""

CHUNK = 4_096  # rows that are scored at once
HIDDEN = (128, 128)  # of the forward model
STEPS, RATE = 2_000, 1e-3  # its Adam's
STANDARDISED = 64  # batches by whose moments it sees rows: those of all rows would need a copy of them
Score = Callable[[Array, Key], Array]
"""``(rows [n, D], key) -> [n]``, larger is more wanted; not finite where unknown."""
Draw = Callable[[Array, Buffer, Key], Array]
"""``(offline_rows, online, key) -> rows [B, D]``: one batch, each part in equal shares."""


class Scores(NamedTuple):
    """A number of every real row: its score, or its quantile, which is `UNKNOWN` without a score.

    Attributes:
      offline: `[N]`.
      online: `[C]`.
    """

    offline: Array
    online: Array

    def drawn(self, draw: Draw, online: Buffer, key: Key) -> Array:
        """The numbers `[B]` of the rows that `draw` draws by `key`: rows of this one column, drawn likewise."""
        return draw(self.offline[:, None], online._replace(rows=self.online[:, None]), key)[:, 0]


def score_rows(
    condition: Condition,
    layout: RowLayout,
    offline_rows: Array,
    online: Buffer,
    judge: Judge | None,
    key: Key,
    draw: Draw,
    window: int = 0,
) -> Scores:
    """The quantiles of all real rows of one seed.

    Args:
      condition: Not ``label``.
      layout: Of the rows.
      offline_rows: `[N, D]`.
      online: Its ring, of any fill.
      judge: The agent; without one, scores that it alone can give are unknown.
      key: Of the forward model and of policies that draw their actions.
      draw: Of the batches of the forward model, both parts in equal shares.
      window: Newest online rows that count as online data; 0: all. Others have no quantile.
    """
    fit_key, offline_key, online_key = jax.random.split(key, 3)
    mask = online_mask(online, window)
    if condition == "return":
        score: Score | None = lambda rows, key: rows[:, layout.mc_return]
    elif condition == "surprise":
        score = forward_error(layout, lambda key: draw(offline_rows, online, key), fit_key)
    else:
        score = judged(condition, layout, judge) if judge is not None else None
    if score is None:
        return Scores(*(jnp.full(rows.shape[0], UNKNOWN) for rows in (offline_rows, online.rows)))
    offline = in_chunks(score, offline_rows, offline_rows.shape[0], offline_key)
    return quantiles(offline, jnp.where(mask, in_chunks(score, online.rows, online.size, online_key), jnp.nan))


def in_chunks(score: Score, rows: Array, count: Array | int, key: Key) -> Array:
    """The scores `[n]` of the first `count` of `rows` `[n, D]`; NaN or anything behind them.

    No copy of the rows is made, and scratch memory is that of `CHUNK` rows. `count` is one number for all seeds.
    """
    total = rows.shape[0]
    chunk = min(CHUNK, total)

    def one(i: Array, scores: Array) -> Array:
        start = jnp.minimum(i * chunk, total - chunk)
        part = ring.numbers(jax.lax.dynamic_slice_in_dim(rows, start, chunk))
        return jax.lax.dynamic_update_slice_in_dim(scores, score(part, jax.random.fold_in(key, i)), start, 0)

    return jax.lax.fori_loop(0, -(-count // chunk), one, jnp.full(total, jnp.nan))


def quantiles(offline: Array, online: Array) -> Scores:
    """Scores `[N]` and `[C]` as quantiles in (0, 1) of the mixture in which both parts weigh the same.

    A quantile is the mean of the two parts' shares of rows below, where half of the row itself counts. Equal scores are
    told apart by place, in an order that mixes both parts evenly: so the rows above a quantile q are a share 1 - q
    even where many scores are equal. A score that is not finite has no quantile, and a part without scores no weight.
    """
    count, score = offline.shape[0], jnp.concatenate([offline, online])
    score = jnp.where(jnp.isfinite(score), score, jnp.inf)
    order = jnp.concatenate([_scrambled(offline.shape[0]), _scrambled(online.shape[0])])
    ordered, _, place = jax.lax.sort((score, order, jnp.arange(score.shape[0])), num_keys=2)
    known, is_online = jnp.isfinite(ordered), place >= count
    below, weights = jnp.zeros(score.shape[0]), jnp.zeros(())
    for part in (known & ~is_online, known & is_online):
        upto = jnp.cumsum(part)  # whole numbers: sums of shares would lose digits over a million rows
        below += (upto - 0.5 * part) / jnp.maximum(upto[-1], 1)
        weights += upto[-1] > 0
    told = jnp.where(known, below / jnp.maximum(weights, 1), UNKNOWN)
    told = jnp.zeros(score.shape[0]).at[place].set(told, unique_indices=True)
    return Scores(told[:count], told[count:])


def _scrambled(count: int) -> Array:
    """Places `[count]` in an order that is even over any stretch of them: multiples of the golden ratio, modulo 1."""
    return jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(2_654_435_769)


def top_quantiles(key: Key, top: Array | float, rows: int) -> Array:
    """Quantiles `[rows]` drawn uniformly between 1 - `top` and 1."""
    return 1.0 - top * jax.random.uniform(key, (rows,))


# -- scores ------------------------------------------------------------------------------------------------------------


def judged(condition: Condition, layout: RowLayout, judge: Judge) -> Score:
    """``advantage``, Q(s, a) - Q(s, pi(s)), or ``td``, |r + gamma (1 - terminal) Q(s', pi(s')) - Q(s, a)|."""

    def score(rows: Array, key: Key) -> Array:
        batch = layout.unpack(rows)
        taken = judge.value(batch.obs, batch.action)
        if condition == "advantage":
            return taken - judge.value(batch.obs, judge.act(batch.obs, key))
        after = judge.value(batch.next_obs, judge.act(batch.next_obs, key))
        return jnp.abs(batch.reward + judge.discount * (1.0 - batch.terminal) * after - taken)

    return score


def forward_error(layout: RowLayout, draw: Callable[[Key], Array], key: Key) -> Score:
    """``surprise``: the mean squared error of s' - s, standardised, by a network of (s, a) fitted now to the real rows.

    Args:
      layout: Of the rows.
      draw: ``(key) -> rows [B, D]``, a batch; the moments of `STANDARDISED` of them standardise.
      key: Of the fit.
    """
    changes = lambda rows: rows.at[..., layout.next_obs].add(-rows[..., layout.obs])[..., : layout.generative_width]
    moment_key, start_key, fit_key = jax.random.split(key, 3)
    seen = jax.vmap(draw)(jax.random.split(moment_key, STANDARDISED)).reshape(-1, layout.width)
    normaliser = fit_normaliser([(changes(seen), None)], layout.generative_width)
    network, adam = mlp(layout.obs_dim + layout.act_dim, layout.obs_dim, HIDDEN), optax.adam(RATE)
    error = _squared_error(network.apply, normaliser, layout, changes)

    def step(state: tuple, key: Key) -> tuple[tuple, None]:
        params, moments = state
        gradient = jax.grad(lambda params: error(params, draw(key)).mean())(params)
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), None

    params = network.init(start_key)
    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), jax.random.split(fit_key, STEPS))
    return lambda rows, key: error(params, rows)


def _squared_error(
    predict: Callable, normaliser: Normaliser, layout: RowLayout, changes: Callable[[Array], Array]
) -> Callable[[Params, Array], Array]:
    """``(params, rows [n, D]) -> [n]``."""

    def error(params: Params, rows: Array) -> Array:
        columns = normalise(normaliser, changes(rows))
        seen = columns[:, : layout.reward]
        return jnp.mean((predict(params, seen) - columns[:, layout.next_obs]) ** 2, axis=-1)

    return error
