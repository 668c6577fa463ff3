"""``cfdg-jax train --dry-run``: what a run would do, hold and take, with its data read and nothing trained."""

from __future__ import annotations

import dataclasses
import pathlib

from cfdg_jax.augment.base import first_refresh
from cfdg_jax.config import TrainConfig, remarks
from cfdg_jax.forecast import NO_RATES, forecast, read_rates
from cfdg_jax.report.status import status
from cfdg_jax.training.build import load_program
from cfdg_jax.training.checkpoint import kept, load_offline_agent
from cfdg_jax.training.devices import mesh_of, told
from cfdg_jax.training.drivers import environment_remarks
from cfdg_jax.training.memory import TooLarge, memory_plan
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.results import read_summary
from cfdg_jax.training.run import source_of
from cfdg_jax.training.stopwatch import Stopwatch


def dry_run(config: TrainConfig, folder: pathlib.Path, offline_from: pathlib.Path | None = None) -> str:
    """Steps, memory and expected time of a run, one line each.

    Args:
      config: The run's.
      folder: Where it would lie.
      offline_from: The run whose pre-training it would start from.

    Raises:
      UserError: for whatever the run itself would refuse before it begins, data, memory and pre-training included.
    """
    program = load_program(config, Progress(False), Stopwatch())
    config, rates = program.config, read_rates(None)
    expected, config_of_one = forecast(config, rates, offline_from is not None), config
    try:
        plan = memory_plan(program, Progress(False))
        memory = f"{sum(plan.values()):,.0f} MB, most of it {max(plan, key=lambda name: plan[name])}"
    except TooLarge as large:
        if not large.group or offline_from is not None:
            raise
        memory, config_of_one = large.groups, dataclasses.replace(config, seeds=large.group)
    source = source_of(offline_from, config)
    if source is not None:
        load_offline_agent(pathlib.Path(source.folder), program, source.agent)
    offline, online, evaluate = config.offline, config.online, config.evaluate
    stages = [f"{stage.name} {stage.steps:,} steps" for stage in program.stratifier.stages]
    before = program.augmenter.pretraining
    if before is not None and first_refresh(config) is not None:
        stages.append(f"generator {before.fit_steps:,} steps, unless one is found")
    refreshes = f", {expected.refreshes} refreshes of {config.refresh.rows:,} rows" if expected.refreshes else ""
    hours = f"unknown: {NO_RATES}"
    if expected.hours is not None:
        amount = f"{expected.hours:.1f} hours" if expected.hours > 1 else f"{60 * expected.hours:.0f} minutes"
        hours = f"about {amount} of updates by the rates of {rates.get('device', 'the benchmark')}"
    axis = f" at {len(config.lanes) // config.seeds} settings of {', '.join(config.vmap)}" if config.vmap else ""
    scored = lambda steps, every: f"{evaluations(steps, every)} times {evaluate.episodes} episodes a seed"
    where = config.dataset or config.env.task
    rows = {
        "run": f"{config.name} on {where}, {config.seeds} seeds{axis}, preset {config.preset}",
        "folder": str(folder),
        "data": f"{program.offline_rows.shape[0]:,} rows",
        "pre-training": f"that of {offline_from}"
        if source
        else f"{offline.steps:,} updates, {scored(offline.steps, evaluate.offline_every)}",
        "preparation": ", ".join(stages) or "none",
        "online": f"{online.steps:,} environment steps a seed, {online.updates:,} updates{refreshes}, "
        f"{scored(online.steps, evaluate.online_every)}",
        "memory": memory,
        "time": hours,
    }
    devices = told(config_of_one, mesh_of(config_of_one))
    if devices:
        rows |= {"devices": devices + (" of a group" if config_of_one is not config else "")}
    stands = so_far(folder)
    if stands:
        rows |= {"so far": f"{stands}; all else is of the whole run"}
    text = "\n".join(f"{name:<13} {value}" for name, value in rows.items())
    warnings = (*remarks(config), *environment_remarks(program))
    return "\n".join([text, *(f"{'warning':<13} {remark}" for remark in warnings)])


def so_far(folder: pathlib.Path) -> str:
    """How the run of a folder stands, and what of it is kept; empty where none has begun."""
    summary = read_summary(folder)
    return f"{status(folder, summary)}; kept: {kept(folder)}" if summary else ""


def evaluations(steps: int, every: int) -> int:
    """How often a phase is scored: at its start, every `every` steps and at its end."""
    return 1 + -(-steps // every) if steps else 0
