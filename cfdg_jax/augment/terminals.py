"""Terminal flags of generated rows: a classifier of states, learnt beside the denoiser (docs/algorithms.md#terminals).

    learn      s' of the denoiser's own rows with their flags; as many s' that ended, and s just before;  logistic loss
    settle     threshold <- the logit above which the share of real s' is the share of real rows that end
    generate   flag <- logit of s' above it;   a row whose s is above it and above all real ones is screened out

As a column of the row the flag is lost: it is 1 in one row of a hundred, and a denoiser of all columns does not learn
it. Whether the task ends is a function of the state it has come to, and a small network learns that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cfdg_jax.core.networks import Network, mlp
from cfdg_jax.diffusion.fit import Normaliser
from cfdg_jax.types import Array, Key, Params, RowLayout, Spec

HIDDEN = (64, 64)  # of the classifier
RATE, DECAY = 2e-3, 0.3  # AdamW's; ends are few, and without decay those that were learnt are known by heart
KEPT = 2_048  # rows that ended which are kept of each part of the data, evenly spaced
STARTS = 1e-3  # share of real rows that screening may take for rows that start after the end
NEVER = float(np.finfo(np.float32).max)  # a logit that no state reaches
NARROW = 1e-3  # least standard deviation that states are divided by, or noise of constant columns would count

Part = tuple[Array, Array | None]
"""Packed rows `[n, D]` and the mask `[n]` of those that count; None for all."""


class FlagState(NamedTuple):
    """A classifier in training, for one seed.

    Attributes:
      params: The network's.
      opt_state: AdamW's moments.
      last: `[P, KEPT, d]` rows that ended, of each part of the data, without return and source; zeros where a part has
        none.
      rates: `[P]` share of rows that end.
      threshold: `[]`, logits from which on a state has ended.
      start: `[]`, logits from which on no row starts.
    """

    params: Params
    opt_state: Any
    last: Array
    rates: Array
    threshold: Array
    start: Array


class Flags(NamedTuple):
    """The classifier of a task; no arrays."""

    network: Network
    layout: RowLayout

    def init(self, key: Key, parts: Sequence[Part]) -> FlagState:
        """An untrained classifier that knows which rows of `parts` ended; until it is settled nothing ends."""
        params = self.network.init(key)
        zero, never = jnp.zeros(()), jnp.float32(NEVER)
        return self.follow(FlagState(params, _adam().init(params), zero, zero, never, never), parts)

    def follow(self, state: FlagState, parts: Sequence[Part]) -> FlagState:
        """The same network for the present rows; each part counts the same, as in the denoiser's batches."""
        found = [_last_rows(rows, mask, self.layout) for rows, mask in parts]
        last, rates = (jnp.stack(each) for each in zip(*found, strict=True))
        return state._replace(last=last, rates=rates)

    def step(self, state: FlagState, normaliser: Normaliser, rows: Array, key: Key) -> FlagState:
        """One step on `rows` `[B, D]`, drawn in equal shares from the parts, and on B rows that ended."""
        layout, count = self.layout, rows.shape[0]
        last = _drawn(state, key, count)
        states = jnp.concatenate([rows[:, layout.next_obs], last[:, layout.next_obs], last[:, layout.obs]])
        labels = jnp.concatenate([rows[:, layout.terminal], jnp.ones(count), jnp.zeros(count)])
        some = jnp.sign(state.rates.sum())
        weights = jnp.concatenate([jnp.ones(count), jnp.full(2 * count, some)])

        def loss(params: Params) -> Array:
            logits = self._logits(params, normaliser, states)
            return jnp.mean(weights * optax.sigmoid_binary_cross_entropy(logits, labels))

        updates, opt_state = _adam().update(jax.grad(loss)(state.params), state.opt_state, state.params)
        return state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    def settle(self, state: FlagState, normaliser: Normaliser, rows: Array, key: Key) -> FlagState:
        """Sets the threshold by `rows` `[n, D]`, drawn in equal shares from the parts, and by those that ended.

        Above it lie ends and other states in a share that is that of the rows that end; ends are too few among `rows`,
        so they come from those kept. Where the data start rows from states like those that end, because flags are no
        function of the state, these are not screened out.
        """
        layout, share = self.layout, state.rates.mean()
        goes_on = 1.0 - rows[:, layout.terminal]
        seen = jnp.concatenate([rows[:, layout.next_obs], _drawn(state, key, KEPT)[:, layout.next_obs]])
        weights = [(1 - share) * goes_on / jnp.maximum(goes_on.sum(), 1.0), jnp.full(KEPT, share / KEPT)]
        logits = self._logits(state.params, normaliser, seen)
        order = jnp.argsort(-logits)
        above = jnp.cumsum(jnp.concatenate(weights)[order])
        threshold = logits[order][jnp.argmax(above >= share * (1 - 1e-5))]
        threshold = jnp.where(share > 0, threshold, NEVER)
        starts = self._logits(state.params, normaliser, rows[:, layout.obs])
        return state._replace(threshold=threshold, start=jnp.maximum(threshold, jnp.quantile(starts, 1 - STARTS)))

    def ended(self, state: FlagState, normaliser: Normaliser, obs: Array) -> Array:
        """Whether the task ends at `obs` `[..., O]`, `[...]` bool. Without any end in the data no state ends."""
        return self._logits(state.params, normaliser, obs) >= state.threshold

    def over(self, state: FlagState, normaliser: Normaliser, obs: Array) -> Array:
        """Whether the task has ended at `obs` `[..., O]` so that no row starts there, `[...]` bool."""
        return self._logits(state.params, normaliser, obs) > state.start

    def _logits(self, params: Params, normaliser: Normaliser, obs: Array) -> Array:
        mean, std = (moment[self.layout.obs] for moment in normaliser)
        return self.network.apply(params, (obs - mean) / jnp.maximum(std, NARROW))[..., 0]


def flags_of(spec: Spec) -> Flags | None:
    """The classifier of a task; None for one that never ends by itself."""
    return Flags(mlp(spec.obs_dim, 1, HIDDEN), spec.layout) if spec.terminates else None


def _adam() -> optax.GradientTransformation:
    return optax.adamw(RATE, weight_decay=DECAY)


def _drawn(state: FlagState, key: Key, count: int) -> Array:
    """`count` rows that ended `[count, d]`, from each part as often as rows end there."""
    part_key, row_key = jax.random.split(key)
    shares = state.rates / jnp.maximum(state.rates.sum(), 1e-12)
    part = jax.random.choice(part_key, state.rates.shape[0], (count,), p=shares)
    return state.last[part, jax.random.randint(row_key, (count,), 0, KEPT)]


def _last_rows(rows: Array, mask: Array | None, layout: RowLayout) -> tuple[Array, Array]:
    """`KEPT` rows `[KEPT, d]` that ended, evenly spaced among all such in `rows`, and the share of rows that end."""
    ends = rows[:, layout.terminal] > 0 if mask is None else mask & (rows[:, layout.terminal] > 0)
    seen = jnp.cumsum(ends)
    wanted = jnp.ceil(jnp.arange(1, KEPT + 1) / KEPT * seen[-1])
    share = seen[-1] / (rows.shape[0] if mask is None else mask.sum())
    last = rows[jnp.searchsorted(seen, wanted), : layout.mc_return]  # behind it stand returns, which may be unknown
    return jnp.where(seen[-1] > 0, last, 0.0), share
