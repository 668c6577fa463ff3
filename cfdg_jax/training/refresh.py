"""The refresh: fit the generator to what is known now, then overwrite the synthetic rings with its rows.

    generator <- init(keys)                    normaliser fitted on offline and online rows
    repeat     generator <- fit(generator)     fit_steps_per_call optimiser steps of all seeds per dispatch
    for each synthetic source, share:
        repeat rows <- generate(chunk)         fixed chunks: memory is bounded by the chunk, not by the rows wanted
               ring[source] <- rows            written in place

The state that enters is not touched until the end. What is done so far is a `Refresh`, kept on disk every minute and
when interrupted; all randomness is a function of the step and the place in the work, so it continues bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.augment.quality import Simulate, quality_report
from cfdg_jax.core import ring
from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.data.transforms import (
    ObservationTransform,
    RewardTransform,
    apply_observation,
    apply_reward,
    invert_observation,
)
from cfdg_jax.envs.onestep import one_step
from cfdg_jax.errors import require
from cfdg_jax.training.checkpoint import Kept
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.types import Array, Metrics, Source, TrainState

CHECKED = {"samples": 500, "searched": 5_000}
"""Rows that `quality_report` compares, and searches for neighbours, at a refresh."""


def synthetic_rows(program: Program) -> dict[int, int]:
    """Rows per synthetic source of one refresh, at least one each; the parts sum to ``refresh.rows``.

    Raises:
      UserError: for fewer rows than sources.
    """
    total, shares = program.config.refresh.rows, program.augmenter.shares
    require(total >= len(shares), "refresh.rows", f"is {total}", f"must be at least {len(shares)}, one per label")
    counts = {source: max(1, round(total * share)) for source, share in shares.items()}
    if counts:
        largest = max(counts, key=lambda source: counts[source])
        counts[largest] += total - sum(counts.values())
    return counts


class Refresh(NamedTuple):
    """A refresh under way, for all seeds.

    Attributes:
      fitted: `[]` int32, fit steps made.
      generator: The generator's states.
      fit: Metrics `[S]` of the last dispatch of the fit.
      made: `[]` int32, chunks of rows made.
      rows: Rows ``{str(source): [S, n, D]}``, zeros where not yet made.
      rejected: `[S]`, rows screened out and replaced.
    """

    fitted: Array
    generator: Any
    fit: Metrics
    made: Array
    rows: dict[str, Array]
    rejected: Array


def refresh(
    program: Program, state: TrainState, t: int, progress: Progress, interrupts: Interrupts, kept: Kept
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Refreshes all seeds at environment step `t`, or continues what `kept` holds of it.

    Returns:
      The state with a new generator and full synthetic rings, and metrics `[S]` of the fit and of the rows.

    Raises:
      Interrupted: if a signal arrived; `state` is still whole then, and what is done of the refresh is kept.
    """
    keys = purpose_keys(state.key, "refresh", t)
    begin = functools.partial(_begin, program, state, keys)
    under_way = begun = kept.load(jax.eval_shape(begin)) or begin()
    try:
        for under_way in _advance(program, state, keys, begun, progress):
            kept.save(under_way)
            interrupts.check()
    except Interrupted:
        kept.save(under_way, now=True)
        raise
    kept.clear()
    synthetic = {source: ring.full(under_way.rows[str(source)]) for source in synthetic_rows(program)}
    metrics = {name: np.asarray(value) for name, value in under_way.fit.items()}
    generated = np.full(program.config.seeds, sum(synthetic_rows(program).values()))
    metrics |= {"rejected": np.asarray(under_way.rejected), "generated": generated}
    known = slice(0, program.spec.layout.mc_return)
    finite = [jnp.isfinite(rows[..., known]).all(axis=(1, 2)) for rows in under_way.rows.values()]
    metrics["finite"] = np.all(finite, axis=0).astype(np.float32)
    return state._replace(generator=under_way.generator, synthetic=synthetic), metrics


def _begin(program: Program, state: TrainState, keys: Array) -> Refresh:
    """Nothing done: a fresh generator, or with warm start the last one; no rows."""
    seeds, width = program.config.seeds, program.spec.layout.width
    if program.augmenter.warm_start and state.synthetic:
        generator = jax.tree.map(jnp.copy, state.generator)  # fitting donates it; an interrupted refresh needs the old
    else:
        generator = program.start_generator(state, purpose_keys(keys, "init"), program.offline_rows)
    fit = functools.partial(program.fit_generator, steps=1)
    metrics = jax.eval_shape(fit, generator, state, program.offline_rows, keys)[1]
    return Refresh(
        fitted=jnp.zeros((), jnp.int32),
        generator=generator,
        fit={name: jnp.zeros(value.shape, value.dtype) for name, value in metrics.items()},
        made=jnp.zeros((), jnp.int32),
        rows={str(s): jnp.zeros((seeds, n, width), jnp.float32) for s, n in synthetic_rows(program).items()},
        rejected=jnp.zeros(seeds, jnp.float32),
    )


