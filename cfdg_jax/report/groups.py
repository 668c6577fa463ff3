"""From run folders to the runs that a report shows: one for each setting, groups of seeds together."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cfdg_jax.axis import words
from cfdg_jax.errors import GROUPS, require
from cfdg_jax.report.runs import Evaluation, Run, divergence, read_run, read_yaml

OWN = ("seeds", "first_seed", "hash")
"""Fields of a config in which groups of seeds differ."""


def read_runs(folders: Sequence[pathlib.Path | str]) -> list[Run]:
    """Reads run folders; runs with equal dataset and label get their folder's name behind the label.

    A run of several values of ``--vmap`` becomes one run per setting (`by_setting`), and groups of seeds become one run
    (`joined`).

    Raises:
      UserError: A folder or one of its files is missing, unfinished or unreadable; the message names it.
    """
    require(len(folders) > 0, "RUN_DIR", "no run folder was given", "name at least one")
    runs = joined([part for folder in folders for part in by_setting(read_run(folder))])
    names = [(run.dataset, run.label) for run in runs]
    return [
        dataclasses.replace(run, label=f"{run.label} ({run.path.name})") if names.count(name) > 1 else run
        for run, name in zip(runs, names, strict=True)
    ]


def by_setting(run: Run) -> list[Run]:
    """A run of several values of ``--vmap`` as one run per setting, each with its own values in its config."""
    lanes = run.summary.get("lanes")
    if not lanes:
        return [run]
    parts = []
    for setting in dict.fromkeys(map(words, lanes)):
        index = [i for i, lane in enumerate(lanes) if words(lane) == setting]
        parts.append(dataclasses.replace(_of_lanes(run, index), label=f"{run.label}, {setting}"))
    return parts


def _of_lanes(run: Run, index: list[int]) -> Run:
    """The lanes at `index`, which are of one setting; samples and what is said of the whole go with the first lane."""
    count, at = run.seeds, lambda x: None if x is None else x[index]
    picked = lambda values: {
        k: [x[i] for i in index] if isinstance(x, list) and len(x) == count else x for k, x in values.items()
    }
    summary, of_lanes = picked(run.summary), divergence(run.evaluations, run.summary)
    evaluations = tuple(
        e._replace(returns=e.returns[index], normalized=at(e.normalized), success=at(e.success))
        for e in run.evaluations
    )
    general = [note for note in run.notes if note not in of_lanes] if 0 in index else []
    return dataclasses.replace(
        run,
        config=_at_values(run.config, summary["lanes"][0]),
        summary=summary,
        evaluations=evaluations,
        metrics=tuple(map(picked, run.metrics)),
        samples=run.samples if 0 in index else {},
        notes=(*general, *divergence(evaluations, summary)),
    )


def _at_values(config: dict[str, Any], values: dict[str, float]) -> dict[str, Any]:
    """The config of one setting alone."""
    own = {name: dict(part) if isinstance(part, dict) else part for name, part in config.items() if name != "vmap"}
    for path, value in values.items():
        choice, _, leaf = path.partition(".")
        own[choice][leaf] = value
    return own


def joined(runs: Sequence[Run]) -> list[Run]:
    """Runs of equal settings and different seeds as one, in the place of the first; others as they are."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        settings = {name: value for name, value in run.config.items() if name not in OWN}
        key = (run.dataset, run.label, run.normalized, json.dumps(settings, sort_keys=True, default=str))
        same = groups.setdefault(key, [])
        clash = {number for other in same for number in other.numbers} & set(run.numbers)
        (groups.setdefault((*key, run.path), []) if clash else same).append(run)
    in_order = (sorted(group, key=lambda run: run.numbers) for group in groups.values())
    return [_join(group) if len(group) > 1 or _whole(group[0]) else group[0] for group in in_order]


def _whole(run: Run) -> dict[str, Any]:
    """The config of the run that `run` is a group of seeds of, as its folder notes it; empty if it is none.

    Raises:
      UserError: if the note is damaged.
    """
    path = run.path.parent / GROUPS
    if not path.is_file():
        return {}
    whole, right = read_yaml(path), "must be a whole number of at least 1; restore it as the run wrote it"
    for field in ("group", "seeds"):
        found = whole.get(field)
        require(type(found) is int and found > 0, str(path), f"`{field}` is {found!r}", right)
    return whole


def _join(group: Sequence[Run]) -> Run:
    """One run of all seeds; evaluations that not every group has made are left out, and so said."""
    first = group[0]
    shown = tuple(map(_evaluation, zip(*(run.evaluations for run in group), strict=False)))
    notes = [note for run in group for note in run.notes] + _unfinished(group, shown[-1])
    lanes = [lane for run in group for lane in run.summary.get("lanes", [])]
    seeds = [number for run in group for number in run.numbers]
    failed = {seed: place for run in group for seed, place in run.summary.get("failed_seeds", {}).items()}
    taken = [run.summary.get("seconds", {}) for run in group]
    seconds = {name: sum(of_run.get(name, 0.0) for of_run in taken) for of_one in taken for name in of_one}
    return dataclasses.replace(
        first,
        config=first.config | {"seeds": len(seeds), "first_seed": min(seeds)},
        summary=first.summary
        | {"seeds": seeds, "failed_seeds": failed, "seconds": seconds}
        | ({"lanes": lanes} if lanes else {}),
        evaluations=shown,
        metrics=tuple(map(_line, zip(*(run.metrics for run in group), strict=False))),
        notes=tuple(dict.fromkeys(notes)),
    )


def _unfinished(group: Sequence[Run], at: Evaluation) -> list[str]:
    """A note on groups that are not all done: at which evaluation the numbers stand, and what continues them."""
    first, begun = group[0], sum(run.seeds for run in group)
    whole, done = _whole(first), sum(run.seeds for run in group if run.summary["status"] == "done")
    seeds = int(whole.get("seeds", begun))
    if done == seeds:
        return []
    planned = first.planned(at.phase)
    stand = f"{at.phase} step {at.step:,}{f' of {planned:,}' if planned else ''}"
    absent = f"; {seeds - begun} have not begun" if seeds > begun else ""
    resume = f"; `cfdg-jax train --resume {shlex.quote(str(first.path.parent))}` continues them" if whole else ""
    note = f"its groups of seeds are unfinished, {done} of {seeds} seeds are done{absent}"
    return [f"{note}; all numbers stand at {stand}, which those that have begun have reached{resume}"]


def _evaluation(same: Sequence[Evaluation]) -> Evaluation:
    stacked: Callable[[Sequence[Any]], Any] = lambda parts: None if parts[0] is None else np.concatenate(parts)
    parts = zip(*((each.returns, each.normalized, each.success) for each in same), strict=True)
    returns, normalized, success = map(stacked, parts)
    return same[0]._replace(returns=returns, normalized=normalized, success=success)


def _line(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line of metrics: vectors over seeds one after the other, what has no seeds as the first has it."""
    first = same[0]
    vectors = {name for name, value in first.items() if isinstance(value, list) and all(name in line for line in same)}
    return {name: [x for line in same for x in line[name]] if name in vectors else first[name] for name in first}
