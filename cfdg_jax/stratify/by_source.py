"""APL's binary weight: the regulariser acts on offline rows and not on online ones (APL, Eq. 4; CFDG, Eq. 4).

A synthetic row follows the batch it is in: its weight is the mean weight of the batch's real rows. Where the real rows
of a batch have one origin, this is exactly APL's scalar (docs/algorithms.md#oorb). With ``synthetic="label"`` a
synthetic row follows its own label.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp

from cfdg_jax.methods import Entry, Stratifier
from cfdg_jax.stratify.base import check_marks
from cfdg_jax.types import Source, Spec


@dataclasses.dataclass(frozen=True)
class BySourceConfig:
    """How synthetic rows are weighted."""

    synthetic: Literal["batch", "label"] = "batch"  # batch: lambda follows the real branch


def by_source(config: BySourceConfig, spec: Spec) -> Stratifier:
    """A `Stratifier` without state that reads ``Batch.source`` alone."""
    del spec

    def mark(shared, own, batch, key):
        del shared, own, key
        source = batch.source
        offline = (source == Source.OFFLINE).astype(jnp.float32)
        real = (source <= Source.ONLINE).astype(jnp.float32)
        if config.synthetic == "label":
            conserve = offline + (source == Source.SYNTHETIC_OFFLINE)
        else:
            share = (offline * real).sum() / jnp.maximum(real.sum(), 1.0)
            conserve = jnp.where(real > 0, offline, share)
        return conserve.astype(jnp.float32), {"conserve": conserve.mean()}

    return Stratifier(init=lambda key: (), mark=mark)


ENTRY = Entry(
    BySourceConfig,
    by_source,
    about="offline rows conservative, online rows free (APL, Zheng et al. 2023)",
    check=check_marks,
)
