"""What was run, and with what: commands, fields and provenance of the runs of a page."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cfdg_jax.report import tables
from cfdg_jax.report.page import escape, field_table
from cfdg_jax.report.runs import Run

ELSEWHERE = {"dataset", "label", "seconds", "non_default", "last_return"}
"""Fields of a summary that the page shows in other places."""


def configs(runs: Sequence[Run]) -> Iterator[str]:
    """What was chosen (fields the run names as not default), what differs between runs, and everything."""
    flat = [flatten(run.config) for run in runs]
    names = list(dict.fromkeys(name for config in flat for name in config))
    differing = [name for name in names if len({config.get(name, tables.MISSING) for config in flat}) > 1]
    chosen = [name for run in runs for name in flatten(run.summary.get("non_default", {}))]
    yield "<h2>What was run</h2>"
    said = [(run.label, str(run.summary["command"])) for run in runs if run.summary.get("command")]
    yield from (f"<p>{escape(label)}: <code>{html.escape(command)}</code></p>" for label, command in dict(said).items())
    if differing:
        yield "<h3>Fields that differ</h3>" + field_table("fields that differ", runs, flat, differing)
    if chosen:
        shown = field_table("fields that are not default", runs, flat, list(dict.fromkeys(chosen)))
        yield f"<h3>Fields that are not default</h3>{shown}"
    every = field_table("all fields", runs, flat, names)
    yield f"<details><summary>All {len(names)} fields</summary>{every}</details>"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names and printed values of a nested mapping."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def provenance(runs: Sequence[Run]) -> Iterator[str]:
    """Everything the summaries say beyond what is shown above, the configuration's hash and the folder's name."""
    values = []
    for run in runs:
        rest = {name: value for name, value in run.summary.items() if name not in ELSEWHERE}
        values.append(flatten({"folder": run.path.name, "config_hash": run.config.get("hash", tables.MISSING)} | rest))
    names = list(dict.fromkeys(name for of_run in values for name in of_run))
    yield "<h2>Provenance</h2>" + field_table("provenance", runs, values, names)
