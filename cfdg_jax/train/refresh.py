"""The refresh: fit the generator to what is known now, then overwrite the synthetic rings with its rows.

    generator <- init(keys)                    normaliser fitted on offline and online rows
    repeat     generator <- fit(generator)     fit_steps_per_call optimiser steps of all seeds per dispatch
    for each synthetic source, share:
        repeat rows <- generate(chunk)         fixed chunks: memory is bounded by the chunk, not by the rows wanted
               ring[source] <- rows            written in place

The state that enters is not touched until the end, so an interrupted refresh starts again from the same numbers.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.augment.quality import Simulate, quality_report
from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.data import buffer as ring
from cfdg_jax.data.transforms import apply_observation, apply_reward, invert_observation
from cfdg_jax.envs.onestep import one_step
from cfdg_jax.train.program import Program
from cfdg_jax.train.progress import Interrupts, Progress
from cfdg_jax.types import Array, Source, TrainState

CHECKED = {"samples": 500, "searched": 5_000}
"""Rows that `quality_report` compares, and searches for neighbours, at a refresh."""


def synthetic_rows(program: Program) -> dict[int, int]:
    """Rows per synthetic source of one refresh; the parts sum to ``refresh.rows``."""
    total, shares = program.config.refresh.rows, program.augmenter.shares
    counts = {source: round(total * share) for source, share in shares.items()}
    if counts:
        largest = max(counts, key=lambda source: counts[source])
        counts[largest] += total - sum(counts.values())
    return {source: count for source, count in counts.items() if count}


def refresh(
    program: Program, state: TrainState, t: int, progress: Progress, interrupts: Interrupts
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Refreshes all seeds at environment step `t`.

    Returns:
      The state with a new generator and full synthetic rings, and metrics `[S]` of the fit and of the rows.

    Raises:
      Interrupted: if a signal arrived; `state` is still whole then.
    """
    keys = purpose_keys(state.key, "refresh", t)
    generator, metrics = _fit(program, state, keys, progress, interrupts)
    counts = synthetic_rows(program)
    chunk, width = program.config.refresh.chunk, program.spec.layout.width
    synthetic, rejected = {}, jnp.zeros(program.config.seeds)
    with progress.bar("  generate", sum(counts.values()), unit="row", keep=False) as bar:
        for source, count in counts.items():
            rows = jnp.zeros((program.config.seeds, count, width), jnp.float32)
            for start in range(0, count, chunk):
                interrupts.check()
                chunk_keys = purpose_keys(keys, f"generate{source}", start)
                new, made = program.generate(generator, chunk_keys, source, min(chunk, count))
                rows = _write(rows, new[:, : count - start], jnp.asarray(start))
                rejected = rejected + made["rejected"]
                jax.block_until_ready(rows)
                bar.update(min(chunk, count - start))
            synthetic[source] = ring.full(rows)
    metrics |= {"rejected": np.asarray(rejected), "generated": np.full(program.config.seeds, sum(counts.values()))}
    return state._replace(generator=generator, synthetic=synthetic), metrics


def _fit(program: Program, state: TrainState, keys: Array, progress: Progress, interrupts: Interrupts):
    steps, per_call = program.augmenter.fit_steps, program.config.refresh.fit_steps_per_call
    if program.augmenter.warm_start and state.synthetic:
        generator = jax.tree.map(jnp.copy, state.generator)  # fitting donates it; an interrupted refresh needs the old
    else:
        generator = program.start_generator(state, purpose_keys(keys, "init"), program.offline_rows)
    metrics: dict[str, np.ndarray] = {}
    with progress.bar("  fit", steps, unit="step", keep=False) as bar:
        for start in range(0, steps, per_call):
            interrupts.check()
            count = min(per_call, steps - start)
            step_keys = purpose_keys(keys, "fit", start)
            generator, fitted = program.fit_generator(generator, state, program.offline_rows, step_keys, count)
            metrics = {name: np.asarray(value) for name, value in fitted.items()}
            bar.update(count)
    return generator, metrics


@functools.partial(jax.jit, donate_argnums=0)
def _write(rows: Array, new: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice(rows, new, (0, start, 0))


def check_rows(program: Program, state: TrainState) -> dict[str, np.ndarray]:
    """How good the synthetic rows of every seed are, ``{"<source>/<measure>": [S]}`` (`cfdg_jax.augment.quality`)."""
    offline, size = np.asarray(program.offline_rows), int(state.online.size)
    simulate = _simulator(program)
    reports = []
    for seed in range(program.config.seeds):
        online = np.asarray(state.online.rows[seed, :size])
        report: dict[str, float] = {}
        for source, buffer in state.synthetic.items():
            rows = np.asarray(buffer.rows[seed])
            if len(rows) >= 2 and np.isfinite(rows[:, : program.spec.layout.terminal]).all():
                measured = quality_report(
                    rows, program.spec.layout, offline if len(offline) else None, online, simulate, **CHECKED
                )
                report |= {f"{Source(source).name.lower()}/{name}": value for name, value in measured.items()}
        reports.append(report)
    names = dict.fromkeys(name for report in reports for name in report)
    return {name: np.array([report.get(name, np.nan) for report in reports]) for name in names}


def _simulator(program: Program) -> Simulate | None:
    """One step of the true dynamics in the units of the rows, where an observation determines the state."""
    step = one_step(program.config.env.task, "d4rl" if program.config.env.dynamics == "d4rl" else "gymnasium")
    if step is None:
        return None
    transforms = jax.tree.map(np.asarray, program.transforms)

    def simulate(obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        next_obs, reward = step(invert_observation(transforms.observation, obs), action)
        return apply_observation(transforms.observation, next_obs), apply_reward(transforms.reward, reward)

    return simulate