def _advance(program: Program, state: TrainState, keys: Array, done: Refresh, progress: Progress) -> Iterator[Refresh]:
    """The rest of a refresh, one dispatch at a time."""
    done = yield from _fit(program, state, keys, done, progress)
    yield from _generate(program, keys, done, progress)


def _fit(
    program: Program, state: TrainState, keys: Array, done: Refresh, progress: Progress
) -> Generator[Refresh, None, Refresh]:
    """The rest of the fit; ends with the last of what it yields."""
    steps, per_call = program.augmenter.fit_steps, program.config.refresh.fit_steps_per_call
    with progress.bar("  fit", steps, int(done.fitted), unit="step", keep=False) as bar:
        for start in range(int(done.fitted), steps, per_call):
            count = min(per_call, steps - start)
            step_keys = purpose_keys(keys, "fit", start)
            generator, metrics = program.fit_generator(
                done.generator, state, program.offline_rows, step_keys, steps=count
            )
            done = done._replace(fitted=jnp.int32(start + count), generator=generator, fit=metrics)
            jax.block_until_ready(metrics)
            bar.update(count)
            yield done
    return done


def _generate(program: Program, keys: Array, done: Refresh, progress: Progress) -> Iterator[Refresh]:
    """The rest of the rows, one chunk at a time."""
    counts, chunk = synthetic_rows(program), program.config.refresh.chunk
    chunks = [(s, start, min(chunk, n - start)) for s, n in counts.items() for start in range(0, n, chunk)]
    before = sum(count for _, _, count in chunks[: int(done.made)])
    with progress.bar("  generate", sum(counts.values()), before, unit="row", keep=False) as bar:
        for number, (source, start, count) in enumerate(chunks[int(done.made) :], int(done.made) + 1):
            chunk_keys = purpose_keys(keys, f"generate{source}", start)
            new, metrics = program.generate(done.generator, chunk_keys, source, min(chunk, counts[source]))
            rows = _write(done.rows[str(source)], new[:, :count], jnp.asarray(start))
            rejected = done.rejected + metrics["rejected"]
            done = done._replace(made=jnp.int32(number), rows=done.rows | {str(source): rows}, rejected=rejected)
            jax.block_until_ready(rows)
            bar.update(count)
            yield done


@functools.partial(jax.jit, donate_argnums=0)
def _write(rows: Array, new: Array, start: Array) -> Array:
    return jax.lax.dynamic_update_slice(rows, new, (0, start, 0))


def check_rows(program: Program, state: TrainState) -> dict[str, np.ndarray]:
    """How good the synthetic rows of every seed are, ``{"<source>/<measure>": [S]}`` (`cfdg_jax.augment.quality`)."""
    offline, size = np.asarray(program.offline_rows), int(state.online.size)
    step, units = _true_step(program), jax.tree.map(np.asarray, program.transforms)
    rewards = {s: units.online_reward if s == Source.SYNTHETIC_ONLINE else units.reward for s in state.synthetic}
    simulate = {s: step and _in_units(step, units.observation, reward) for s, reward in rewards.items()}
    reports = []
    for seed in range(program.config.seeds):
        online = np.asarray(state.online.rows[seed, :size])
        report: dict[str, float] = {}
        for source, buffer in state.synthetic.items():
            rows = np.asarray(buffer.rows[seed])
            if len(rows) >= 2 and np.isfinite(rows[:, : program.spec.layout.terminal]).all():
                measured = quality_report(
                    rows, program.spec.layout, offline if len(offline) else None, online, simulate[source], **CHECKED
                )
                report |= {f"{Source(source).name.lower()}/{name}": value for name, value in measured.items()}
        reports.append(report)
    names = dict.fromkeys(name for report in reports for name in report)
    return {name: np.array([report.get(name, np.nan) for report in reports]) for name in names}


def _true_step(program: Program) -> Simulate | None:
    """One step of the true dynamics, where an observation determines the state."""
    return one_step(program.config.env.task, "d4rl" if program.config.env.dynamics == "d4rl" else "gymnasium")


def _in_units(step: Simulate, observation: ObservationTransform, reward_transform: RewardTransform) -> Simulate:
    """`step` in the units of the rows."""

    def simulate(obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        next_obs, reward = step(invert_observation(observation, obs), action)
        return apply_observation(observation, next_obs), apply_reward(reward_transform, reward)

    return simulate
