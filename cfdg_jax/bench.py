"""``cfdg-jax bench``: throughput, each number beside the matrix-product rate of the same machine in the same run.

``offline``    updates/s of the first agent for 1, 5 and 20 seeds
``agents``     updates/s of every agent, and seconds to compile
``online``     environment steps/s of the whole loop, split into update, environment and everything else
``stratify``   the same step of preset `reduced` with each stratifier
``generator``  denoiser training steps/s, generated rows/s
``env``        environment steps/s for 1, 5, 20 and 64 copies

Rates are the best of several repetitions, so that a shared machine's other work counts as little as can be. FLOP are
those of the matrix products in the traced program.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.augment.registry import AUGMENTERS
from cfdg_jax.config import TrainConfig, named_choice
from cfdg_jax.core.flops import product_flop
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.envs.registry import make_env, spec_of
from cfdg_jax.errors import require
from cfdg_jax.fields import override
from cfdg_jax.presets import make_config
from cfdg_jax.stratify.registry import STRATIFIERS
from cfdg_jax.training.act import online_step
from cfdg_jax.training.build import build_program
from cfdg_jax.training.generate import fit_generator, generate, start_generator
from cfdg_jax.training.learn import no_meters, offline_chunk, update_all
from cfdg_jax.training.logging import device_name, versions, write_atomic
from cfdg_jax.training.meters import Meters
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program, agent_of, keys_of
from cfdg_jax.types import Source, Spec, TrainState

WHAT = ("offline", "agents", "online", "stratify", "generator", "env")


def best_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Fewest seconds of `repeats` calls, after one to warm up; waits for the device."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_gflops(size: int = 2048, repeats: int = 8) -> float:
    """Rate of a large square float32 matrix product, in GFLOP/s: this machine's yardstick."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / best_seconds(lambda: product(a), repeats) / 1e9


def program_of(task: str, seeds: int, rows: int, values: dict[str, Any], agent: str | None = None) -> Program:
    """A program on `rows` standard-normal offline rows of `task`, for timing only."""
    generator = list(AUGMENTERS)[-1]
    chosen = {"agent": agent or next(iter(AGENTS)), "augment": generator}
    config = TrainConfig(**{field: named_choice(field, name) for field, name in chosen.items()}, seeds=seeds)
    config = dataclasses.replace(override(config, values), dataset="timing", seeds=seeds)
    spec = spec_of(task, "gymnasium")
    return build_program(config, spec, identity_transforms(spec.obs_dim), noise_rows(spec, rows))


def noise_rows(spec: Spec, rows: int) -> np.ndarray:
    """Packed rows `[rows, D]` of noise with bounded actions."""
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, rows, spec.obs_dim)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, spec.act_dim)).astype(np.float32)
    reward = rng.standard_normal(rows).astype(np.float32)
    return spec.layout.pack(obs, action, reward, next_obs, 0.0, -np.inf, float(Source.OFFLINE), xp=np)


def offline_rates(quick: bool) -> dict[str, Any]:
    """Updates/s of the first agent over all seeds, halfcheetah sizes, batch 256."""
    updates, repeats = (50, 2) if quick else (250, 5)
    results: dict[str, Any] = {}
    for seeds in (1, 5) if quick else (1, 5, 20):
        program = program_of("halfcheetah", seeds, 100_000, {"augment.width": 64})
        results[f"seeds_{seeds}"] = update_rate(program, updates, repeats)
    results["five_seeds_over_one"] = results["seeds_5"]["updates_per_second"] / results["seeds_1"]["updates_per_second"]
    return results


def update_rate(program: Program, updates: int, repeats: int, phase: str = "offline") -> dict[str, float]:
    """Updates/s of `phase` over all seeds, `updates` per call on offline rows, and the rate of the products in them."""
    arguments, delay = _chunk_arguments(program, phase), _policy_delay(program)

    def chunk(state: TrainState, meters: Meters, rows: jax.Array) -> tuple[TrainState, Meters]:
        return offline_chunk(program, state, meters, rows, updates, phase)

    flop = product_flop(chunk, *arguments, delay=delay) / updates
    carry = arguments[:2]

    def call():
        nonlocal carry
        carry = chunk(carry[0], carry[1], program.offline_rows)
        return carry[0].step

    seeds = program.config.seeds
    rate = seeds * updates / best_seconds(call, repeats)
    return {"updates_per_second": rate, "gflops": rate * flop / seeds / 1e9}


def _policy_delay(program: Program) -> int:
    """Critic steps for each step of the policy; 1 for an agent without such a field."""
    names = {field.name for field in dataclasses.fields(program.config.agent)} & {"delay", "policy_delay"}
    return max((getattr(program.config.agent, name) for name in names), default=1)


def agent_rates(quick: bool) -> dict[str, Any]:
    """Updates/s over all seeds of every agent at its own sizes, halfcheetah, batch 256; and seconds to compile.

    Of the online phase: an agent may pre-train as another one does.
    """
    results: dict[str, Any] = {}
    for name in list(AGENTS)[:: 9 if quick else 1]:
        for seeds in (1,) if quick else (1, 5):
            program = program_of("halfcheetah", seeds, 20_000, {"augment.width": 64}, name)
            updates, repeats = (10, 2) if quick else (10, 3)
            results[f"{name}_seeds_{seeds}"] = update_rate(program, updates, repeats, "online")
        results[f"{name}_compile"] = compile_seconds(program_of("halfcheetah", 1, 1_000, {"augment.width": 64}, name))
    return results


