"""How the cost of updates grows with seeds, width, updates in a call, and devices: one axis at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from cfdg_jax.bench.programs import each, program_of
from cfdg_jax.bench.rates import SECONDS, update_rate

AXES: Mapping[str, tuple[int, ...]] = {
    "seeds": (1, 2, 5, 10, 20, 50),
    "width": (64, 128, 256, 512, 1024),
    "batch": (64, 128, 256, 512, 1024),
    "updates_per_call": (1, 2, 5, 20, 100),
}
"""Values of each axis; the others stay at one seed, width 256, batch 256 and 100 updates a call."""
DEVICE_SEEDS = 8
"""Seeds of each device where there are several."""


def scaling_rates(quick: bool) -> dict[str, Any]:
    """Updates/s over all seeds of the first agent, halfcheetah sizes, along each axis of `AXES`; devices likewise."""
    devices = [count for count in (1, 2, 4, 8) if count <= jax.local_device_count()]
    axes = {axis: points[:2] if quick else points for axis, points in AXES.items()}
    axes |= {"devices": tuple(devices)} if len(devices) > 1 else {}
    found: dict[str, Any] = {axis: {} for axis in axes}
    for axis, value in each([(axis, value) for axis, points in axes.items() for value in points], "scaling"):
        others = {"seeds": DEVICE_SEEDS * devices[-1]} if axis == "devices" else {}
        found[axis][str(value)] = _rate(quick, **{axis: value}, **others)
    return found


def _rate(
    quick: bool, seeds: int = 1, width: int = 256, batch: int = 256, updates_per_call: int = 100, devices: int = 1
) -> dict[str, float]:
    fields = {"augment.width": 64, "agent.hidden": (width, width), "mix.batch_size": batch, "devices": str(devices)}
    program = program_of("halfcheetah", seeds, 20_000, fields)
    return update_rate(program, updates_per_call, 1, seconds=0.0 if quick else SECONDS)
