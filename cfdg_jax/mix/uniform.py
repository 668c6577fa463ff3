"""Real rows drawn evenly from offline and online rows together (IQL's own fine-tuning; docs/algorithms.md#mix)."""

from __future__ import annotations

import dataclasses

from cfdg_jax.methods import Entry, Mix
from cfdg_jax.mix.base import MixConfig, draw_union, needs_dataset, pooled_mix
from cfdg_jax.types import Array, Key, Pool, Spec


@dataclasses.dataclass(frozen=True)
class UniformConfig(MixConfig):
    """Nothing beside what all rules share."""


def uniform(config: UniformConfig, spec: Spec) -> Mix:
    """The rule; it has no state."""
    del spec

    def pooled(pool: Pool, key: Key, updates: int, count: int) -> tuple[Array, None]:
        return draw_union(pool, key, updates * count).reshape(updates, count, -1), None

    return pooled_mix(config, pooled)


ENTRY = Entry(
    UniformConfig,
    uniform,
    about="offline and online rows evenly, as one pool (Kostrikov et al. 2021)",
    check=needs_dataset,
)
