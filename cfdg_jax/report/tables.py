"""Score tables of several runs, and as Markdown.

Runs share a table only if their numbers may be compared: datasets of one origin (`local:` data never stand beside
`d4rl:` data), and normalised scores or raw returns, never both. A task without reference returns has no normalised
score, and none is printed for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cfdg_jax.report import stats
from cfdg_jax.report.runs import Run
from cfdg_jax.report.stats import Estimate

LAST = 5
"""Evaluations behind the "mean of last 5" column."""

MISSING = "–"

CELLS = "Cells: mean over seeds [95 % bootstrap interval]."

COLUMNS = {
    "offline_end": "Offline end",
    "last": "Last evaluation",
    "last_5": f"Mean of last {LAST}",
    "gain": "Gain",
    "regret": "Regret",
    "success": "Success",
}

DEFINITIONS = {
    "Return": "Undiscounted sum of the environment's own rewards over one evaluation episode of the mean action, "
    "played in environments that training never touches.",
    "Normalised score": "100 (return - minimum) / (maximum - minimum) with D4RL's reference returns of the task: about "
    "0 for random actions, about 100 for an expert. Tasks without reference returns show raw returns instead.",
    "Cell": "Mean over seeds of each seed's mean over its episodes, then in brackets the 95 % bootstrap interval.",
    "± SD": "Sample standard deviation over seeds (divisor S - 1) of the last evaluation, as papers print after ±.",
    "Offline end": "The last evaluation of the offline phase, before any interaction; none while the phase goes on.",
    "Last evaluation": "The last evaluation of the run, whatever came before: no maximum over the run is taken.",
    f"Mean of last {LAST}": f"Mean over the last {LAST} evaluations of the run's last phase, fewer where it has fewer. "
    "Where some method of the dataset generates rows, only those after its first refresh count, for all methods.",
    "Gain": "Last evaluation minus offline end, taken seed by seed.",
    "Success": "Share of the last evaluation's episodes that reached the goal, in per cent; none for a dataset on "
    "which no run ever reached one, as where the task has no goal.",
    "Difference": "Mean over seeds of a seed's number minus that of the same seed of the other method, then in "
    "brackets the 95 % bootstrap interval of that mean.",
    "P(better)": "Probability that a random seed of the method ends above a random seed of the one it is compared "
    "with, a tie counting half; 0.5 means no difference.",
}


class Table(NamedTuple):
    """Text ready for printing.

    Attributes:
      title: One line.
      header: Column names.
      rows: Cells, as many in each row as in `header`.
      notes: What must be read with the numbers.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def per_seed(run: Run, since: float = -1) -> dict[str, np.ndarray]:
    """The numbers of one run, each `[S]` over its finite seeds.

    Keys, where the run has them: ``offline_end``, ``last``, ``last_5``, ``gain``, ``best`` (of the last phase),
    ``regret`` (online, normalised scores only) and ``success`` (per cent). ``last_5`` covers evaluations after online
    step `since` alone; without one there is none.
    """
    before, offline = run.curve("offline")
    steps, online = run.curve("online")
    final = online if len(online) else offline
    numbers = {"last": final[-1]}
    late = online[steps > since] if len(online) else offline
    if len(late):
        numbers["last_5"] = late[-LAST:].mean(axis=0)
    numbers["best"] = final.max(axis=0)
    if len(offline) and (len(online) or before[-1] >= run.planned("offline")):
        numbers["offline_end"] = offline[-1]
    if len(offline) and len(online):
        numbers["gain"] = online[-1] - offline[-1]
    if len(online) and run.normalized:
        numbers["regret"] = stats.regret(steps, online)
    success = run.evaluations[-1].success
    if success is not None:
        numbers["success"] = 100.0 * success.mean(axis=1)[run.finite]
    return numbers


