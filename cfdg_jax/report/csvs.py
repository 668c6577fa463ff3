"""What a report shows as csv: numbers, seeds and evaluations in tidy form, and tables as they are printed."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from cfdg_jax.report import stats
from cfdg_jax.report.runs import Run
from cfdg_jax.report.tables import Table, first_refreshes, per_seed

ABOUT = ("dataset", "label", "folder")


def scores(runs: Sequence[Run]) -> str:
    """All numbers of all runs, unrounded and with raw intervals: one line per run and number."""
    return lines(_scores(runs))


def _scores(runs: Sequence[Run]) -> Iterator[Sequence[Any]]:
    varied = varied_fields(runs)
    yield [*ABOUT, "score", "number", "seeds", "episodes", "mean", "std", "iqm", "low", "high", *varied]
    for run, about, own in _numbers(runs):
        estimate = stats.bootstrap([own])
        numbers = (estimate.value, stats.std(own), stats.iqm(own), estimate.low, estimate.high)
        counts = (len(own), run.evaluations[-1].episodes)
        yield [*about, *counts, *map(float, numbers), *_values(run, varied)]


def seeds(runs: Sequence[Run]) -> str:
    """The same numbers seed by seed: one line per run, number and seed. Lost seeds have none."""
    return lines(_seeds(runs))


def _seeds(runs: Sequence[Run]) -> Iterator[Sequence[Any]]:
    varied = varied_fields(runs)
    yield [*ABOUT, "score", "number", "seed", "value", *varied]
    for run, about, own in _numbers(runs):
        left = np.array(run.numbers)[run.finite]
        yield from ([*about, *pair, *_values(run, varied)] for pair in zip(left.tolist(), own.tolist(), strict=True))


def _numbers(runs: Sequence[Run]) -> Iterator[tuple[Run, Sequence[Any], np.ndarray]]:
    """Each number of each run with what it is, `[S]` over finite seeds; numbers without any are left out."""
    since = first_refreshes(runs)
    for run in runs:
        score = "normalized_score" if run.normalized else "return"
        for number, own in per_seed(run, since[run.dataset]).items():
            if len(own):
                yield run, (*_about(run), score, number), own


def evaluations(runs: Sequence[Run]) -> str:
    """Every evaluation of every seed, tidy: one line per run, phase, step and seed, means over episodes.

    ``lost`` says whether the seed is one that training lost, which no number of the page counts; from there on its
    scores are empty.
    """
    return lines(_evaluations(runs))


def _evaluations(runs: Sequence[Run]) -> Iterator[Sequence[Any]]:
    varied = varied_fields(runs)
    yield [*ABOUT, "phase", "step", "seed", "return", "normalized_score", "success", "lost", *varied]
    for run in runs:
        for evaluation in run.evaluations:
            scores, gone = (evaluation.returns, evaluation.normalized, evaluation.success), run.lost(evaluation)
            for index, seed in enumerate(run.numbers):
                means = ["" if x is None or gone[index] else float(x[index].mean()) for x in scores]
                about = (*_about(run), evaluation.phase, evaluation.step, seed)
                yield [*about, *means, not run.finite[index], *_values(run, varied)]


def _about(run: Run) -> tuple[str, str, str]:
    return run.dataset, run.label, run.path.name


def varied_fields(runs: Sequence[Run]) -> list[str]:
    """The fields that an axis of some run varies, each a column of the csv files."""
    return list(dict.fromkeys(field for run in runs for field in run.setting))


def _values(run: Run, fields: Sequence[str]) -> list[Any]:
    """The values that a run has of `fields`, of an axis or of its config; empty where it has no such field."""
    paths = (field.partition(".") for field in fields)
    return [(run.config.get(choice) or {}).get(leaf, "") for choice, _, leaf in paths]


def table(printed: Table) -> str:
    """The table as it is printed."""
    return lines([printed.header, *printed.rows])


def lines(values: Iterable[Sequence[Any]]) -> str:
    """One line for each of `values`, the first of which are names."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(values)
    return out.getvalue()
