"""SynthER (Lu et al. 2023, arXiv 2303.06614): one unconditional diffusion model of transitions.

normaliser <- the rows of `data`
repeat:     a batch of them;  denoising loss;  generate: D(x), clip actions, threshold terminals, screen
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from cfdg_jax.augment.base import check_use, reduced_values
from cfdg_jax.augment.rows import (
    DenoiserConfig,
    RowModel,
    Rows,
    RowTraining,
    draw_offline,
    draw_online,
    generate_rows,
    modelled,
    online_mask,
    row_model,
    row_network,
    row_training,
)
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import GeneratorState, Normaliser, normalise
from cfdg_jax.diffusion.network import Network
from cfdg_jax.errors import require
from cfdg_jax.methods import Augmenter, Entry, Preset, Task, Values
from cfdg_jax.types import Array, Buffer, Key, Metrics, Params, RowLayout, Source, Spec


@dataclasses.dataclass(frozen=True)
class SynthERConfig(DenoiserConfig):
    """SynthER's generator; the shared fields say where offline upsampling chose otherwise."""

    data: Rows = "online"  # rows it learns (online: CFDG's comparison); pooled: 1:1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.data != "pooled" or self.batch % 2 == 0,
            "augment.batch",
            f"is {self.batch}",
            "must be even where data is pooled: half offline, half online",
        )

    @property
    def fitted_to(self) -> Rows:
        return self.data


def synther(config: SynthERConfig, spec: Spec, with_terminal: bool) -> Augmenter:
    """SynthER's generator as an `Augmenter`; its state is a `GeneratorState`.

    Generated rows count as online rows, and as offline rows where it learnt offline rows alone. ``online`` needs two
    rows in the online ring, ``offline`` two offline rows, ``pooled`` both. Pooled batches are half offline and half
    online whatever the sizes, as CFDG's are, so that the labels are the only difference between the two.

    Args:
      config: See `SynthERConfig`.
      spec: The task.
      with_terminal: Model the terminal flag; otherwise generated rows never terminate.
    """
    layout = spec.layout
    network = row_network(config, layout.generative_width(with_terminal))
    training = unlabelled_training(config, config.data, network, layout, with_terminal)

    def model(state: GeneratorState, source: int) -> RowModel:
        del source
        unlabelled = edm.denoiser(network, state.ema)
        denoise = lambda x, sigma: unlabelled(x, sigma, None)
        return row_model(denoise, state.normaliser, config, layout, with_terminal)

    def generate(state: GeneratorState, key: Key, source: int, rows: int) -> tuple[Array, Metrics]:
        return generate_rows(model(state, source), config, layout, with_terminal, key, source, rows)

    source = Source.SYNTHETIC_OFFLINE if config.data == "offline" else Source.SYNTHETIC_ONLINE
    shares = {int(source): 1.0}
    return Augmenter(training.init, training.fit, generate, shares, config.steps, config.warm_start, model)


def unlabelled_training(
    config: DenoiserConfig, data: Rows, network: Network, layout: RowLayout, with_terminal: bool
) -> RowTraining:
    """Training on batches of the rows that `data` names."""
    columns = layout.generative_width(with_terminal)
    from_offline, from_online = data != "online", data != "offline"

    def parts(offline_rows: Array, online: Buffer) -> list[tuple[Array, Array | None]]:
        require(
            not from_offline or offline_rows.shape[0] >= 2,
            "augment.data",
            f"is {data} but there are no offline rows",
            "name a dataset or use online",
        )
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


def _values(preset: Preset, task: Task) -> Values:
    """SynthER online (sac_synther_dmc.gin): half of each batch, 200K rows every 10K steps."""
    refresh = {"refresh.every": 10_000, "refresh.rows": 200_000} if preset == "paper" else {}
    return {"mix.synthetic_share": 0.5, **refresh, **reduced_values(preset)}


ENTRY = Entry(
    SynthERConfig,
    synther,
    about="one unconditional diffusion model of transitions (Lu et al. 2023)",
    values=_values,
    check=check_use,
)
