"""APL's online-offline replay buffer (Zheng et al. 2023, arXiv 2303.07693).

The real part of a batch comes wholly from recent online rows with probability `p_online`, else wholly from the offline
buffer, which has also received the online rows. An online row that the offline buffer gives counts as offline, as in
APL's release (docs/algorithms.md#oorb).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cfdg_jax.core import ring
from cfdg_jax.errors import require
from cfdg_jax.methods import Entry, Mix, Preset, Task, Values
from cfdg_jax.mix.base import MixConfig, draw_union, needs_dataset, pooled_mix
from cfdg_jax.types import Array, Key, Pool, Source, Spec
from cfdg_jax.values import check_ranges


@dataclasses.dataclass(frozen=True)
class OORBConfig(MixConfig):
    """The coin and the online buffer."""

    p_online: float = 0.5  # chance that a batch is online; 0.5 GCQL, 0.1 GCTD3BC (APL's release)
    gate: int = 10_000  # online batches only once more than this many rows were gathered
    recent: int = 20_000  # rows of the online buffer
    label_matched: bool = False  # an online batch takes synthetic online rows only, an offline one the others

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "mix", unit=("p_online",), not_negative=("gate",), at_least_one=("recent",))


def oorb(config: OORBConfig, spec: Spec) -> Mix:
    """The rule; it has no state."""
    del spec

    def pooled(pool: Pool, key: Key, updates: int, count: int) -> tuple[Array, Array]:
        coin_key, union_key, recent_key = jax.random.split(key, 3)
        is_online = jax.random.bernoulli(coin_key, config.p_online, (updates,)) & (pool.online.size > config.gate)
        shape = (updates, count, pool.offline.shape[1])
        from_offline = draw_union(pool, union_key, updates * count).reshape(shape)
        from_offline = from_offline.at[..., -1].set(float(Source.OFFLINE))
        from_online = ring.sample_recent(pool.online, recent_key, updates * count, config.recent).reshape(shape)
        return jnp.where(is_online[:, None, None], from_online, from_offline), is_online

    return pooled_mix(config, pooled, config.label_matched)


def _values(preset: Preset, task: Task) -> Values:
    if preset == "paper":
        return {}
    return {"mix.gate": 150 if preset == "smoke" else 2_000, "mix.recent": 5_000}


def _check(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    yield from needs_dataset(config, chosen)
    gate, online = config.mix.gate, config.online
    opens = online.steps == 0 or gate < min(online.capacity, online.steps)
    held = f"is {gate} with online.capacity {online.capacity} and online.steps {online.steps}"
    require(opens, "mix.gate", held, "lower it, or no batch is ever online")


ENTRY = Entry(
    OORBConfig,
    oorb,
    about="whole batches of one origin: APL's online-offline replay buffer (Zheng et al. 2023)",
    values=_values,
    check=_check,
)
