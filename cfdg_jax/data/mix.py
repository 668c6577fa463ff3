"""Where the rows of a batch come from: mixing rules with static row counts.

``uniform``   real rows drawn evenly from offline and online rows together (IQL's own fine-tuning).
``balanced``  a fixed offline share, half by default (PEX, CFDG's "1:1 paradigm", RLPD, Cal-QL).
``balanced_replay``  real rows drawn from both, an online row with the priority that new rows have in Balanced Replay
              (Lee et al. 2021, arXiv 2107.00591): once `first_rows` are gathered they are ``1 - offline_share`` of a
              batch, and their share goes on rising (`online_priority`).
``oorb``      the real part of a batch comes wholly from recent online rows with probability `p_online`, else wholly
              from the offline buffer, which has also received the online rows (APL's online-offline replay buffer).

Each takes a share of synthetic rows once there are any (CFDG: a third). ``source`` says which buffer a row was drawn
from, so an online row that OORB draws from its offline buffer counts as offline, as in APL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.core import ring
from cfdg_jax.errors import require
from cfdg_jax.types import Array, Buffer, Key, Source


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """How online-phase batches are put together."""

    kind: Literal["uniform", "balanced", "balanced_replay", "oorb"] = "balanced"  # CFDG's baseline for IQL and PEX
    batch_size: int = 256  # all papers here
    offline_share: float = 0.5  # balanced: share of real rows that are offline (1:1, CFDG section 5; RLPD)
    first_rows: int = 1_000  # balanced_replay: online rows when the offline share is that (Off2OnRL, rlkit)
    synthetic_share: float = 1 / 3  # r of CFDG: online : offline : synthetic = 1 : 1 : 1
    composition: Literal["fixed", "append"] = "fixed"  # append: synthetic rows enlarge the batch (CFDG's literal text)
    split: Literal["fixed", "bernoulli"] = "fixed"  # 8:2 of synthetic kinds by count, or by a coin per row
    p_online: float = 0.5  # oorb: P(whole batch online); .5 GCQL, .1 GCTD3BC (APL's released code)
    gate: int = 10_000  # oorb: online batches only once more than this many rows were gathered
    recent: int = 20_000  # oorb: the online FIFO's length
    label_matched: bool = False  # oorb: an online batch takes synthetic-online rows only, an offline one the others

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "mix.batch_size", f"is {self.batch_size}", "must be at least 1")
        for name, below_one in (("offline_share", False), ("synthetic_share", True), ("p_online", False)):
            value = getattr(self, name)
            good = 0 <= value < 1 if below_one else 0 <= value <= 1
            require(good, f"mix.{name}", f"is {value}", f"must lie in [0, 1{')' if below_one else ']'}")
        require(self.gate >= 0, "mix.gate", f"is {self.gate}", "must be at least 0")
        for name in ("recent", "first_rows"):
            require(getattr(self, name) >= 1, f"mix.{name}", f"is {getattr(self, name)}", "must be at least 1")
        share = self.offline_share
        fits = self.kind != "balanced_replay" or 0 < share < 1
        require(fits, "mix.offline_share", f"is {share}", "must lie in (0, 1) for mix.kind balanced_replay")
        idle = self.kind != "balanced_replay" and self.first_rows != type(self).first_rows
        require(not idle, "mix.first_rows", f"is not read by mix.kind {self.kind}", "use --mix balanced_replay")
        require(
            not self.label_matched or self.kind == "oorb",
            "mix.label_matched",
            f"needs batches of one origin, but mix.kind is {self.kind}",
            "use --mix oorb or leave it off",
        )


class Counts(NamedTuple):
    """Rows of one batch by origin; hashable, so it can be a static argument of a jitted step.

    Attributes:
      offline: Real rows from the offline dataset (0 but for ``balanced``).
      online: Real rows from the online ring (0 but for ``balanced``).
      pooled: Real rows whose origin is drawn (``oorb``: per batch; ``uniform``, ``balanced_replay``: per row).
      synthetic: ``((source, rows), ...)``.
    """

    offline: int
    online: int
    pooled: int
    synthetic: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        return self.offline + self.online + self.pooled + sum(rows for _, rows in self.synthetic)


class Pool(NamedTuple):
    """What one seed draws from.

    Attributes:
      offline: `[N, D]`, shared by all seeds.
      online: The seed's ring.
      synthetic: Rings of generated rows by `Source`; empty before the first refresh.
    """

    offline: Array
    online: Buffer
    synthetic: Mapping[int, Buffer]


def row_counts(config: MixConfig, shares: Mapping[int, float], offline_rows: int) -> Counts:
    """Rows of a batch by origin (CFDG section 5; reference checks 25 and 26).

    Args:
      config: The mixing rule.
      shares: Share of each synthetic source; empty while there are no synthetic rows, which gives the base mix.
      offline_rows: ``N``; with no offline data all real rows are online.
    """
    batch, ratio = config.batch_size, config.synthetic_share
    if not shares or ratio == 0:
        synthetic, real = 0, batch
    elif config.composition == "fixed":
        synthetic = int(batch * ratio)
        real = batch - synthetic
    else:
        synthetic, real = round(batch * ratio / (1 - ratio)), batch
    parts: dict[int, int] = {source: round(synthetic * share) for source, share in shares.items()} if synthetic else {}
    if parts:  # rounding must not change the total: the largest part takes the difference
        largest = max(parts, key=lambda source: parts[source])
        parts[largest] += synthetic - sum(parts.values())
    kinds = tuple(sorted((source, rows) for source, rows in parts.items() if rows))
    if offline_rows == 0:
        return Counts(0, real, 0, kinds)
    if config.kind == "balanced":
        offline = int(real * config.offline_share)
        return Counts(offline, real - offline, 0, kinds)
    return Counts(0, 0, real, kinds)


def draw(config: MixConfig, counts: Counts, pool: Pool, key: Key, updates: int) -> Array:
    """Rows `[K, B, D]` of `updates` batches for one seed, each component in one gather."""
    offline_key, online_key, pooled_key, synthetic_key = jax.random.split(key, 4)
    parts = []
    grouped = lambda rows, count: rows.reshape(updates, count, rows.shape[-1])
    if counts.offline:
        index = jax.random.randint(offline_key, (updates * counts.offline,), 0, pool.offline.shape[0])
        parts.append(grouped(pool.offline[index], counts.offline))
    if counts.online:
        parts.append(grouped(ring.sample(pool.online, online_key, updates * counts.online), counts.online))
    is_online = None
    if counts.pooled and config.kind == "uniform":
        parts.append(grouped(_sample_union(pool, pooled_key, updates * counts.pooled), counts.pooled))
    elif counts.pooled and config.kind == "balanced_replay":
        priority = online_priority(pool.offline.shape[0], config.offline_share, config.first_rows)
        parts.append(grouped(_sample_weighted(pool, pooled_key, updates * counts.pooled, priority), counts.pooled))
    elif counts.pooled:
        rows, is_online = _sample_by_branch(config, pool, pooled_key, updates, counts.pooled)
        parts.append(rows)
    if counts.synthetic:
        parts.append(_sample_synthetic(config, counts.synthetic, pool, synthetic_key, updates, is_online))
    return jnp.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def online_priority(offline_rows: int, offline_share: float, first_rows: int) -> float:
    """How many times as likely as an offline row an online row is drawn, so that the first `first_rows` of them are
    drawn ``1 - offline_share`` of the time (Balanced Replay; reference check 50)."""
    return offline_rows * (1.0 - offline_share) / (offline_share * first_rows)


def _sample_weighted(pool: Pool, key: Key, count: int, priority: float) -> Array:
    """Rows `[count, D]` from offline and online rows together, an online row `priority` times as likely."""
    coin_key, offline_key, online_key = jax.random.split(key, 3)
    offline_size, mass = pool.offline.shape[0], pool.online.size * priority
    is_online = jax.random.bernoulli(coin_key, mass / (offline_size + mass), (count,))
    from_offline = pool.offline[jax.random.randint(offline_key, (count,), 0, offline_size)]
    return jnp.where(is_online[:, None], ring.sample(pool.online, online_key, count), from_offline)


def _sample_union(pool: Pool, key: Key, count: int) -> Array:
    """Rows `[count, D]` drawn evenly from offline and online rows together."""
    offline_size = pool.offline.shape[0]
    index = jax.random.randint(key, (count,), 0, offline_size + pool.online.size)
    from_offline = pool.offline[jnp.minimum(index, offline_size - 1)]
    from_online = pool.online.rows[jnp.maximum(index - offline_size, 0)]
    return jnp.where((index < offline_size)[:, None], from_offline, from_online)


def _sample_by_branch(config: MixConfig, pool: Pool, key: Key, updates: int, count: int) -> tuple[Array, Array]:
    """OORB: rows `[K, count, D]` and which batches are online `[K]` bool."""
    coin_key, union_key, recent_key = jax.random.split(key, 3)
    is_online = jax.random.bernoulli(coin_key, config.p_online, (updates,)) & (pool.online.size > config.gate)
    shape = (updates, count, pool.offline.shape[1])
    from_offline = _sample_union(pool, union_key, updates * count).reshape(shape)
    from_offline = from_offline.at[..., -1].set(float(Source.OFFLINE))
    from_online = ring.sample_recent(pool.online, recent_key, updates * count, config.recent).reshape(shape)
    return jnp.where(is_online[:, None, None], from_online, from_offline), is_online


def _sample_synthetic(config, kinds, pool: Pool, key: Key, updates: int, is_online: Array | None) -> Array:
    """Rows `[K, synthetic, D]`; the kinds by fixed counts, by a coin per row, or matched to the batch's branch."""
    total = sum(rows for _, rows in kinds)
    keys = jax.random.split(key, len(kinds) + 1)
    everything = config.split == "bernoulli" or config.label_matched
    drawn = {
        source: ring.sample(pool.synthetic[source], k, updates * (total if everything else rows)).reshape(
            updates, total if everything else rows, -1
        )
        for (source, rows), k in zip(kinds, keys[1:], strict=True)
    }
    if not everything or len(kinds) == 1:
        return jnp.concatenate(list(drawn.values()), axis=1)
    online_rows, offline_rows = drawn[Source.SYNTHETIC_ONLINE], drawn[Source.SYNTHETIC_OFFLINE]
    if config.label_matched and is_online is not None:
        take_online = jnp.broadcast_to(is_online[:, None], (updates, total))
    else:
        share = dict(kinds)[Source.SYNTHETIC_ONLINE] / total
        take_online = jax.random.bernoulli(keys[0], share, (updates, total))
    return jnp.where(take_online[..., None], online_rows, offline_rows)
