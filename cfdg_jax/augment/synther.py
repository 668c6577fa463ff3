"""SynthER (Lu et al. 2023, arXiv 2303.06614, docs/algorithms.md#synther): one unconditional model of transitions.

normaliser <- the rows of `data`
repeat:     a batch of them;  denoising loss;  generate: D(x), screen, clip actions, flag terminals
"""

from __future__ import annotations

import dataclasses

from cfdg_jax.augment.base import DenoiserConfig, Rows, check_use, even_batch, reduced_values
from cfdg_jax.augment.denoiser import pretraining, row_network, unlabelled_training
from cfdg_jax.augment.rows import RowModel, RowState, generate_rows, row_model
from cfdg_jax.diffusion import edm
from cfdg_jax.methods import Augmenter, Entry, Preset, Task, Values, Variant, check_variant
from cfdg_jax.types import Array, Key, Metrics, Source, Spec


@dataclasses.dataclass(frozen=True)
class SynthERConfig(DenoiserConfig):
    """The online agent's generator."""

    variant: str = "authors"  # settings of one of the release's two uses, see VARIANTS
    data: Rows = "online"  # rows it learns (online: CFDG's comparison); pooled: 1:1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_variant("augment.variant", self.variant, VARIANTS)
        if self.data == "pooled":
            even_batch(self, " where data is pooled")

    @property
    def fitted_to(self) -> Rows:
        return self.data

    @property
    def embedding(self) -> int:
        return VARIANTS[self.variant].switches.embedding or super().embedding


@dataclasses.dataclass(frozen=True)
class Switches:
    """What one use of the release does by itself."""

    embedding: int | None = None  # units of the embedding of noise levels; none: a quarter of the width


VARIANTS = {
    "authors": Variant(switches=Switches()),  # config/online/sac_synther_dmc.gin
    "offline": Variant(  # config/resmlp_denoiser.gin, where batches are 1024 from 800,000 rows on
        {"data": "offline", "width": 2048}, Switches(embedding=128)
    ),
}


def synther(config: SynthERConfig, spec: Spec) -> Augmenter:
    """SynthER's generator as an `Augmenter`; its state is a `RowState`.

    Generated rows count as online rows, and as offline rows where it learnt offline rows alone. ``online`` needs two
    rows in the online ring, ``offline`` two offline rows, ``pooled`` both. Pooled batches are half offline and half
    online, whatever the sizes.
    """
    network = row_network(config, spec.layout.generative_width)
    training = unlabelled_training(config, config.data, network, spec)

    def model(state: RowState, source: int) -> RowModel:
        del source
        unlabelled = edm.denoiser(network, state.denoiser.ema)
        return row_model(lambda x, sigma: unlabelled(x, sigma, None), state, config, spec)

    def generate(state: RowState, key: Key, source: int, rows: int) -> tuple[Array, Metrics]:
        return generate_rows(model(state, source), config, spec.layout, key, source, rows)

    source = Source.SYNTHETIC_OFFLINE if config.data == "offline" else Source.SYNTHETIC_ONLINE
    shares = {int(source): 1.0}
    before = pretraining(synther, config, spec)
    return Augmenter(training.init, training.fit, generate, shares, config.steps, training.adopt, before, model)


def _values(preset: Preset, task: Task) -> Values:
    return reduced_values(preset, task)


ENTRY = Entry(
    SynthERConfig,
    synther,
    about="one unconditional diffusion model of transitions (Lu et al. 2023)",
    values=_values,
    check=check_use,
    one_dataset={"augment.data": "offline"},
    variants=VARIANTS,
)
