"""A fixed offline share of the real rows, half by default (CFDG's "1:1 paradigm"; PEX, RLPD, Cal-QL).

Formulas: docs/algorithms.md#mix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cfdg_jax.methods import Entry, Mix
from cfdg_jax.mix.base import MixConfig, draw_parts, split_batch
from cfdg_jax.types import Array, Counts, Key, Pool, Spec
from cfdg_jax.values import check_ranges


@dataclasses.dataclass(frozen=True)
class BalancedConfig(MixConfig):
    """The share."""

    offline_share: float = 0.5  # of the real rows (1:1, CFDG section 5; RLPD)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "mix", unit=("offline_share",))


def balanced(config: BalancedConfig, spec: Spec) -> Mix:
    """The rule; it has no state."""
    del spec

    def counts(shares: Mapping[int, float], offline_rows: int) -> Counts:
        real, synthetic = split_batch(config, shares)
        offline = int(real * config.offline_share) if offline_rows else 0
        return Counts(offline, real - offline, 0, synthetic)

    def draw(counts: Counts, pool: Pool, key: Key, updates: int) -> Array:
        return draw_parts(config, counts, pool, key, updates)

    return Mix(counts=counts, draw=draw)


ENTRY = Entry(BalancedConfig, balanced, about="a fixed offline share, half by default (Ball et al. 2023)")
