"""What is summed between log lines: metrics, on the device, and finished episodes, on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

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


def restored(meters: Meters, loop: Mapping[str, np.ndarray]) -> Meters:
    """`meters` as a checkpoint saved them among the arrays of the loop, if it did."""
    if "meters_updates" not in loop:
        return meters
    sums = {name: jnp.asarray(loop[f"meters/{name}"]) for name in meters.sums}
    return Meters(sums, jnp.asarray(loop["meters_updates"]))


def saved(meters: Meters) -> dict[str, np.ndarray]:
    """`meters` as arrays of the loop."""
    sums = {f"meters/{name}": np.asarray(value) for name, value in meters.sums.items()}
    return sums | {"meters_updates": np.asarray(meters.updates)}


def per_group(values: Mapping[str, Any]) -> dict[str, Any]:
    """Divides weighted metrics ``x@group`` by their weight ``@group`` and names them ``x``; NaN where it is 0."""
    out = {}
    for name, value in values.items():
        metric, weighted, group = name.partition("@")
        if not weighted:
            out[name] = value
        elif metric:
            weight = np.asarray(values[f"@{group}"], float)
            out[metric] = np.where(weight > 0, value / np.where(weight > 0, weight, 1.0), np.nan)
    return out


class Episodes:
    """Returns of the episodes finished since the last log line, per seed."""

    def __init__(self, sums: np.ndarray):
        self._sums = sums  # [4, S]: return, length, success, count
        self._newest: tuple | None = None

    def add(self, done: np.ndarray, lengths: np.ndarray, returns: np.ndarray, success: np.ndarray) -> None:
        """Adds the episodes of the seeds where `done`; all `[S]`."""
        self._sums = self._sums + np.where(done, np.stack([returns, lengths, success, np.ones(len(done))]), 0.0)

    def add_later(self, ended: tuple[Array, Array, Array, Array]) -> None:
        """Adds the episodes of a call under way: `add`'s arguments, each `[S, steps]`, read once the next is given.

        So the host waits for the call before, and the device always has the next one.
        """
        before, self._newest = self._newest, ended
        if before is not None:
            for step in zip(*(np.asarray(each).T for each in before), strict=True):
                self.add(*step)

    @property
    def sums(self) -> np.ndarray:
        """`[4, S]`: return, length and success of the episodes, and their number; waits for those of `add_later`."""
        if self._newest is not None:
            self.add_later(self._newest)
            self._newest = None
        return self._sums

    def flush(self) -> dict[str, np.ndarray]:
        """Means per seed (NaN where no episode ended), and clears."""
        total, count = self.sums[:3], self.sums[3]
        means = np.full_like(total, np.nan)
        np.divide(total, count, out=means, where=count > 0)
        self._sums = np.zeros_like(self._sums)
        return {"episode_return": means[0], "episode_length": means[1], "episode_success": means[2], "episodes": count}
