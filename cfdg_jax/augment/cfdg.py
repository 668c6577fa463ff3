"""CFDG (arXiv 2508.06806): one diffusion model of transitions, labelled by origin, sampled with guidance.

    normaliser <- equal-weight mixture of offline and online rows
    repeat:     half a batch of offline rows, label 0; half of online rows, label 1
                each label <- null with probability p_uncond;  denoising loss
    generate:   D = (1 + w) D(x, label) - w D(x, null);  screen, clip actions, flag terminals

With a `condition` beside the label, each row also tells the quantile of its score (`cfdg_jax.augment.conditions`).

No code of the authors was found. The config decides, field by field, what their text leaves open
(docs/algorithms.md#cfdg).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from cfdg_jax.augment.base import DenoiserConfig, check_use, even_batch, reduced_values
from cfdg_jax.augment.conditions import JUDGED, Condition, Scores, score_rows, top_quantiles
from cfdg_jax.augment.denoiser import pretraining, row_network, row_training
from cfdg_jax.augment.rows import RowModel, RowState, draw_offline, draw_online, generate_rows, online_mask, row_model
from cfdg_jax.augment.terminals import Part
from cfdg_jax.core import ring
from cfdg_jax.core.seeds import purpose_key
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import drop_labels
from cfdg_jax.diffusion.guidance import classifier_free
from cfdg_jax.diffusion.network import UNKNOWN, LabelEmbed, Told
from cfdg_jax.errors import require
from cfdg_jax.methods import Augmenter, Entry, Judge, Preset, Task, Values
from cfdg_jax.types import Array, Buffer, Key, Metrics, RowLayout, Source, Spec

OFFLINE, ONLINE, NULL = 0, 1, 2
"""Labels; null is the token of the unconditional branch."""
LABELS = {int(Source.SYNTHETIC_OFFLINE): OFFLINE, int(Source.SYNTHETIC_ONLINE): ONLINE}
"""The label that generates each synthetic source."""


@dataclasses.dataclass(frozen=True)
class CFDGConfig(DenoiserConfig):
    """The labelled generator; half of each batch is offline, half online.

    The paper's ablations: ``online_share`` 1 is the online label alone, 0 the offline label alone, and ``w`` 0 is no
    guidance.
    """

    churn: float = 40.0  # S_churn of heun: EDM's value for ImageNet (CFDG's appendix)
    label_embed: LabelEmbed = "mlp"  # mlp: added to the time embedding (lucidrains); onehot_concat: joined to x
    p_uncond: float = 0.1  # share of labels replaced by null (Ho & Salimans: .1 to .2; not stated by CFDG)
    w: float = 0.3  # guidance weight, 0 is plain conditional (CFDG Eq. 7; value not stated)
    guide_above: float = 0.0  # lowest noise level sigma that is guided (0: all, as CFDG)
    guide_below: float | None = None  # highest noise level sigma that is guided (none: all, as CFDG)
    online_share: float = 0.8  # synthetic-online share of generated rows, 8:2 (CFDG)
    condition: Condition = "label"  # told beside the label: a score of the row, as a quantile; label: nothing (CFDG)
    condition_top: float = 0.1  # generated rows are told quantiles between 1 - top and 1 (PGR: .1 to .25)

    def __post_init__(self) -> None:
        super().__post_init__()
        even_batch(self)
        for name in ("w", "guide_above"):
            value = getattr(self, name)
            require(value >= 0, f"augment.{name}", f"is {value}", "must be at least 0")
        for name in ("p_uncond", "online_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"augment.{name}", f"is {value}", "must lie between 0 and 1")
        require(
            self.guide_below is None or self.guide_below > self.guide_above,
            "augment.guide_below",
            f"is {self.guide_below}",
            f"must be greater than guide_above, which is {self.guide_above}",
        )
        require(
            self.w == 0 or self.p_uncond > 0,
            "augment.p_uncond",
            f"is 0 while w is {self.w}",
            "guidance needs a trained null label; use p_uncond > 0 or w = 0",
        )
        top = self.condition_top
        require(0 < top <= 1, "augment.condition_top", f"is {top}", "must be greater than 0 and at most 1")

    def check_without_agent(self, loose: bool = False) -> None:
        found = f"is {self.condition}, which an agent has to judge, and there is none"
        require(self.condition not in JUDGED, "augment.condition", found, "use return, surprise or label")
        found = "is return, and a dataset holds loose rows, whose returns are unknown"
        require(not (loose and self.condition == "return"), "augment.condition", found, "use surprise or label")

    @property
    def guided(self) -> tuple[float, float] | None:
        """Noise levels that are guided, None for all of them."""
        if self.guide_above == 0 and self.guide_below is None:
            return None
        return self.guide_above, float("inf") if self.guide_below is None else self.guide_below


def cfdg(config: CFDGConfig, spec: Spec) -> Augmenter:
    """CFDG's generator as an `Augmenter`; its state is a `RowState`.

    `init` and `fit` need at least two offline rows and two rows in the online ring.
    """
    layout = spec.layout
    scored = config.condition != "label"
    network = row_network(config, layout.generative_width, 3, config.label_embed, quantiles=scored)
    told = Told if scored else lambda label, quantile: label
    null = told(NULL, UNKNOWN)

    def parts(offline_rows: Array, online: Buffer) -> list[Part]:
        require(
            offline_rows.shape[0] >= 2, "augment", "cfdg needs offline rows", "name a dataset or set augment to none"
        )
        online_rows = ring.numbers(online.rows)
        return [(ring.numbers(offline_rows), None), (online_rows, online_mask(online, config.recent_window))]

    def draw(offline_rows: Array, online: Buffer, key: Key) -> Array:
        return draw_balanced(offline_rows, online, key, config.batch // 2, config.recent_window)

    def tell(key: Key, rows: Array, quantiles: Any) -> Any:
        missing = f"is {config.condition}, and fit was given no scores"
        require(
            not (scored and isinstance(quantiles, tuple)),
            "augment.condition",
            missing,
            "give it those of Augmenter.score",
        )
        return drop_labels(key, told(labels_of(rows, layout), quantiles), config.p_uncond, null)

    def at(state: RowState, source: int, quantile: Array | float) -> RowModel:
        labelled = edm.denoiser(network, state.denoiser.ema)
        guided = classifier_free(labelled, told(LABELS[int(source)], quantile), null, config.w, config.guided)
        made = row_model(guided, state, config, spec, LABELS[int(source)])
        return made._replace(rate=None) if scored else made  # rows of high scores end as they do, not as all rows

    def model(state: RowState, source: int) -> RowModel:
        return at(state, source, 1.0 - config.condition_top / 2)

    def generate(state: RowState, key: Key, source: int, rows: int) -> tuple[Array, Metrics]:
        quantile = top_quantiles(purpose_key(key, "condition"), config.condition_top, rows)
        return generate_rows(at(state, source, quantile), config, layout, key, source, rows)

    def score(offline_rows: Array, online: Buffer, judge: Judge | None, key: Key) -> Scores:
        return score_rows(config.condition, layout, offline_rows, online, judge, key, draw, config.recent_window)

    training = row_training(config, spec, network, parts, draw, tell)
    shares = {int(Source.SYNTHETIC_ONLINE): config.online_share, int(Source.SYNTHETIC_OFFLINE): 1 - config.online_share}
    shares = {source: share for source, share in shares.items() if share > 0}
    made = Augmenter(training.init, training.fit, generate, shares, config.steps, training.adopt, model=model)
    return made._replace(pretraining=pretraining(cfdg, config, spec), score=score if scored else None)


def draw_balanced(offline_rows: Array, online: Buffer, key: Key, half: int, window: int = 0) -> Array:
    """`half` offline rows and as many of the online ring, `[2 half, D]`.

    Draws in proportion to the data would shift the null label's density at every refresh, and with it what one w means
    (docs/algorithms.md#cfdg).
    """
    offline_key, online_key = jax.random.split(key)
    parts = [draw_offline(offline_rows, offline_key, half), draw_online(online, online_key, half, window)]
    return jnp.concatenate(parts)


def labels_of(rows: Array, layout: RowLayout) -> Array:
    """The labels `[n]` of rows `[n, D]`.

    A row's label is its own source, so that a pre-training, whose ring holds offline rows, leaves the online label
    untold. Told of offline rows too, the network learns to ignore labels, and needs long to unlearn it.
    """
    return jnp.where(rows[:, layout.source] == Source.OFFLINE, OFFLINE, ONLINE)


def _values(preset: Preset, task: Task) -> Values:
    return reduced_values(preset, task)


ENTRY = Entry(
    CFDGConfig,
    cfdg,
    about="one labelled diffusion model with classifier-free guidance (arXiv 2508.06806)",
    values=_values,
    check=check_use,
)
