"""The refresh: fit the generator to what is known now, then put its rows into the synthetic rings.

    generator <- init, or adopt the last       normaliser fitted on offline and online rows
    repeat     generator <- fit(generator)     fit_steps_per_call optimiser steps of all seeds per dispatch
    for each synthetic source, share:
        repeat rows[source] <- generate(chunk) written in place
        ring[source] <- rows                   the oldest make room

The state that enters is not touched until the end. What is done so far is a `Refresh`, kept on disk every minute and
when interrupted; all randomness is a function of the step and the place in the work, so it continues bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core import ring
from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.training.checkpoint import Kept
from cfdg_jax.training.controls import controlled
from cfdg_jax.training.devices import allocated, placed
from cfdg_jax.training.generate import (
    Fit,
    Make,
    adopt_generator,
    fit_generator,
    fit_on,
    generate,
    make_on,
    scores_of,
    start_generator,
    synthetic_capacity,
    synthetic_rows,
)
from cfdg_jax.training.prepare import empty_rings
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.types import Array, Buffer, Key, Metrics, Source, TrainState


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
    program: Program,
    state: TrainState,
    pretrained: Any,
    t: int,
    progress: Progress,
    interrupts: Interrupts,
    kept: Kept,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Refreshes all seeds at environment step `t`, or continues what `kept` holds of it.

    Args:
      pretrained: The generator that all seeds' first refresh goes on from; () where each begins afresh.

    Returns:
      The state with a new generator and its rows in the synthetic rings, and metrics `[S]` of the fit and of the rows.

    Raises:
      Interrupted: if a signal arrived; `state` is still whole then, and what is done of the refresh is kept.
    """
    keys = purpose_keys(state.key, "refresh", t)
    first = functools.partial(beginning, program, state, pretrained, keys)
    start = lambda: begin(program, state, keys, first())
    under_way = begun = placed(program.mesh, kept.load(jax.eval_shape(start)) or start())
    try:
        for under_way in advance(program, state, keys, begun, progress):
            kept.save(under_way)
            interrupts.check()
    except Interrupted:
        kept.save(under_way, now=True)
        raise
    kept.clear()
    made = under_way._replace(rows=controlled(program, keys, under_way.rows))
    finished, whole = keep_finite(program, state, made, first)
    synthetic = {int(name): _added(program, state, int(name), rows) for name, rows in finished.rows.items()}
    metrics = {name: np.asarray(value) for name, value in finished.fit.items()}
    generated = np.full(len(program.config.lanes), sum(synthetic_rows(program).values()))
    metrics |= {"rejected": np.asarray(finished.rejected), "generated": generated, "finite": whole.astype(np.float32)}
    return state._replace(generator=finished.generator, synthetic=synthetic), metrics


def keep_finite(
    program: Program, state: TrainState, done: Refresh, first: Callable[[], Any]
) -> tuple[Refresh, np.ndarray]:
    """A finished refresh in which seeds whose new rows are not finite keep what they had; and which were, `[S]` bool.

    Such a seed goes on with its old rows and its old generator. At a first refresh it has none: real rows of the same
    origin take their place, and the generator that ``first()`` began with.
    """
    known = slice(0, program.spec.layout.mc_return)
    finite = [jnp.isfinite(rows[..., known]).all(axis=(1, 2)) for rows in done.rows.values()]
    whole = np.all(finite, axis=0)
    if whole.all():
        return done, whole
    pick = lambda new, old: jnp.where(whole.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
    rows = {name: pick(new, _stand_in(program, state, int(name), new.shape[1])) for name, new in done.rows.items()}
    old = state.generator if state.synthetic else first()
    return done._replace(rows=rows, generator=jax.tree.map(pick, done.generator, old)), whole


def _stand_in(program: Program, state: TrainState, source: int, count: int) -> Array:
    """Rows `[S, count, D]` for seeds without new ones: the old, or else real ones, evenly spaced."""
    if source in state.synthetic:
        return ring.newest(state.synthetic[source], count)
    layout, offline, online = program.spec.layout, program.offline_rows, state.online
    spread = lambda size: np.linspace(0, size - 1, count).astype(int)
    if source == Source.SYNTHETIC_OFFLINE and offline.shape[0]:
        real = ring.take(offline, spread(offline.shape[0]))
        real = jnp.broadcast_to(real, (online.rows.shape[0], *real.shape))
    else:
        real = ring.numbers(online.rows[:, spread(int(online.size))])
    return real.at[..., layout.mc_return].set(-jnp.inf).at[..., layout.source].set(float(source))


def _added(program: Program, state: TrainState, source: int, rows: Array) -> Buffer:
    """The synthetic ring of `source` with `rows` `[S, n, D]` in it; the old one is given away."""
    held = state.synthetic.get(source) or empty_rings(program, synthetic_capacity(program)[source])
    return _insert(held, rows)


_insert = jax.jit(ring.insert, donate_argnums=0)


def beginning(program: Program, state: TrainState, pretrained: Any, keys: Key) -> Any:
    """The generators of all seeds as a refresh finds them: fresh ones, those before it, or the pre-trained one."""
    if program.augmenter.pretraining is None:
        return start_generator(program, state.online, purpose_keys(keys, "init"), program.offline_rows)
    lanes, last = len(program.config.lanes), state.generator
    if not state.synthetic:
        last = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), pretrained)
    last = jax.tree.map(jnp.copy, last)  # fitting donates it; an interrupted refresh needs the old
    return adopt_generator(program, placed(program.mesh, last), state.online, program.offline_rows)


