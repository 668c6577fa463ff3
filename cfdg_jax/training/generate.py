"""Generating: generators of all seeds, and the loop that fits one and makes rows, shared by refresh and `upsample`.

    repeat     generator <- fit(generator)     per_call optimiser steps a dispatch
    for each synthetic source:
        repeat rows <- make(chunk)             fixed chunks: memory is bounded by the chunk, not by the rows wanted

All randomness is a function of the place in the work, so that a loop that is cut anywhere continues bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from cfdg_jax.core.seeds import purpose_key
from cfdg_jax.errors import require
from cfdg_jax.methods import Augmenter, Judge
from cfdg_jax.training.program import Program, compiled, each_seed
from cfdg_jax.training.progress import Progress
from cfdg_jax.types import Array, Buffer, Key, Metrics, TrainState


def _over_online(program: Program, fn: Callable, online: Buffer, *seeded: Any) -> Any:
    """``fn(augmenter, online Buffer, *seeded)`` for every seed; `online` holds the rows of all."""
    one = lambda lane, rows, *args: fn(lane.augmenter, Buffer(rows, online.position, online.size), *args)
    return each_seed(program, one, (0,) * (1 + len(seeded)))(online.rows, *seeded)


@compiled()
def start_generator(program: Program, online: Buffer, keys: Key, offline_rows: Array) -> Any:
    """Fresh generator states for all seeds, normalisers fitted."""
    init = lambda augmenter, online, key: augmenter.init(key, offline_rows, online)
    return _over_online(program, init, online, keys)


@compiled()
def adopt_generator(program: Program, generator: Any, online: Buffer, offline_rows: Array) -> Any:
    """The states that a refresh begins with, of those of all seeds before it."""
    adopt = lambda augmenter, online, gen: augmenter.adopt(gen, offline_rows, online)
    return _over_online(program, adopt, online, generator)


@compiled()
def score_rows(program: Program, state: TrainState, offline_rows: Array, keys: Key) -> Any:
    """Scores of the real rows of all seeds, by their agents as they are; of a generator that is told scores."""
    online = state.online

    def one(lane: Program, rows: Array, agent_state: Any, key: Key) -> Any:
        agent, score = lane.online_agent, lane.augmenter.score
        assert score is not None, "see scores_of"
        act = lambda obs, key: agent.act(agent_state, obs, key, False)
        judge = Judge(functools.partial(agent.value, agent_state), act, lane.returns.discount)
        return score(offline_rows, Buffer(rows, online.position, online.size), judge, key)

    return each_seed(program, one, (0, 0, 0))(online.rows, state.agent, keys)


def scores_of(program: Program, state: TrainState, offline_rows: Array, keys: Key) -> Any:
    """What a fit is told of the real rows: `score_rows`, or () where there are no scores."""
    return () if program.augmenter.score is None else score_rows(program, state, offline_rows, keys)


def told_alone(augmenter: Augmenter, offline_rows: Array, online: Buffer, key: Key) -> dict[str, Any]:
    """What the fit of one generator is told of the real rows where there is no agent, as keyword arguments."""
    score, key = augmenter.score, purpose_key(key, "score")
    return {} if score is None else {"scores": jax.jit(score)(offline_rows, online, None, key)}


@compiled(static=("steps",), donate=("generator",))
def fit_generator(
    program: Program, generator: Any, online: Buffer, offline_rows: Array, keys: Key, steps: int, scores: Any = ()
) -> tuple[Any, Metrics]:
    """`steps` optimiser steps of all seeds; `scores` are those of `scores_of`."""

    def one(augmenter: Augmenter, online: Buffer, gen: Any, key: Key, scores: Any) -> tuple[Any, Metrics]:
        told = {} if augmenter.score is None else {"scores": scores}
        return augmenter.fit(gen, offline_rows, online, key, steps, **told)

    return _over_online(program, one, online, generator, keys, scores)


@compiled(static=("source", "rows"))
def generate(program: Program, generator: Any, keys: Key, source: int, rows: int) -> tuple[Array, Metrics]:
    """Rows `[S, rows, D]` of a synthetic source, and metrics `[S]`."""
    one = lambda lane, gen, key: lane.augmenter.generate(gen, key, source, rows)
    return each_seed(program, one, (0, 0), repeats=True)(generator, keys)


def rows_per_source(total: int, shares: Mapping[int, float], field: str) -> dict[int, int]:
    """`total` rows split by `shares`, at least one of each source.

    Raises:
      UserError: naming `field`, for fewer rows than sources.
    """
    require(total >= len(shares), field, f"is {total}", f"must be at least {len(shares)}, one per label")
    counts = {source: max(1, round(total * share)) for source, share in shares.items()}
    if counts:
        largest = max(counts, key=lambda source: counts[source])
        counts[largest] += total - sum(counts.values())
    return counts


def synthetic_rows(program: Program) -> dict[int, int]:
    """Rows per synthetic source of one refresh; the parts sum to ``refresh.rows``.

    Raises:
      UserError: for fewer rows than sources.
    """
    return rows_per_source(program.config.refresh.rows, program.augmenter.shares, "refresh.rows")


def synthetic_capacity(program: Program) -> dict[int, int]:
    """Rows that the ring of each synthetic source holds; the parts sum to ``refresh.capacity``."""
    return rows_per_source(program.config.refresh.capacity, program.augmenter.shares, "refresh.capacity")


class Chunk(NamedTuple):
    """One dispatch of generated rows.

    Attributes:
      number: Its place among all chunks, from 0.
      source: Of the rows.
      start: The first of them among the rows of the source.
      rows: How many there are; a last chunk is made whole and cut.
      first: The first of them among all rows.
    """

    number: int
    source: int
    start: int
    rows: int
    first: int


@dataclasses.dataclass(frozen=True)
class Fit:
    """A generator to be fitted.

    Attributes:
      step: ``(generator, start, steps) -> (generator, metrics)``; `start` counts the steps made before.
      steps: Optimiser steps.
      per_call: Steps of one dispatch.
      bar: The name of its bar.
    """

    step: Callable[[Any, int, int], tuple[Any, Metrics]]
    steps: int
    per_call: int
    bar: str = "fit"


@dataclasses.dataclass(frozen=True)
class Make:
    """Rows to be made.

    Attributes:
      chunk_of: ``(generator, source, start, rows) -> (rows [..., rows, D], metrics)``; `start` as in `Chunk`.
      rows: Rows by source.
      chunk: Rows of one dispatch.
    """

    chunk_of: Callable[[Any, int, int, int], tuple[Array, Metrics]]
    rows: Mapping[int, int]
    chunk: int


def fit_on(fit: Fit, generator: Any, done: int, progress: Progress) -> Iterator[tuple[int, Any, Metrics]]:
    """The rest of a fit after `done` steps; yields ``(steps made, generator, metrics)`` after each dispatch."""
    with progress.bar(fit.bar, fit.steps, done) as bar:
        for start in range(done, fit.steps, fit.per_call):
            steps = min(fit.per_call, fit.steps - start)
            generator, metrics = fit.step(generator, start, steps)
            bar.update(steps)
            yield start + steps, generator, metrics


def chunks(make: Make) -> Iterator[Chunk]:
    """All rows, source after source."""
    number = first = 0
    for source, total in make.rows.items():
        for start in range(0, total, make.chunk):
            rows = min(make.chunk, total - start)
            yield Chunk(number, source, start, rows, first)
            number, first = number + 1, first + rows


def make_on(make: Make, generator: Any, done: int, progress: Progress) -> Iterator[tuple[Chunk, Array, Metrics]]:
    """The rest of the rows after `done` chunks; yields each chunk with its rows `[..., rows, D]` and metrics."""
    left = [chunk for chunk in chunks(make) if chunk.number >= done]
    before = sum(make.rows.values()) - sum(chunk.rows for chunk in left)
    with progress.bar("generate", sum(make.rows.values()), before, unit="row") as bar:
        for chunk in left:
            whole = min(make.chunk, make.rows[chunk.source])
            rows, metrics = make.chunk_of(generator, chunk.source, chunk.start, whole)
            yield chunk, rows[..., : chunk.rows, :], metrics
            bar.update(chunk.rows)
