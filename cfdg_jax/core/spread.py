"""Rows of one batch over the devices that serve one lane.

A mesh with an axis `ROWS` says that there are such devices; without one, as in nearly every run, nothing happens. What
is computed is the same, only where is not: the compiler splits what follows from the rows, and adds up what is summed
over them.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec

from cfdg_jax.types import Array

ROWS = "rows"


def spread(rows: Array) -> Array:
    """`rows` `[..., n, d]`, of which each device of the lane has its share."""
    return _lying(rows, PartitionSpec(*[None] * (rows.ndim - 2), ROWS))


def whole(rows: Array) -> Array:
    """`rows` of any shape, all of which each device of the lane has."""
    return _lying(rows, PartitionSpec())


def _lying(rows: Array, spec: PartitionSpec) -> Array:
    spread_out = ROWS in jax.sharding.get_abstract_mesh().axis_names
    return jax.lax.with_sharding_constraint(rows, spec) if spread_out else rows
