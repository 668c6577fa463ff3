"""What the benchmarks share: a program to time, rows of noise, the time of a call and this machine's yardstick."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.augment.registry import AUGMENTERS
from cfdg_jax.config import resolved
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.presets import make_config
from cfdg_jax.training.build import build_program
from cfdg_jax.training.learn import no_meters
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program, agent_of, keys_of
from cfdg_jax.training.progress import Progress
from cfdg_jax.types import Source, Spec

T = TypeVar("T")


def best_seconds(call: Callable[[], Any], repeats: int, seconds: float = 0.0) -> float:
    """Fewest seconds of `repeats` calls, or of more while they take less than `seconds`; waits for the device.

    A call before them warms up.
    """
    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < repeats or sum(times) < seconds:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_gflops(size: int = 2048, repeats: int = 8) -> float:
    """Rate of a large square float32 matrix product, in GFLOP/s: this machine's yardstick."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / best_seconds(lambda: product(a), repeats) / 1e9


def each(items: Sequence[T], what: str) -> Iterator[T]:
    """`items`, one measurement each, and how many of a part are done."""
    with Progress(True).bar(what, len(items), unit="case") as bar:
        for item in items:
            yield item
            bar.update(1)


def program_of(task: str, seeds: int, rows: int, values: dict[str, Any], agent: str | None = None) -> Program:
    """A program on `rows` standard-normal offline rows of `task`, for timing only."""
    agent, generator = agent or next(iter(AGENTS)), list(AUGMENTERS)[-1]
    fields: dict[str, Any] = {"agent.variant": "authors", "seeds": seeds} | values
    config = make_config("local:hopper-medium-v0", agent, generator, preset="paper", **fields)
    config = dataclasses.replace(config, dataset="timing")
    spec = spec_of(task, "gymnasium")
    return build_program(config, spec, identity_transforms(spec.obs_dim), noise_rows(spec, rows))


def noise_rows(spec: Spec, rows: int) -> np.ndarray:
    """Packed rows `[rows, D]` of noise with bounded actions."""
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, rows, spec.obs_dim)).astype(np.float32)
    action = rng.uniform(-1, 1, (rows, spec.act_dim)).astype(np.float32)
    reward = rng.standard_normal(rows).astype(np.float32)
    return spec.layout.pack(obs, action, reward, next_obs, 0.0, -np.inf, float(Source.OFFLINE), xp=np)


def chunk_arguments(program: Program, phase: str) -> tuple:
    agent = jax.jit(jax.vmap(agent_of(program, phase).init))(keys_of(program))  # of `init`, without the online ring
    return init(program, "offline")._replace(agent=agent), no_meters(program, phase), program.offline_rows


def policy_delay(program: Program) -> int:
    """Critic steps for each step of the policy; 1 for an agent without such a field."""
    agent = resolved(program.config)["agent"]
    return getattr(agent, "policy_delay", getattr(agent, "delay", 1))
