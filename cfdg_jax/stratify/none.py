"""No stratification: every row is treated fully conservatively, which is the plain base agent."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from cfdg_jax.methods import Entry, Stratifier
from cfdg_jax.types import Spec


@dataclasses.dataclass(frozen=True)
class NoneConfig:
    """Nothing to choose."""


def none(config: NoneConfig, spec: Spec) -> Stratifier:
    """A `Stratifier` without state that marks every row with ``conserve = 1``."""
    del config, spec
    return Stratifier(
        init=lambda key: (),
        mark=lambda shared, own, batch, key: (jnp.ones(batch.reward.shape, jnp.float32), {}),
    )


ENTRY = Entry(NoneConfig, none, about="every row fully conservative: the plain base agent")
