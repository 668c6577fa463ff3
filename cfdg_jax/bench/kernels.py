"""``cfdg-jax bench kernels``: kernels, FLOP, bytes and scratch memory of every compiled step, for 5 seeds.

A step is one turn of the scan of a dispatch: an update of an agent, a denoiser's optimiser step, a sampler's
evaluation. What a dispatch does once, such as drawing its rows, is left out; the online step, one dispatch, is whole.
Nothing is timed, so the counts are the same on a busy machine; another backend compiles other kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.bench import hlo, kinds
from cfdg_jax.bench.programs import chunk_arguments, each, policy_delay, program_of
from cfdg_jax.core.flops import product_flop
from cfdg_jax.training.act import online_step
from cfdg_jax.training.generate import fit_generator, generate, start_generator
from cfdg_jax.training.learn import no_meters, offline_chunk
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program
from cfdg_jax.types import Source

STEPS = 9
"""Of a scan: XLA unrolls none so long, and no loop inside a step turns as often."""
SAMPLER_STEPS = 33
"""One evaluation each, of the solver used here."""
AT_ONCE: dict[str, Any] = {"seed_axis": "vmap"}
"""The seeds as an accelerator is given them; ``auto`` lets a CPU take them one after the other."""
COLUMNS = (*hlo.KINDS[:1], hlo.PRODUCT_FUSIONS, *hlo.KINDS[1:], "all", "gflop", "megabytes", "temp_megabytes")


def kernel_counts(quick: bool, agents: Sequence[str] = ()) -> dict[str, Any]:
    """Every agent's update on HalfCheetah, batch 256; the online step, a fit step and an evaluation on Hopper.

    With `agents`, their updates alone.
    """
    seeds = 2 if quick else 5
    results: dict[str, Any] = {"seeds": seeds}
    for name in each(agents or list(AGENTS)[:: 9 if quick else 1], "kernels"):
        program = program_of("halfcheetah", seeds, 20_000, {"augment.width": 64}, name)
        results[name] = update_kernels(program)
    if agents:
        return results
    results["online step"] = _online_kernels(seeds, 10_000 if quick else 1_000_000)
    width = 64 if quick else 256
    values = {"augment.width": width, "augment.solver": "dpm++2m", "augment.sampler_steps": SAMPLER_STEPS}
    program = program_of("hopper", seeds, 20_000, AT_ONCE | values | {"online.capacity": 20_000})
    state = jax.eval_shape(lambda: init(program, "online"))
    generator = jax.eval_shape(start_generator.of(program), state.online, state.key, program.offline_rows)
    fit = (generator, state.online, program.offline_rows, state.key)
    results["fit step"] = _step_kernels(fit_generator.of(program), fit, {"steps": STEPS}, STEPS)
    options = {"source": int(Source.SYNTHETIC_ONLINE), "rows": 256}
    results["sampler evaluation"] = _step_kernels(generate.of(program), (generator, state.key), options, SAMPLER_STEPS)
    return results


def update_kernels(program: Program) -> dict[str, Any]:
    """Of one update of all seeds, in the online phase: an agent may pre-train as another one does."""
    options = {"updates": STEPS, "phase": "online"}
    program = dataclasses.replace(program, config=dataclasses.replace(program.config, **AT_ONCE))
    args = jax.eval_shape(lambda: chunk_arguments(program, "online"))
    return _step_kernels(offline_chunk.of(program), args, options, STEPS, policy_delay(program))


def _step_kernels(function: Any, args: tuple, options: dict[str, Any], turns: int, delay: int = 1) -> dict[str, Any]:
    compiled = function.lower(*args, **options).compile()
    flop = product_flop(lambda *args: function(*args, **options), *args, delay=delay) / turns
    text = hlo.parse(compiled.as_text())
    return _described(compiled, text, hlo.turn(text, turns), flop)


def _online_kernels(seeds: int, capacity: int) -> dict[str, Any]:
    program = program_of("hopper", seeds, 200_000, {"online.capacity": capacity, "augment.width": 64})
    counts = program.mix.counts({}, program.offline_rows.shape[0])
    one = np.zeros(seeds, np.float32)
    obs, action = np.zeros((seeds, program.spec.obs_dim)), np.zeros((seeds, program.spec.act_dim))
    packet = Packet(obs, action, one, obs, one, obs).pack()
    state, meters = jax.eval_shape(lambda: (init(program, "online"), no_meters(program, "online")))
    args = (state, meters, packet, np.int32(1), program.offline_rows)
    step: Any = online_step.of(program)
    compiled = step.lower(*args, counts, False).compile()
    flop = product_flop(lambda *args: step(*args, counts, False), *args)
    text = hlo.parse(compiled.as_text())
    return _described(compiled, text, list(hlo.launched(text)), flop)


def _described(
    compiled: jax.stages.Compiled, text: hlo.Text, launched: list[hlo.Instruction], flop: float
) -> dict[str, Any]:
    """Counts by kind; bytes as XLA's own estimate, which takes each loop once, and so what is outside it too."""
    counts = hlo.kernels(text, launched)
    memory: Any = compiled.memory_analysis()
    cost: Any = compiled.cost_analysis()
    return {
        **{kind: counts[kind] for kind in (hlo.KINDS[0], hlo.PRODUCT_FUSIONS, *hlo.KINDS[1:])},
        "all": hlo.launches(counts),
        "gflop": flop / 1e9,
        "megabytes": cost["bytes accessed"] / 1e6,
        "temp_megabytes": memory.temp_size_in_bytes / 1e6,
        "kinds": kinds.by_kind(text, launched),
    }


def table(results: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """Counts as Markdown, one line a step; with `before`, ``before -> after`` where they differ."""
    lines = ["| step | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, row in results.items():
        if isinstance(row, dict):
            old = (before or {}).get(name, row)
            cells = [(f"{old[column]:.4g}", f"{row[column]:.4g}") for column in COLUMNS]
            lines.append(f"| {name} | " + " | ".join(a if a == b else f"{a} -> {b}" for a, b in cells) + " |")
    return "\n".join(lines)