def begin(program: Program, state: TrainState, keys: Key, generator: Any) -> Refresh:
    """Nothing done: a generator as it begins, and no rows."""
    lanes, width = len(program.config.lanes), program.spec.layout.width
    fit = functools.partial(fit_generator.of(program), steps=1)
    scores = jax.eval_shape(lambda: scores_of(program, state, program.offline_rows, keys))
    metrics = jax.eval_shape(fit, generator, state.online, program.offline_rows, keys, scores=scores)[1]
    empty = lambda: {str(s): jnp.zeros((lanes, n, width), jnp.float32) for s, n in synthetic_rows(program).items()}
    work = Refresh(
        fitted=jnp.zeros((), jnp.int32),
        generator=generator,
        fit={name: jnp.zeros(value.shape, value.dtype) for name, value in metrics.items()},
        made=jnp.zeros((), jnp.int32),
        rows=allocated(program.mesh, empty),
        rejected=jnp.zeros(lanes, jnp.float32),
    )
    return placed(program.mesh, work)


def advance(program: Program, state: TrainState, keys: Key, done: Refresh, progress: Progress) -> Iterator[Refresh]:
    """The rest of a refresh, one dispatch at a time."""
    config, offline_rows = program.config.refresh, program.offline_rows
    scores = scores_of(program, state, offline_rows, purpose_keys(keys, "score"))

    def step(generator: Any, start: int, steps: int) -> tuple[Any, Metrics]:
        fit_keys = purpose_keys(keys, "fit", start)
        return fit_generator(program, generator, state.online, offline_rows, fit_keys, steps=steps, scores=scores)

    def make(generator: Any, source: int, start: int, rows: int) -> tuple[Array, Metrics]:
        return generate(program, generator, purpose_keys(keys, f"generate{source}", start), source, rows)

    fit = Fit(step, program.augmenter.fit_steps, config.fit_steps_per_call)
    for fitted, generator, metrics in fit_on(fit, done.generator, int(done.fitted), progress):
        done = done._replace(fitted=jnp.int32(fitted), generator=generator, fit=metrics)
        yield done
    rows_of = Make(make, synthetic_rows(program), config.chunk)
    for chunk, new, metrics in make_on(rows_of, done.generator, int(done.made), progress):
        name = str(chunk.source)
        rows = write(done.rows[name], new, jnp.asarray(chunk.start))
        rejected = done.rejected + metrics["rejected"]
        done = done._replace(made=jnp.int32(chunk.number + 1), rows=done.rows | {name: rows}, rejected=rejected)
        jax.block_until_ready(rows)
        yield done


@functools.partial(jax.jit, donate_argnums=0)
def write(rows: Array, new: Array, start: Array) -> Array:
    """Puts `new` `[S, n, D]` into `rows` from row `start` on, in place."""
    return jax.lax.dynamic_update_slice(rows, new, (0, start, 0))
