"""Rates of the online step: beside its updates and environments alone, and with each stratifier."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.bench.programs import each, noise_rows, program_of
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.envs.registry import make_env, spec_of
from cfdg_jax.presets import make_config
from cfdg_jax.stratify.registry import STRATIFIERS
from cfdg_jax.training.act import acting_step, learning_step, online_step
from cfdg_jax.training.build import build_program
from cfdg_jax.training.learn import no_meters, update_all
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program


def online_rates(quick: bool) -> dict[str, Any]:
    """Hopper, 5 seeds: the loop's step beside the same updates alone and the environment alone."""
    seeds, capacity = 5, 100_000 if quick else 1_000_000
    program = program_of("hopper", seeds, 200_000, {"online.capacity": capacity, "augment.width": 64})
    steps = 40 if quick else 300
    step, environment, state, arguments = _online_seconds(program, steps)
    overlapping = {"online.capacity": capacity, "augment.width": 64, "online.overlap": True}
    overlap, *_ = _online_seconds(program_of("hopper", seeds, 200_000, overlapping), steps)
    update = _update_alone(program, state, 10 if quick else 100)
    temp = online_step.of(program).lower(state, *arguments).compile().memory_analysis().temp_size_in_bytes
    return {
        "seeds": seeds,
        "capacity": capacity,
        "steps_per_second": 1 / step,
        "milliseconds": {
            "step": 1e3 * step,
            "step_with_overlap": 1e3 * overlap,
            "update": 1e3 * update,
            "environment": 1e3 * environment,
            "overhead": 1e3 * (step - update - environment),
        },
        "share_not_update": 1 - update / step,
        "temp_megabytes": temp / 1e6,
        "traces": online_step.of(program)._cache_size(),
    }


def stratify_rates(quick: bool) -> dict[str, Any]:
    """Milliseconds of an online step on Hopper at the sizes of preset `reduced`, with each stratifier."""
    results: dict[str, Any] = {}
    for seeds in each((1,) if quick else (1, 3), "stratify"):
        for stratify in STRATIFIERS:
            preset = "smoke" if quick else "reduced"
            config = make_config("local:hopper-medium-replay-v0", stratify=stratify, preset=preset, seeds=seeds)
            config = dataclasses.replace(config, dataset="timing")
            spec = spec_of("hopper", "gymnasium")
            program = build_program(config, spec, identity_transforms(spec.obs_dim), noise_rows(spec, 20_000))
            step, *_ = _online_seconds(program, 40 if quick else 300)
            results[f"{stratify}_seeds_{seeds}_ms"] = 1e3 * step
        first, *others = STRATIFIERS
        base = results[f"{first}_seeds_{seeds}_ms"]
        results[f"ratio_seeds_{seeds}"] = {name: results[f"{name}_seeds_{seeds}_ms"] / base for name in others}
    return results


def _online_seconds(program: Program, steps: int) -> tuple[float, float, Any, tuple]:
    """Median seconds of a step of the online loop and of its environments; the last state, and the other arguments."""
    seeds = program.config.seeds
    counts = program.mix.counts({}, program.offline_rows.shape[0])
    env = make_env("hopper", list(range(seeds)), "gymnasium")
    state, meters = init(program, "online"), no_meters(program, "online")
    obs, action = env.reset(), jnp.zeros((seeds, program.spec.act_dim))
    whole, environment = [], []
    start = time.perf_counter()
    for t in range(steps + 10):
        sent = np.asarray(action)  # waits for the device
        whole.append(time.perf_counter() - start)
        start = time.perf_counter()
        result = env.step(sent)
        done = result.terminal | result.truncated
        current = env.reset(done) if done.any() else result.next_obs
        environment.append(time.perf_counter() - start)
        packet, obs = Packet(obs, action, result.reward, result.next_obs, result.terminal, current), current
        packed, step, rows = packet.pack(), np.int32(t + 1), program.offline_rows
        if program.config.online.overlap:
            action = acting_step(program, state, packed, step, False)
            state, meters = learning_step(program, state, meters, packed, step, rows, counts)
        else:
            state, meters, action = online_step(program, state, meters, packed, step, rows, counts, False)
    env.close()
    rest = (meters, packed, step, rows, counts, False)
    return float(np.median(whole[10:])), float(np.median(environment[10:])), state, rest


def _update_alone(program: Program, state, repeats: int) -> float:
    """Median seconds of one update of all seeds on rows that are already there."""
    seeds, batch, width = program.config.seeds, program.config.mix.batch_size, program.spec.layout.width
    rows = jnp.asarray(noise_rows(program.spec, seeds * batch)).reshape(seeds, 1, batch, width)
    small = init(program, "offline")._replace(agent=state.agent)
    update = jax.jit(lambda state, rows: update_all(program, "online", state, state.key, rows), donate_argnums=0)
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        small, _ = update(small, rows)
        jax.block_until_ready(small.agent)
        times.append(time.perf_counter() - start)
    return float(np.median(times[3:]))