def compile_seconds(program: Program) -> dict[str, float]:
    """Seconds to trace and compile one update, and twenty in one call; a scan's length hardly matters."""
    cached = bool(jax.config.values["jax_enable_compilation_cache"])
    jax.config.update("jax_enable_compilation_cache", False)
    arguments, seconds = _chunk_arguments(program, "online"), {"utd_1": np.inf, "utd_20": np.inf}
    try:
        for updates in (1, 20, 1, 20):
            jax.clear_caches()
            start = time.perf_counter()
            offline_chunk.of(program).lower(*arguments, updates=updates, phase="online").compile()
            seconds[f"utd_{updates}"] = min(seconds[f"utd_{updates}"], time.perf_counter() - start)
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    return seconds | {"ratio": seconds["utd_20"] / seconds["utd_1"]}


def _chunk_arguments(program: Program, phase: str) -> tuple:
    agent = jax.jit(jax.vmap(agent_of(program, phase).init))(keys_of(program))  # of `init`, without the online ring
    return init(program, "offline")._replace(agent=agent), no_meters(program, phase), program.offline_rows


def online_rates(quick: bool) -> dict[str, Any]:
    """Hopper, 5 seeds: the loop's step beside the same updates alone and the environment alone."""
    seeds, capacity = 5, 100_000 if quick else 1_000_000
    program = program_of("hopper", seeds, 200_000, {"online.capacity": capacity, "augment.width": 64})
    step, environment, state, arguments = _online_seconds(program, 40 if quick else 300)
    update = _update_alone(program, state, 10 if quick else 100)
    temp = online_step.of(program).lower(state, *arguments).compile().memory_analysis().temp_size_in_bytes
    return {
        "seeds": seeds,
        "capacity": capacity,
        "steps_per_second": 1 / step,
        "milliseconds": {
            "step": 1e3 * step,
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
    for seeds in (1,) if quick else (1, 3):
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
    for t in range(steps + 10):
        start = time.perf_counter()
        result = env.step(np.asarray(action))
        done = result.terminal | result.truncated
        current = env.reset(done) if done.any() else result.next_obs
        environment.append(time.perf_counter() - start)
        packet, obs = Packet(obs, action, result.reward, result.next_obs, result.terminal, current), current
        rest = (packet.pack(), np.int32(t + 1), program.offline_rows, counts, False)
        state, meters, action = online_step(program, state, meters, *rest)
        jax.block_until_ready(action)
        whole.append(time.perf_counter() - start)
    env.close()
    return float(np.median(whole[10:])), float(np.median(environment[10:])), state, (meters, *rest)


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


def generator_rates(quick: bool) -> dict[str, Any]:
    """Denoiser steps/s and generated rows/s, Hopper rows, one seed."""
    from cfdg_jax.core import ring

    results: dict[str, Any] = {}
    for width in (64,) if quick else (256, 1024):
        steps, rows = (5, 100) if quick else (50, 1_000)
        values = {"augment.width": width, "augment.sampler_steps": 8 if quick else 32, "online.capacity": 20_000}
        program = program_of("hopper", 1, 50_000, values)
        state = init(program, "online")
        online = ring.insert(state.online, jnp.asarray(noise_rows(program.spec, 10_000))[None])
        state = state._replace(online=online)
        generator = start_generator(program, state, state.key, program.offline_rows)

        learn = functools.partial(fit_generator, program, steps=steps)
        sample = functools.partial(generate, program, source=int(Source.SYNTHETIC_ONLINE), rows=rows)
        learnt, drawn = (state, program.offline_rows, state.key), (generator, state.key)
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


def env_rates(quick: bool) -> dict[str, Any]:
    """Environment steps/s with random actions, resets included."""
    results: dict[str, Any] = {}
    for task in ("hopper",) if quick else ("hopper", "halfcheetah", "walker2d", "ant"):
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


def bench(what: Sequence[str] = (), out: pathlib.Path | None = None, quick: bool = False) -> pathlib.Path:
    """Measures `what` (default: everything), prints it and writes one json file; returns its path."""
    unknown = [name for name in what if name not in WHAT]
    require(not unknown, "bench", f"'{' '.join(unknown)}' is unknown", f"valid: {', '.join(WHAT)}")
    functions = {
        "offline": offline_rates,
        "agents": agent_rates,
        "online": online_rates,
        "stratify": stratify_rates,
        "generator": generator_rates,
        "env": env_rates,
    }
    results: dict[str, Any] = {
        "command": "cfdg-jax bench " + " ".join(list(what) + ["--quick"] * quick),
        "device": device_name(),
        "versions": versions(),
    }
    print(f"device: {results['device']}")
    for name in what or WHAT:
        before = matmul_gflops(512 if quick else 2048)
        measured = functions[name](quick)
        rate = max(before, matmul_gflops(512 if quick else 2048))
        results[name] = {"matmul_gflops": rate} | measured
        _add_shares(results[name], rate)
        print(f"{name}:\n" + json.dumps(results[name], indent=2))
    platform = jax.devices()[0].platform
    path = out or pathlib.Path("benchmarks/results") / f"bench-{platform}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(results, indent=2) + "\n")
    print(f"written: {path}")
    return path


def _add_shares(results: dict[str, Any], rate: float) -> None:
    for value in results.values():
        if isinstance(value, dict) and "gflops" in value:
            value["share_of_matmul"] = value["gflops"] / rate
