"""What all generators share beside their network: preset values, and warnings of rows that are never used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cfdg_jax.methods import Entry, Preset


def reduced_values(preset: Preset) -> dict[str, Any]:
    """A denoiser for a few CPU cores (docs/algorithms.md#refresh)."""
    if preset == "paper":
        return {}
    values: dict[str, Any] = {
        "augment.width": 256,
        "augment.dim_t": 64,
        "augment.steps": 3_000,
        "augment.solver": "dpm++3m",  # at 24 evaluations as good as SynthER's 255 (benchmarks/results/samplers.md)
        "augment.sampler_steps": 24,
        "augment.churn": 0.0,
        "augment.next_obs": "change",  # one-step errors a third of those of s' itself after 2,000 fit steps
    }
    if preset == "smoke":
        values |= {"augment.width": 32, "augment.dim_t": 16, "augment.steps": 100, "augment.sampler_steps": 8}
    return values


def check_use(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    """Warns of rows that are never generated, or never used."""
    if config.online.steps and first_refresh(config) is None:
        yield "no refresh comes before the end, so no row is generated; lower refresh.every or min_online"
    if config.mix.composition == "fixed" and config.mix.synthetic_share == 0.0:
        yield "generated rows are in no batch; raise mix.synthetic_share, or use --augment none"


def first_refresh(config: Any) -> int | None:
    """The online step of the first refresh, None if the run ends before: a whole batch of online rows must be there."""
    refresh, online = config.refresh, config.online
    least = max(refresh.min_online, config.mix.batch_size)
    step = -(-least // refresh.every) * refresh.every
    late = step > online.steps if refresh.last else step >= online.steps
    return None if late or online.capacity < least else step
