"""The denoiser of transitions in training: its network, its steps, and the training without labels.

normaliser <- equal-weight mixture of the parts, such as offline and online rows
repeat:     loss on rows it draws itself -> one step of `fit.fit_step`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.augment.base import DenoiserConfig, Rows
from cfdg_jax.augment.rows import draw_offline, draw_online, modelled, online_mask
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import (
    Averaging,
    GeneratorState,
    Normaliser,
    fit_normaliser,
    fit_step,
    init_state,
    normalise,
    optimiser,
    scan_steps,
)
from cfdg_jax.diffusion.network import LabelEmbed, Network, resmlp
from cfdg_jax.errors import require
from cfdg_jax.types import Array, Buffer, Key, Metrics, Params, RowLayout


def row_network(config: DenoiserConfig, columns: int, labels: int = 0, label_embed: LabelEmbed = "mlp") -> Network:
    """The denoising network of rows of `columns` generated columns."""
    return resmlp(
        columns,
        width=config.width,
        dim_t=config.embedding,
        labels=labels,
        label_embed=label_embed,
        precision=config.precision,
    )


class RowTraining(NamedTuple):
    """A denoiser of rows in training, for one seed; its state is a `GeneratorState`.

    Attributes:
      init: ``(key, offline_rows, online) -> state``.
      refit: ``(state, offline_rows, online) -> state``: with `warm_start` the normaliser of the present rows, so that
        a kept network follows the ring; without, the state as it is.
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
    averaging = Averaging.over(config.ema_share, config.steps)
    identity = (columns - 1,) if with_terminal else ()
    moments = lambda offline_rows, online: fit_normaliser(parts(offline_rows, online), columns, identity)

    def init(key: Key, offline_rows: Array, online: Buffer) -> GeneratorState:
        return init_state(network.init(key), tx, moments(offline_rows, online))

    def refit(state: GeneratorState, offline_rows: Array, online: Buffer) -> GeneratorState:
        return state._replace(normaliser=moments(offline_rows, online)) if config.warm_start else state

    def step(state: GeneratorState, offline_rows: Array, online: Buffer, key: Key) -> tuple[GeneratorState, Metrics]:
        return fit_step(state, lambda p: loss(p, state.normaliser, offline_rows, online, key), tx, averaging)

    return RowTraining(init, refit, step)


def unlabelled_training(
    config: DenoiserConfig, learns: Rows, network: Network, layout: RowLayout, with_terminal: bool
) -> RowTraining:
    """Training on batches of the rows that `learns` names."""
    columns = layout.generative_width(with_terminal)
    from_offline, from_online = learns != "online", learns != "offline"

    def parts(offline_rows: Array, online: Buffer) -> list[tuple[Array, Array | None]]:
        found = f"is {learns} but there are no offline rows"
        enough = not from_offline or offline_rows.shape[0] >= 2
        require(enough, "augment.data", found, "name a dataset or use online")
        offline_part = (modelled(config, layout, offline_rows), None)
        online_part = (modelled(config, layout, online.rows), online_mask(online, config.recent_window))
        return [offline_part] * from_offline + [online_part] * from_online

    def draw(offline_rows: Array, online: Buffer, key: Key) -> Array:
        offline_key, online_key = jax.random.split(key)
        count = config.batch // (from_offline + from_online)
        rows = [draw_offline(offline_rows, offline_key, count)] if from_offline else []
        rows += [draw_online(online, online_key, count, config.recent_window)] if from_online else []
        return jnp.concatenate(rows)

    def loss(params: Params, normaliser: Normaliser, offline_rows: Array, online: Buffer, key: Key) -> Array:
        row_key, sigma_key, noise_key = jax.random.split(key, 3)
        rows = modelled(config, layout, draw(offline_rows, online, row_key))
        clean = normalise(normaliser, rows[:, :columns])
        sigma, noise = edm.draw_sigma(sigma_key, clean.shape[:1]), jax.random.normal(noise_key, clean.shape)
        return edm.loss(network, params, clean, sigma, noise).mean()

    return row_training(config, network, columns, with_terminal, parts, loss)