def all_tables(runs: Sequence[Run]) -> list[Table]:
    """For each group of comparable runs: scores, what beats what, and, over several datasets, aggregates."""
    tables = []
    for (origin, normalized), group in comparable(runs):
        tables.append(score_table(origin, normalized, group))
        tables += [comparison_table(origin, group)] if len(by_dataset(group)) < len(group) else []
        tables += [aggregate_table(origin, group)] if normalized and len(by_dataset(group)) > 1 else []
    return [table for table in tables if table.rows]


def comparable(runs: Sequence[Run]) -> Iterator[tuple[tuple[str, bool], list[Run]]]:
    """Splits runs into groups whose numbers may stand in one table: ``((origin, normalised), runs)``."""
    for key in dict.fromkeys((run.origin, run.normalized) for run in runs):
        yield key, [run for run in runs if (run.origin, run.normalized) == key]


def by_dataset(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by dataset, both in order of appearance."""
    return {name: [run for run in runs if run.dataset == name] for name in dict.fromkeys(run.dataset for run in runs)}


def score_table(origin: str, normalized: bool, runs: Sequence[Run]) -> Table:
    """Scores of comparable runs, one row per run, grouped by dataset in order of appearance."""
    since = first_refreshes(runs)
    numbers = {(run.path, run.label): per_seed(run, since[run.dataset]) for run in runs}  # a folder may hold settings
    for group in by_dataset(runs).values():
        if not any(map(_succeeded, group)):
            for run in group:
                numbers[run.path, run.label].pop("success", None)
    shown = [key for key in COLUMNS if any(key in of_run for of_run in numbers.values())]
    header = ["Dataset", "Method", "Seeds", "Episodes"]
    for key in shown:
        header += [COLUMNS[key], "± SD"] if key == "last" else [COLUMNS[key]]
    rows = []
    for dataset, group in by_dataset(runs).items():
        for i, run in enumerate(group):
            of_run = numbers[run.path, run.label]
            cells = [dataset if i == 0 else "", run.shown, _seeds(run), str(run.evaluations[-1].episodes or MISSING)]
            for key in shown:
                digits = {"regret": 2, "success": 1}.get(key, _digits(normalized, of_run["last"]))
                cells.append(cell(of_run.get(key), digits))
                if key == "last":
                    cells.append(_number(float(stats.std(of_run[key])), digits))
            rows.append(tuple(cells))
    title = f"{origin}: {'normalised score' if normalized else 'raw return'}"
    return Table(title, tuple(header), tuple(rows), tuple(_notes(origin, normalized, runs)))


def _succeeded(run: Run) -> bool:
    return any(evaluation.success is not None and evaluation.success.any() for evaluation in run.evaluations)


def first_refreshes(runs: Sequence[Run]) -> dict[str, float]:
    """By dataset the online step until which some generator had made no row; -1 where none makes any.

    Evaluations up to there show nothing of it, so a mean that compares methods starts later, for all of them.
    """
    of = lambda group: max((float(run.refreshes()[0]) for run in group if len(run.refreshes())), default=-1.0)
    return {name: of(group) for name, group in by_dataset(runs).items()}


def _notes(origin: str, normalized: bool, runs: Sequence[Run]) -> Iterator[str]:
    yield CELLS
    if any(run.finite.sum() < stats.MIN_SEEDS for run in runs):
        yield f"[undefined]: fewer than {stats.MIN_SEEDS} seeds give no interval."
    if origin == "local":
        yield "`local:` datasets are this project's own; their numbers must not be compared with D4RL's."
    if not normalized:
        yield "No reference returns exist for these tasks: raw returns, no normalised score."
    for run in runs:
        yield from (f"{run.dataset}, {run.label}: {note}." for note in run.notes)


def comparison_table(origin: str, runs: Sequence[Run]) -> Table:
    """For each dataset with several methods, how surely each beats the first, and those that its label begins with."""
    rows, since = [], first_refreshes(runs)
    for dataset, group in by_dataset(runs).items():
        for run in group[1:]:
            plain = [other for other in group[1:] if run.label.startswith(f"{other.label} ")]
            for other in (group[0], *plain):
                strata = [per_seed(run)["last"], per_seed(other)["last"]]
                if min(map(len, strata)) > 0:
                    estimate = stats.bootstrap(strata, stats.probability_of_improvement)
                    pairs = (paired_difference(run, other, key, since[dataset]) for key in ("last", "last_5"))
                    differences = (cell(each, _digits(run.normalized, strata[0])) for each in pairs)
                    rows.append((dataset, f"{run.shown} over {other.shown}", *differences, text(estimate, 2)))
    notes = (
        "Differences: minus the other method's, seed by seed where both have the same seeds, else none.",
        "P(better): probability that a random seed ends above a random seed of the other method [95 % interval].",
        "0 and 1 mean that the seeds of this run do not overlap; with few seeds that is no certainty.",
    )
    header = ("Dataset", "Comparison", "Difference, last evaluation", f"Difference, mean of last {LAST}", "P(better)")
    return Table(f"{origin}: which method ends higher", header, tuple(rows), notes)


def paired_difference(run: Run, other: Run, key: str = "last", since: float = -1) -> np.ndarray | None:
    """`[S]` differences seed by seed of what `per_seed` has at `key`.

    None where the runs have other seeds, or lost some, or where one has no such number.
    """
    ours, theirs = (per_seed(each, since).get(key) for each in (run, other))
    same = run.numbers == other.numbers and run.finite.all() and other.finite.all()
    return ours - theirs if same and ours is not None and theirs is not None else None


def aggregate_table(origin: str, runs: Sequence[Run]) -> Table:
    """Last normalised scores over all datasets together, for the methods that were run on every one of them."""
    statistics = {
        "IQM": stats.iqm,
        "Mean": stats.mean,
        "Median": stats.median,
        "Optimality gap": stats.optimality_gap,
    }
    rows = []
    for method in dict.fromkeys(run.label for run in runs):
        own = [run for run in runs if run.label == method]
        strata = [per_seed(run)["last"] for run in own]
        if len(own) == len(by_dataset(runs)) and min(map(len, strata)) > 0:
            cells = (text(stats.bootstrap(strata, statistic), 1) for statistic in statistics.values())
            counts = (sum(map(len, strata)), sum(run.seeds for run in own))
            rows.append((method, str(len(own)), _of(*counts), *cells))
    note = "Last evaluation of every seed on every dataset [95 % interval of the stratified bootstrap]."
    return Table(f"{origin}: over all datasets", ("Method", "Datasets", "Seeds", *statistics), tuple(rows), (note,))


def cell(scores: np.ndarray | None, digits: int) -> str:
    """``mean [low, high]`` of scores `[S]`, a dash where there are none."""
    return MISSING if scores is None or len(scores) == 0 else text(stats.bootstrap([scores]), digits)


def text(estimate: Estimate, digits: int) -> str:
    """``value [low, high]``, or ``value [undefined]``."""
    value, low, high = (float(x) for x in estimate)
    interval = "undefined" if np.isnan(low) else f"{_number(low, digits)}, {_number(high, digits)}"
    return f"{_number(value, digits)} [{interval}]"


def _number(value: float, digits: int) -> str:
    return MISSING if np.isnan(value) else f"{value:.{digits}f}"


def _digits(normalized: bool, scores: np.ndarray) -> int:
    """Decimals worth printing: one, and two for raw returns below 10."""
    return 2 if not normalized and len(scores) and np.abs(scores).max() < 10 else 1


def _seeds(run: Run) -> str:
    return _of(int(run.finite.sum()), run.seeds)


def _of(finite: int, seeds: int) -> str:
    return str(seeds) if finite == seeds else f"{finite} of {seeds}"


def to_markdown(table: Table) -> str:
    """The table with its title and notes in GitHub's Markdown."""
    escaped = [[c.replace("|", "\\|") for c in row] for row in (table.header, *table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    rule = f"|{'|'.join('---' for _ in table.header)}|"
    notes = [f"- {note}" for note in table.notes]
    return "\n".join([f"**{table.title}**", "", lines[0], rule, *lines[1:], "", *notes]) + "\n"
