"""Sums of metrics that stay on the device between log lines."""

from __future__ import annotations

from typing import NamedTuple

from cfdg_jax.types import Array, Metrics


class Meters(NamedTuple):
    """Running sums of metrics on the device, fetched and cleared once per log interval.

    Attributes:
      sums: ``{name: [S]}``, each update call's mean weighted by its updates.
      updates: `[]` float32, updates summed.
    """

    sums: Metrics
    updates: Array


def accumulate(meters: Meters, metrics: Metrics, updates: int) -> Meters:
    """`meters` with the means of `updates` more updates, of the same names."""
    return Meters(
        {name: meters.sums[name] + updates * value for name, value in metrics.items()}, meters.updates + updates
    )
