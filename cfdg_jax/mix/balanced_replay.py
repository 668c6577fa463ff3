"""Balanced Replay's priority of new rows (Lee et al. 2021, arXiv 2107.00591, docs/algorithms.md#balanced-replay).

Real rows are drawn from offline and online rows together, an online row `online_priority` times as likely. Once
`first_rows` are gathered they are ``1 - offline_share`` of a batch, and their share goes on rising.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cfdg_jax.core import ring
from cfdg_jax.methods import Entry, Mix, Preset, Task, Values
from cfdg_jax.mix.base import MixConfig, needs_dataset, pooled_mix
from cfdg_jax.types import Array, Key, Pool, Spec
from cfdg_jax.values import check_ranges


@dataclasses.dataclass(frozen=True)
class BalancedReplayConfig(MixConfig):
    """Where the online share starts from."""

    offline_share: float = 0.5  # of the real rows once `first_rows` are gathered (Off2OnRL)
    first_rows: int = 1_000  # online rows by then (Off2OnRL, rlkit)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, "mix", inside=("offline_share",), at_least_one=("first_rows",))


def online_priority(offline_rows: int, offline_share: float, first_rows: int) -> float:
    """How many times as likely as an offline row an online row is drawn (docs/algorithms.md#balanced-replay)."""
    return offline_rows * (1.0 - offline_share) / (offline_share * first_rows)


def balanced_replay(config: BalancedReplayConfig, spec: Spec) -> Mix:
    """The rule; it has no state."""
    del spec

    def pooled(pool: Pool, key: Key, updates: int, count: int) -> tuple[Array, None]:
        priority = online_priority(pool.offline.shape[0], config.offline_share, config.first_rows)
        return draw_weighted(pool, key, updates * count, priority).reshape(updates, count, -1), None

    return pooled_mix(config, pooled)


def draw_weighted(pool: Pool, key: Key, count: int, priority: float) -> Array:
    """Rows `[count, D]` from offline and online rows together, an online row `priority` times as likely."""
    coin_key, offline_key, online_key = jax.random.split(key, 3)
    offline_size, mass = pool.offline.shape[0], pool.online.size * priority
    is_online = jax.random.bernoulli(coin_key, mass / (offline_size + mass), (count,))
    from_offline = ring.take(pool.offline, jax.random.randint(offline_key, (count,), 0, offline_size))
    return jnp.where(is_online[:, None], ring.sample(pool.online, online_key, count), from_offline)


def _values(preset: Preset, task: Task) -> Values:
    return {"online.start_steps": 1_000} if preset == "paper" else {}  # updates begin with the first rows


def _check(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    yield from needs_dataset(config, chosen)
    first, start = config.mix.first_rows, config.online.start_steps
    if start > first:
        yield (
            f"online.start_steps is {start} and mix.first_rows {first}: the share of online rows is beyond its start "
            "when updates begin; lower the first"
        )


ENTRY = Entry(
    BalancedReplayConfig,
    balanced_replay,
    about="new rows first: the initial priority of Balanced Replay (Lee et al. 2021)",
    values=_values,
    check=_check,
)
