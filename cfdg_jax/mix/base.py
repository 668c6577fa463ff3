"""What all mixing rules share: the size of a batch, its generated part, and the order in which keys are used.

A batch is put together from at most four parts, each drawn in one gather for all K updates of a call::

    offline, online    real rows of a fixed number of each origin
    pooled             real rows whose origin the rule draws
    synthetic          generated rows, once there are any (CFDG: a third)

``source`` says which buffer a row was drawn from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cfdg_jax.core import ring
from cfdg_jax.methods import Entry, Mix
from cfdg_jax.types import Array, Counts, Key, Pool, Source
from cfdg_jax.values import check_ranges

Pooled = Callable[[Pool, Key, int, int], tuple[Array, Array | None]]
"""``(pool, key, updates, count) -> (rows [K, count, D], whether a batch is online [K] or None)``."""


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """How online-phase batches are put together, whatever the rule."""

    batch_size: int = 256  # all papers here
    synthetic_share: float = 1 / 3  # r of CFDG: online : offline : synthetic = 1 : 1 : 1
    composition: Literal["fixed", "append"] = "fixed"  # append: synthetic rows enlarge the batch (CFDG's literal text)
    split: Literal["fixed", "bernoulli"] = "fixed"  # 8:2 of synthetic kinds by count, or by a coin per row

    def __post_init__(self) -> None:
        check_ranges(self, "mix", at_least_one=("batch_size",), below_one=("synthetic_share",))


def split_batch(config: MixConfig, shares: Mapping[int, float]) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Real rows of a batch, and its generated rows by source (CFDG section 5; docs/algorithms.md#mix)."""
    batch, ratio = config.batch_size, config.synthetic_share
    if not shares or ratio == 0:
        return batch, ()
    if config.composition == "fixed":
        synthetic = int(batch * ratio)
        real = batch - synthetic
    else:
        synthetic, real = round(batch * ratio / (1 - ratio)), batch
    parts = {source: round(synthetic * share) for source, share in shares.items()} if synthetic else {}
    if parts:  # rounding must not change the total: the largest part takes the difference
        largest = max(parts, key=lambda source: parts[source])
        parts[largest] += synthetic - sum(parts.values())
    return real, tuple(sorted((source, rows) for source, rows in parts.items() if rows))


def pooled_mix(config: MixConfig, pooled: Pooled, label_matched: bool = False) -> Mix:
    """A rule that draws the origin of real rows.

    Args:
      config: The rule's config.
      pooled: Draws the real rows.
      label_matched: An online batch takes synthetic online rows only, an offline one the others.
    """

    def counts(shares: Mapping[int, float], offline_rows: int) -> Counts:
        real, synthetic = split_batch(config, shares)
        return Counts(0, 0, real, synthetic) if offline_rows else Counts(0, real, 0, synthetic)

    def draw(counts: Counts, pool: Pool, key: Key, updates: int) -> Array:
        return draw_parts(config, counts, pool, key, updates, pooled, label_matched)

    return Mix(counts=counts, draw=draw)


def draw_parts(
    config: MixConfig,
    counts: Counts,
    pool: Pool,
    key: Key,
    updates: int,
    pooled: Pooled | None = None,
    label_matched: bool = False,
) -> Array:
    """Rows `[K, B, D]` of `updates` batches for one seed, each part in one gather."""
    offline_key, online_key, pooled_key, synthetic_key = jax.random.split(key, 4)
    parts = []
    grouped = lambda rows, count: rows.reshape(updates, count, rows.shape[-1])
    if counts.offline:
        index = jax.random.randint(offline_key, (updates * counts.offline,), 0, pool.offline.shape[0])
        parts.append(grouped(ring.take(pool.offline, index), counts.offline))
    if counts.online:
        parts.append(grouped(ring.sample(pool.online, online_key, updates * counts.online), counts.online))
    is_online = None
    if counts.pooled:
        assert pooled is not None, "only a rule that draws origins counts pooled rows"
        rows, is_online = pooled(pool, pooled_key, updates, counts.pooled)
        parts.append(rows)
    if counts.synthetic:
        matched = is_online if label_matched else None
        parts.append(_draw_synthetic(config, counts.synthetic, pool, synthetic_key, updates, matched, label_matched))
    return jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def draw_union(pool: Pool, key: Key, count: int) -> Array:
    """Rows `[count, D]` drawn evenly from offline and online rows together."""
    offline_size = pool.offline.shape[0]
    index = jax.random.randint(key, (count,), 0, offline_size + pool.online.size)
    from_offline = ring.take(pool.offline, jnp.minimum(index, offline_size - 1))
    from_online = ring.take(pool.online.rows, jnp.maximum(index - offline_size, 0))
    return jnp.where((index < offline_size)[:, None], from_offline, from_online)


def _draw_synthetic(
    config: MixConfig, kinds, pool: Pool, key: Key, updates: int, is_online: Array | None, label_matched: bool
) -> Array:
    """Rows `[K, synthetic, D]`; the kinds by fixed counts, by a coin per row, or matched to the batch's origin."""
    total = sum(rows for _, rows in kinds)
    keys = jax.random.split(key, len(kinds) + 1)
    everything = config.split == "bernoulli" or label_matched
    drawn = {
        source: ring.sample(pool.synthetic[source], k, updates * (total if everything else rows)).reshape(
            updates, total if everything else rows, -1
        )
        for (source, rows), k in zip(kinds, keys[1:], strict=True)
    }
    if not everything or len(kinds) == 1:
        return jnp.concatenate(list(drawn.values()), axis=1)
    online_rows, offline_rows = drawn[Source.SYNTHETIC_ONLINE], drawn[Source.SYNTHETIC_OFFLINE]
    if is_online is not None:
        take_online = jnp.broadcast_to(is_online[:, None], (updates, total))
    else:
        share = dict(kinds)[Source.SYNTHETIC_ONLINE] / total
        take_online = jax.random.bernoulli(keys[0], share, (updates, total))
    return jnp.where(take_online[..., None], online_rows, offline_rows)


def needs_dataset(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    """The check of rules that tell offline from online rows: without a dataset they have no say."""
    if not config.dataset:
        yield "without a dataset all rows are online, and this mix changes nothing; leave --mix out"
