"""``cfdg-jax sweep FILE --dry-run``: what each run of a sweep would do, hold and take, without reading any data."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cfdg_jax.config import TrainConfig, choice
from cfdg_jax.data.load import task_of_name
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.errors import UserError, require
from cfdg_jax.fields import pre_training_hash

RATES = "benchmarks/results/bench-cpu.json"
"""What ``cfdg-jax bench --out`` wrote last; its rates are of this machine if it was run here."""
NO_RATES = f"no rates in {RATES}; `cfdg-jax bench agents generator` in this folder measures them"
_BENCH_SAMPLER_STEPS = 32
"""Sampler steps that the benchmark's generated rows per second are of."""


class Forecast(NamedTuple):
    """One run of a sweep.

    Attributes:
      name: Its dataset and label.
      offline, online: Steps of the two phases.
      refreshes: How often a generator is fitted.
      gigabytes: The largest arrays: online and synthetic rings of all lanes; None where the task is unknown.
      hours: Of all its lanes, from rates of single updates; None where the benchmark holds no such rate.
    """

    name: str
    offline: int
    online: int
    refreshes: int
    gigabytes: float | None
    hours: float | None


def read_rates(path: str | None) -> Mapping[str, Any]:
    """The results of a benchmark; empty where `path` is None and there is no file at `RATES`.

    Raises:
      UserError: if a file that was asked for is missing or is none of the benchmark's.
    """
    found = pathlib.Path(path or RATES)
    if path is None and not found.is_file():
        return {}
    require(found.is_file(), str(found), "does not exist", "make it with: cfdg-jax bench --out FILE")
    try:
        plain = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(str(found), f"is no json ({error})", "make it with: cfdg-jax bench --out FILE") from None
    require(isinstance(plain, dict), str(found), "holds no results", "make it with: cfdg-jax bench --out FILE")
    return plain


def forecast(config: TrainConfig, rates: Mapping[str, Any], borrows: bool = False) -> Forecast:
    """What a run of `config` comes to; one that `borrows` its pre-training makes none."""
    offline = 0 if borrows else config.offline.steps
    online, augment = config.online, config.augment
    generates = hasattr(augment, "sampler_steps")
    refreshes = max(0, (online.steps - 1) // config.refresh.every) if generates else 0
    generated = config.refresh.capacity + config.refresh.rows  # the ring, and the new rows during a refresh
    held = online.capacity + (generated if refreshes else 0)
    task = config.env.task or task_of_name(config.dataset)
    try:
        size = 2e-9 if config.row_dtype == "bfloat16" else 4e-9
        gigabytes = len(config.lanes) * held * spec_of(task).layout.width * size
    except UserError:
        gigabytes = None
    last = config.first_seed + config.seeds - 1
    name = f"{config.dataset or task} {config.name}, seeds {config.first_seed}-{last}"
    hours = _hours(config, offline, refreshes, rates)
    return Forecast(name, offline, online.steps, refreshes, gigabytes, hours)


def _hours(config: TrainConfig, offline: int, refreshes: int, rates: Mapping[str, Any]) -> float | None:
    """Hours of updates, fits and sampling of all seeds, one after the other."""
    updates = offline + max(0, config.online.steps - config.online.start_steps) * config.online.utd
    learn = rates.get("agents", {}).get(f"{choice(config, 'agent')}_seeds_5", {}).get("updates_per_second")
    if not learn:
        return None
    seconds = updates / learn
    if refreshes:
        augment, generator = config.augment, rates.get("generator", {})
        fit = generator.get(f"fit_width_{augment.width}", {}).get("steps_per_second")
        sample = generator.get(f"sample_width_{augment.width}", {}).get("rows_per_second")
        if not fit or not sample:
            return None
        slower = augment.sampler_steps / _BENCH_SAMPLER_STEPS
        seconds += augment.pretrain_steps / fit / len(config.lanes)  # once for all
        seconds += refreshes * (augment.steps / fit + config.refresh.rows * slower / sample)
    return len(config.lanes) * seconds / 3600


def table(configs: Sequence[TrainConfig], rates: Mapping[str, Any]) -> str:
    """Every run on a line, the sums on the last; of runs with the same pre-training the first makes it."""
    before = [pre_training_hash(config) for config in configs]
    rows = [forecast(each, rates, before[i] in before[:i]) for i, each in enumerate(configs)]
    lines = [f"{'run':<64} {'offline':>9} {'online':>9} {'refreshes':>9} {'rings':>9} {'hours':>8}"]
    shown = lambda value, form: "?" if value is None else format(value, form)
    for row in rows:
        size = "?" if row.gigabytes is None else f"{row.gigabytes:.2f} GB"
        counts = f"{row.offline:>9,} {row.online:>9,} {row.refreshes:>9,}"
        lines.append(f"{row.name:<64} {counts} {size:>9} {shown(row.hours, '.1f'):>8}")
    known = [row.hours for row in rows if row.hours is not None]
    device = f" by the rates of {rates['device']}" if "device" in rates else ""
    hours = f"{sum(known):,.0f} hours of updates{device}" if known else f"hours unknown: {NO_RATES}"
    total = f"{len(rows)} runs, {hours}"
    lines.append(f"{total}; pre-training that runs share is counted in the first")
    return "\n".join(lines)
