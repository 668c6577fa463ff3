"""From scores to marks: which rows of a batch stay conservative, what the log says of them, and a share that adapts.

A score says how far a row's action lies from what the behaviour model proposes. Low is offline-like
(docs/algorithms.md#stratdiff).
"""

from __future__ import annotations

import jax.numpy as jnp

from cfdg_jax.core.losses import masked_mean
from cfdg_jax.types import SCORE_EDGES, Array, Batch, Metrics, Source


def lowest(score: Array, count: Array | int) -> Array:
    """1.0 for the `count` rows of lowest score `[B]`, 0.0 for the others; of equal scores the earlier row is lower."""
    rank = jnp.argsort(jnp.argsort(score, stable=True))
    return (rank < count).astype(jnp.float32)


def metrics(score: Array, conserve: Array, source: Array) -> Metrics:
    """How marks `[B]` agree with the rows' origins `[B]`; scores `[B]` by origin: means, quantiles and histograms.

    What is said of the rows of one origin is weighted with their number (`Metrics`): a batch may have none of them.
    """
    offline, online = source == Source.OFFLINE, source == Source.ONLINE
    missed, kept = offline * (1.0 - conserve), online * conserve
    out = {"conserve": conserve.mean(), "exchanged": missed.sum() + kept.sum()}
    for name, rows, crossing, crossed in (
        ("offline", offline, "offline_marked_online", missed),
        ("online", online, "online_marked_offline", kept),
    ):
        of_rows = {crossing: masked_mean(crossed, rows), f"score_{name}": masked_mean(score, rows)}
        for percent, quantile in zip((10, 50, 90), masked_quantiles(score, rows, (0.1, 0.5, 0.9)), strict=True):
            of_rows[f"score_{name}_p{percent}"] = quantile
        of_rows |= {f"score_{name}_bin{i:02d}": share for i, share in enumerate(masked_histogram(score, rows))}
        out[f"@{name}"] = share = rows.mean()
        out |= {f"{metric}@{name}": share * value for metric, value in of_rows.items()}
    return out


def masked_quantiles(x: Array, mask: Array, levels: tuple[float, ...]) -> Array:
    """Quantiles of `x` `[B]` where `mask`, 0 where there are no such rows."""
    quantiles = jnp.nanquantile(jnp.where(mask, x, jnp.nan), jnp.asarray(levels))
    return jnp.where(mask.any(), quantiles, 0.0)


def masked_histogram(x: Array, mask: Array) -> Array:
    """Share of the rows where `mask` in each bin of `SCORE_EDGES`, `[bins]` of sum 1; zeros where there are no rows."""
    bins = jnp.searchsorted(jnp.asarray(SCORE_EDGES, x.dtype), x, side="right", method="compare_all")
    return jnp.sum((bins == jnp.arange(SCORE_EDGES.size + 1)[:, None]) * mask, axis=-1) / jnp.maximum(mask.sum(), 1)


def follow_freed_share(rho: Array, rate: float, freed: float, batches: Batch) -> Array:
    """Adaptive rho after K marked batches, within [0, 1]: ``rho += (1 - (1 - rate)^K) p_offline (missed - freed)``.

    `missed` is the share of rows of known offline origin that were marked online-like and p_offline the share of such
    rows, so rho follows the running distribution of scores: it goes to the share of all rows that score below the
    1 - `freed` quantile of offline rows. That is 1 - `freed` where scores know nothing of the origin, and falls to
    p_offline (1 - `freed`) where they tell it for certain. The gain is at most 1 for any K. Without offline rows rho
    stays.
    """
    offline = batches.source == Source.OFFLINE
    missed, gain = masked_mean(1.0 - batches.conserve, offline), 1.0 - (1.0 - rate) ** batches.reward.shape[0]
    return jnp.clip(rho + gain * offline.mean() * (missed - freed), 0.0, 1.0)
