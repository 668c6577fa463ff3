"""The memory plan: what a run will hold, told and checked before anything is allocated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from cfdg_jax.core.flops import largest_array, largest_in_turn
from cfdg_jax.core.machine import free_memory
from cfdg_jax.errors import UserError
from cfdg_jax.training.devices import devices_of, told
from cfdg_jax.training.generate import fit_generator, generate, score_rows, scores_of, start_generator, synthetic_rows
from cfdg_jax.training.learn import traced_update
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Progress

SHARED = "offline rows, shared"
"""What every device holds whole."""
SPREAD = "generating"
"""What every device holds its part of, be they more than lanes."""
SPARED = 0.9
"""Part of the free memory that a run may take."""
WORTH = 0.1
"""Part of the plan from which something is worth making smaller."""
ADVICE = {
    SHARED: "a dataset of fewer rows",
    "online rings": "a smaller --online.capacity",
    "synthetic rings": "a smaller --refresh.capacity or --refresh.rows",
    "one dispatch": "a smaller --mix.batch_size, --online.utd or --offline.updates_per_call",
    "evaluation": "fewer --evaluate.episodes",
    "agent": "smaller networks",
    "stratifier": "smaller networks",
    "update": "smaller networks or --mix.batch_size",
    "generator": "a smaller --augment.width",
    SPREAD: "a smaller --augment.batch or --refresh.chunk",
}
"""What makes a part of the plan smaller."""
ENVIRONMENT_MB = 0.05
"""Of one simulator, such as MuJoCo's data of a small robot."""


class TooLarge(UserError):
    """A run that memory does not hold.

    Attributes:
      group: Seeds of the groups in which it fits; 0 if one seed is too large, or there is but one.
      groups: That in words.
    """

    def __init__(self, plan: Mapping[str, float], available: float, seeds: int, group: int, settings: int = 1):
        total, most = sum(plan.values()), max(plan, key=lambda name: plan[name])
        problem = (
            f"the plan needs {total:,.0f} MB ({most}: {plan[most]:,.0f} MB) and a run may take {available:,.0f} MB"
        )
        axes = [*["fewer --seeds"] * bool(group), *["fewer --vmap values"] * (settings > 1)]
        large = sorted((name for name in plan if plan[name] >= WORTH * total), key=lambda name: -plan[name])
        helps = [*axes, *dict.fromkeys(ADVICE[name] for name in large if name in ADVICE), "a machine with more memory"]
        remedy = f"{', '.join(helps[:-1])} or {helps[-1]}"
        self.group, self.groups = group, ""
        if group:
            remedy = f"groups of {group} seeds, which a new cfdg-jax train without --from-offline makes; or {remedy}"
            others = (seeds - 1) // group  # than the last
            each = f"{', '.join([str(group)] * others)} and {seeds - group * others}"
            sizes = each if others < 5 else f"at most {group}"
            need = f"{seeds} seeds need {total:,.0f} MB of {available:,.0f}"
            self.groups = f"{need}; trained in {others + 1:,} groups of {sizes}"
        super().__init__("memory", problem, f"use {remedy}")


def memory_plan(program: Program, progress: Progress) -> dict[str, float]:
    """Says what the run will hold on each device, in MB, and refuses a plan that does not fit.

    Raises:
      TooLarge: if it exceeds what the device has, with what takes the most.
    """
    config, width = program.config, program.spec.layout.width
    row = width * program.offline_rows.dtype.itemsize / 1e6
    lanes = len(config.lanes)
    phases = [phase for phase, steps in (("offline", config.offline.steps), ("online", config.online.steps)) if steps]
    online = config.online.capacity if config.online.steps else 1
    generates = bool(program.augmenter.shares and config.online.steps)
    updates = max(config.offline.updates_per_call, config.online.utd if config.online.steps else 1)
    new = config.refresh.rows * width * 4 / 1e6  # rows of a refresh under way
    plan = {
        SHARED: program.offline_rows.shape[0] * row,
        "online rings": lanes * online * row,
        "synthetic rings": lanes * (config.refresh.capacity * row + new) if generates else 0.0,
        "one dispatch": lanes * updates * config.mix.batch_size * row * 2,
        "evaluation": lanes * config.evaluate.episodes * ENVIRONMENT_MB,
    }
    for phase in phases:
        state = jax.eval_shape(lambda phase=phase: init(program, phase))
        held = {"agent": 2 * _megabytes(state.agent), "stratifier": _megabytes(state.stratifier)}  # and its gradients
        held["update"] = largest_in_turn(traced_update(program, phase)[0].jaxpr) / 1e6
        plan |= {name: max(value, plan.get(name, 0.0)) for name, value in held.items()}
    if generates:
        plan |= _of_generator(program)
    devices, of_one_lane, memories = devices_of(program.mesh)
    shared = told(config, program.mesh)
    if shared:
        progress.say(f"devices: {shared}")
    copies = {SHARED: devices, SPREAD: 1}  # all else is split by lanes
    plan = {name: value * copies.get(name, of_one_lane) / memories for name, value in plan.items()}
    at_once = devices // of_one_lane  # lanes on devices of their own, as in every group of seeds
    settings = lanes // config.seeds
    _require_fit(plan, config.seeds, at_once // math.gcd(at_once, settings), progress, settings)
    return plan


def _of_generator(program: Program) -> dict[str, float]:
    """What the generator holds and takes: its state and gradients, a dispatch of its fit, one chunk of rows."""
    if program.mesh is not None:  # the arrays of all lanes are wanted, not those of one device
        program = dataclasses.replace(program, mesh=None)
    config, offline = program.config.refresh, program.offline_rows
    state = jax.eval_shape(lambda: init(program, "online"))
    generator = jax.eval_shape(start_generator.of(program), state.online, state.key, offline)
    source = next(iter(program.augmenter.shares))
    rows = min(config.chunk, synthetic_rows(program)[source])
    steps = min(config.fit_steps_per_call, program.augmenter.fit_steps)
    scores = jax.eval_shape(lambda state: scores_of(program, state, offline, state.key), state)
    traced = [
        fit_generator.of(program).trace(generator, state.online, offline, state.key, steps=steps, scores=scores),
        generate.of(program).trace(generator, state.key, source=source, rows=rows),
    ]
    if scores:
        traced.append(score_rows.of(program).trace(state, offline, state.key))
    scratch = max(largest_array(each.jaxpr.jaxpr) for each in traced) / 1e6
    return {"generator": 2 * _megabytes(generator) + _megabytes(scores), SPREAD: scratch}


def _megabytes(shapes: Any) -> float:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) / 1e6


def _require_fit(plan: Mapping[str, float], seeds: int, unit: int, progress: Progress, settings: int = 1) -> None:
    """Tells the plan; refuses one that does not fit, with groups of equal sizes, multiples of `unit`."""
    total, available = sum(plan.values()), SPARED * available_mb()
    parts = ", ".join(f"{name} {value:,.0f} MB" for name, value in plan.items() if value >= 0.5)
    progress.say(f"memory plan: {parts}; {total:,.0f} MB of {available:,.0f} MB that a run may take")
    if total < available:
        return
    units = seeds // unit
    fit = min(int((available - plan[SHARED]) / max(total - plan[SHARED], 1e-9) * units), units - 1)
    group = unit * -(-units // -(-units // fit)) if fit > 0 else 0
    raise TooLarge(plan, available, seeds, group, settings)


def available_mb() -> float:
    """Memory of the default device that a run may have, in MB."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) / 1e6
    return free_memory() / 1e6
