"""A generator of transitions in training: denoiser and terminal flags, their steps, and the training without labels.

normaliser <- equal-weight mixture of the parts, such as offline and online rows
repeat:     rows -> one step of `fit.fit_step` on their columns, one of the flags' classifier on their s'
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.augment.base import DenoiserConfig, Rows
from cfdg_jax.augment.conditions import Draw
from cfdg_jax.augment.rows import RowState, draw_offline, draw_online, modelled, online_mask
from cfdg_jax.augment.terminals import Part, flags_of
from cfdg_jax.core import ring
from cfdg_jax.core.spread import whole
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import Averaging, Normaliser, fit_normaliser, fit_step, init_state, normalise, optimiser
from cfdg_jax.diffusion.network import UNKNOWN, LabelEmbed, Network, resmlp
from cfdg_jax.errors import require
from cfdg_jax.methods import Augmenter
from cfdg_jax.types import Array, Buffer, Key, Metrics, Params, Spec
from cfdg_jax.values import changed

SETTLED = 8_192
"""Rows, at least, by which the rate of flags is set."""


def row_network(
    config: DenoiserConfig,
    columns: int,
    labels: int = 0,
    label_embed: LabelEmbed = "mlp",
    quantiles: bool = False,
) -> Network:
    """The denoising network of rows of `columns` generated columns."""
    return resmlp(
        columns,
        width=config.width,
        dim_t=config.embedding,
        labels=labels,
        label_embed=label_embed,
        quantiles=quantiles,
        precision=config.precision,
    )


class RowTraining(NamedTuple):
    """A generator of rows in training, for one seed.

    Attributes:
      init: ``(key, offline_rows, online) -> RowState``.
      adopt: See `Augmenter.adopt`: a new optimiser and the normaliser of the present rows.
      step: ``(state, offline_rows, online, key, scores) -> (state, metrics)``, one optimiser step; `scores` are a
        `conditions.Scores`, of which the rows drawn are told theirs, or ().
      settle: ``(state, offline_rows, online, key) -> state`` that generates: after the steps of a call.
    """

    init: Callable[[Key, Array, Buffer], RowState]
    adopt: Callable[[RowState, Array, Buffer], RowState]
    step: Callable[[RowState, Array, Buffer, Key, Any], tuple[RowState, Metrics]]
    settle: Callable[[RowState, Array, Buffer, Key], RowState]

    def fit(
        self, state: RowState, offline_rows: Array, online: Buffer, key: Key, steps: int, scores: Any = ()
    ) -> tuple[RowState, Metrics]:
        """`steps` steps; metrics are means over them."""
        step = lambda state, key: self.step(state, offline_rows, online, key, scores)
        keys = jax.random.split(key, steps + 1)
        state, metrics = jax.lax.scan(step, state, keys[1:])
        return self.settle(state, offline_rows, online, keys[0]), jax.tree.map(jnp.mean, metrics)


def row_training(
    config: DenoiserConfig,
    spec: Spec,
    network: Network,
    parts: Callable[[Array, Buffer], Sequence[Part]],
    draw: Draw,
    tell: Callable[[Key, Array, Any], Any] | None = None,
) -> RowTraining:
    """The training of a generator of rows.

    Args:
      parts: ``(offline_rows, online) -> parts`` that `draw` draws from in equal shares.
      draw: One batch.
      tell: ``(key, rows [B, D], quantiles [B] or ()) -> condition``, what the denoiser is told of rows; None: nothing.
    """
    layout, flags, tx = spec.layout, flags_of(spec), optimiser(config.lr, config.steps)
    averaging = Averaging.over(config.ema_share, config.steps)

    def moments(parts: Sequence[Part]) -> Normaliser:
        return fit_normaliser([(modelled(config, layout, rows), mask) for rows, mask in parts], layout.generative_width)

    def init(key: Key, offline_rows: Array, online: Buffer) -> RowState:
        denoiser_key, flag_key = jax.random.split(key)
        data = parts(offline_rows, online)
        denoiser = init_state(network.init(denoiser_key), tx, moments(data))
        return RowState(denoiser, flags.init(flag_key, data) if flags else ())

    def adopt(state: RowState, offline_rows: Array, online: Buffer) -> RowState:
        data = parts(offline_rows, online)
        denoiser = init_state(state.denoiser.ema, tx, moments(data))
        return RowState(denoiser, flags.follow(state.flags, data) if flags else ())

    def loss(params: Params, normaliser: Normaliser, rows: Array, quantiles: Any, key: Key) -> Array:
        tell_key, sigma_key, noise_key = jax.random.split(key, 3)
        clean = normalise(normaliser, modelled(config, layout, rows)[:, : layout.generative_width])
        told = tell(tell_key, rows, quantiles) if tell is not None else None
        sigma, noise = edm.draw_sigma(sigma_key, clean.shape[:1]), jax.random.normal(noise_key, clean.shape)
        return edm.loss(network, params, clean, sigma, noise, told).mean()

    def step(
        state: RowState, offline_rows: Array, online: Buffer, key: Key, scores: Any = ()
    ) -> tuple[RowState, Metrics]:
        row_key, loss_key, flag_key = jax.random.split(key, 3)
        rows, normaliser = whole(draw(offline_rows, online, row_key)), state.denoiser.normaliser
        quantiles = whole(scores.drawn(draw, online, row_key)) if scores else ()
        of = lambda params: loss(params, normaliser, rows, quantiles, loss_key)
        denoiser, metrics = fit_step(state.denoiser, of, tx, averaging)
        metrics |= {"told": jnp.mean(quantiles != UNKNOWN)} if scores else {}
        return RowState(denoiser, flags.step(state.flags, normaliser, rows, flag_key) if flags else ()), metrics

    def settle(state: RowState, offline_rows: Array, online: Buffer, key: Key) -> RowState:
        if flags is None:
            return state
        keys = jax.random.split(key, 1 + -(-SETTLED // config.batch))
        rows = jax.vmap(lambda key: draw(offline_rows, online, key))(keys[1:])
        rows, normaliser = rows.reshape(-1, layout.width), state.denoiser.normaliser
        return state._replace(flags=flags.settle(state.flags, normaliser, rows, keys[0]))

    return RowTraining(init, adopt, step, settle)


def pretraining(factory: Callable[[Any, Spec], Augmenter], config: DenoiserConfig, spec: Spec) -> Augmenter | None:
    """See `Augmenter.pretraining`; the generator of `factory` with its denoiser's steps alone."""
    if config.pretrain_steps == 0:
        return None
    own = changed(config, {"steps": config.pretrain_steps, "pretrain_steps": 0})
    return factory(own, spec)._replace(fit_steps=config.pretrain_steps)


def unlabelled_training(config: DenoiserConfig, learns: Rows, network: Network, spec: Spec) -> RowTraining:
    """Training on batches of the rows that `learns` names."""
    from_offline, from_online = learns != "online", learns != "offline"

    def parts(offline_rows: Array, online: Buffer) -> list[Part]:
        found = f"is {learns} but there are no offline rows"
        enough = not from_offline or offline_rows.shape[0] >= 2
        require(enough, "augment.data", found, "name a dataset or use online")
        online_part = (ring.numbers(online.rows), online_mask(online, config.recent_window))
        return [(ring.numbers(offline_rows), None)] * from_offline + [online_part] * from_online

    def draw(offline_rows: Array, online: Buffer, key: Key) -> Array:
        offline_key, online_key = jax.random.split(key)
        count = config.batch // (from_offline + from_online)
        rows = [draw_offline(offline_rows, offline_key, count)] if from_offline else []
        rows += [draw_online(online, online_key, count, config.recent_window)] if from_online else []
        return jnp.concatenate(rows)

    return row_training(config, spec, network, parts, draw)
