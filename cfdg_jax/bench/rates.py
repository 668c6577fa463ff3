"""Rates of updates, of generators and of environments.

Rates are the best of several repetitions, so that a shared machine's other work counts as little as can be. FLOP are
those of the matrix products in the traced program.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.bench.programs import best_seconds, chunk_arguments, each, noise_rows, policy_delay, program_of
from cfdg_jax.core import ring
from cfdg_jax.core.flops import product_flop
from cfdg_jax.envs.registry import make_env
from cfdg_jax.training.generate import fit_generator, generate, start_generator
from cfdg_jax.training.learn import offline_chunk
from cfdg_jax.training.meters import Meters
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program
from cfdg_jax.types import Source, TrainState

SECONDS = 3.0
"""For which updates are timed: other work on the machine may take longer than one call of few updates."""


def offline_rates(quick: bool) -> dict[str, Any]:
    """Updates/s of the first agent over all seeds, halfcheetah sizes, batch 256."""
    updates, repeats = (50, 2) if quick else (250, 5)
    results: dict[str, Any] = {}
    for seeds in each((1, 5) if quick else (1, 5, 20), "offline"):
        program = program_of("halfcheetah", seeds, 100_000, {"augment.width": 64})
        results[f"seeds_{seeds}"] = update_rate(program, updates, repeats)
    results["five_seeds_over_one"] = results["seeds_5"]["updates_per_second"] / results["seeds_1"]["updates_per_second"]
    return results


def update_rate(
    program: Program, updates: int, repeats: int, phase: str = "offline", seconds: float = 0.0
) -> dict[str, float]:
    """Updates/s of `phase` over all seeds, `updates` per call on offline rows, and the rate of the products in them.

    The fastest of `repeats` calls, and of those that fit in `seconds`.
    """
    arguments, delay = chunk_arguments(program, phase), policy_delay(program)

    def chunk(state: TrainState, meters: Meters, rows: jax.Array) -> tuple[TrainState, Meters]:
        return offline_chunk(program, state, meters, rows, updates, phase)

    flop = product_flop(chunk, *arguments, delay=delay) / updates
    carry = arguments[:2]

    def call():
        nonlocal carry
        carry = chunk(carry[0], carry[1], program.offline_rows)
        return carry[0].step

    seeds = program.config.seeds
    rate = seeds * updates / best_seconds(call, repeats, seconds)
    return {"updates_per_second": rate, "gflops": rate * flop / seeds / 1e9}


def agent_rates(quick: bool, agents: Sequence[str] = ()) -> dict[str, Any]:
    """Updates/s over all seeds of every agent at its own sizes, halfcheetah, batch 256; and seconds to compile.

    With `agents`, of these alone. Of the online phase: an agent may pre-train as another one does.
    """
    results: dict[str, Any] = {}
    for name in each(agents or list(AGENTS)[:: 9 if quick else 1], "agents"):
        for seeds in (1,) if quick else (1, 5):
            program = program_of("halfcheetah", seeds, 20_000, {"augment.width": 64}, name)
            results[f"{name}_seeds_{seeds}"] = update_rate(program, 10, 2, "online", 0.0 if quick else SECONDS)
        results[f"{name}_compile"] = compile_seconds(program_of("halfcheetah", 1, 1_000, {"augment.width": 64}, name))
    return results


def compile_seconds(program: Program) -> dict[str, float]:
    """Seconds to trace and compile one update, and twenty in one call; a scan's length hardly matters."""
    cached = bool(jax.config.values["jax_enable_compilation_cache"])
    jax.config.update("jax_enable_compilation_cache", False)
    arguments, seconds = chunk_arguments(program, "online"), {"utd_1": np.inf, "utd_20": np.inf}
    try:
        for updates in (1, 20, 1, 20):
            jax.clear_caches()
            start = time.perf_counter()
            offline_chunk.of(program).lower(*arguments, updates=updates, phase="online").compile()
            seconds[f"utd_{updates}"] = min(seconds[f"utd_{updates}"], time.perf_counter() - start)
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    return seconds | {"ratio": seconds["utd_20"] / seconds["utd_1"]}


def env_rates(quick: bool) -> dict[str, Any]:
    """Environment steps/s with random actions, resets included."""
    results: dict[str, Any] = {}
    for task in each(("hopper",) if quick else ("hopper", "halfcheetah", "walker2d", "ant"), "env"):
        for copies in (1, 5, 20, 64):
            env, rng = make_env(task, list(range(copies)), "gymnasium"), np.random.default_rng(0)
            env.reset()
            steps, start = (20 if quick else 300), time.perf_counter()
            for _ in range(steps):
                result = env.step(rng.uniform(-1, 1, (copies, env.spec.act_dim)))
                done = result.terminal | result.truncated
                if done.any():
                    env.reset(done)
            results[f"{task}_{copies}"] = steps * copies / (time.perf_counter() - start)
            env.close()
    return results


def generator_rates(quick: bool) -> dict[str, Any]:
    """Denoiser steps/s and generated rows/s, Hopper rows, one seed."""
    results: dict[str, Any] = {}
    for width in each((64,) if quick else (256, 1024), "generator"):
        steps, rows = (5, 100) if quick else (50, 1_000)
        values = {"augment.width": width, "augment.sampler_steps": 8 if quick else 32, "online.capacity": 20_000}
        program = program_of("hopper", 1, 50_000, values)
        state = init(program, "online")
        online = ring.insert(state.online, jnp.asarray(noise_rows(program.spec, 10_000))[None])
        state = state._replace(online=online)
        generator = start_generator(program, state.online, state.key, program.offline_rows)

        learn = functools.partial(fit_generator, program, steps=steps)
        sample = functools.partial(generate, program, source=int(Source.SYNTHETIC_ONLINE), rows=rows)
        learnt, drawn = (state.online, program.offline_rows, state.key), (generator, state.key)
        flop = {"fit": product_flop(learn, generator, *learnt) / steps, "sample": product_flop(sample, *drawn) / rows}

        def fit(learn=learn, learnt=learnt):
            nonlocal generator
            generator, metrics = learn(generator, *learnt)
            return metrics

        rate = {
            "fit": steps / best_seconds(fit, 2 if quick else 4),
            "sample": rows / best_seconds(lambda: sample(generator, state.key), 2),  # noqa: B023
        }
        names = {"fit": "steps_per_second", "sample": "rows_per_second"}
        for part, name in names.items():
            results[f"{part}_width_{width}"] = {name: rate[part], "gflops": rate[part] * flop[part] / 1e9}
    return results
