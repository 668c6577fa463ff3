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

from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.data import buffer as ring
from cfdg_jax.train.program import Program
from cfdg_jax.train.progress import Interrupts, Progress
from cfdg_jax.types import Array, TrainState


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
