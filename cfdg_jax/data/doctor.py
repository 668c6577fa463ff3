"""``cfdg-jax data check`` and ``data info``: the report on a dataset, and whether the environment agrees with it."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
from typing import Any

from cfdg_jax.data.check import Report, check_fits, describe
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.names import LISTING, dataset_names
from cfdg_jax.envs.agreement import Agreement, agreement
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.errors import UserError, nearest, require
from cfdg_jax.types import Spec


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was found about one dataset."""

    name: str
    report: Report
    agreement: Agreement

    @property
    def usable(self) -> bool:
        """Whether the environment does what the rows say."""
        return not self.agreement.mismatches

    def text(self) -> str:
        """Lines for people: notes, warnings, what was compared, the verdict."""
        notes = [f"note: {note}" for note in (*self.report.notes, *self.agreement.notes)]
        warnings = [f"warning: {warning}" for warning in self.report.warnings]
        wrong = [f"disagreement: with {self.agreement.compared}: {words}" for words in self.agreement.mismatches]
        facts, count = self.report.facts, len(self.report.warnings)
        verdict = f"{self.name}: {facts['rows']:,} rows, {facts['episodes']:,} episodes, "
        verdict += "usable" if self.usable else "not what this environment does"
        return "\n".join([*notes, *warnings, *wrong, *self._compared(), f"{verdict}{_counted(count)}"])

    def _compared(self) -> list[str]:
        found = self.agreement
        if not found.rows or found.observation_error is None:
            return []
        parts = [f"observations differ by {found.observation_error[0]:.2g}"]
        if found.reward_error is not None:
            parts.append(f"rewards by {found.reward_error[0]:.2g}")
        return [f"replayed {found.rows} rows in {found.compared}: {', '.join(parts)} (median)"]

    def plain(self) -> dict[str, Any]:
        """The same, ready for json."""
        report = {"facts": self.report.facts, "notes": self.report.notes, "warnings": self.report.warnings}
        return {"name": self.name, "usable": self.usable, **report, "agreement": dataclasses.asdict(self.agreement)}


def _counted(warnings: int) -> str:
    return f", {warnings} warning{'s' * (warnings > 1)}" if warnings else ""


def examine(name: str) -> Examination:
    """Reads a dataset and compares it with its environment.

    Raises:
      UserError: if it cannot be read, or its widths are not the environment's.
    """
    dataset = load_dataset(name)
    spec = spec_if_known(dataset)
    if spec is not None:
        check_fits(dataset, spec, dataset.task)
    return Examination(dataset.name, describe(dataset, spec), agreement(dataset, dataset.task, dataset.dynamics))


def spec_if_known(dataset: Dataset) -> Spec | None:
    """The environment's spec, where the dataset names one that is installed."""
    try:
        return spec_of(dataset.task, dataset.dynamics) if dataset.task else None
    except UserError:
        return None


def check(pattern: str, as_json: bool = False) -> tuple[str, int]:
    """Text to print and exit code of ``data check``: 2 if a dataset is not what its environment does."""
    found = [examine(name) for name in expand(pattern)]
    shown = as_lines([each.plain() for each in found]) if as_json else "\n".join(each.text() for each in found)
    return shown, 0 if all(each.usable for each in found) else 2


def info(pattern: str, as_json: bool = False) -> tuple[str, int]:
    """Text to print and exit code of ``data info``."""
    reports = []
    for name in expand(pattern):
        dataset = load_dataset(name)
        reports.append(describe(dataset, spec_if_known(dataset)))
    if as_json:
        return as_lines([dataclasses.asdict(report) for report in reports]), 0
    return "\n\n".join(report.text() for report in reports), 0


def as_lines(records: list[dict[str, Any]]) -> str:
    """One json object a line."""
    return "\n".join(json.dumps(record, default=float) for record in records)


def expand(pattern: str) -> list[str]:
    """The datasets that a name stands for: itself, or with ``*`` all known ones of that shape, as ``local:*``."""
    if not any(mark in pattern for mark in "*[") or ":" not in pattern:
        return [pattern]
    found = [name for name in dataset_names() if fnmatch.fnmatchcase(name, pattern)]
    require(bool(found), pattern, "matches no dataset", nearest(pattern.replace("*", ""), dataset_names(), LISTING))
    return found
