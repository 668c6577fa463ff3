"""What each picture shows, in words, for those who cannot see it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cfdg_jax.report import plots
from cfdg_jax.report.diagnostics import QUALITY
from cfdg_jax.report.runs import PHASES, Run

UNITS = {"offline": "offline gradient updates", "online": "online environment steps"}
MOST = 6
"""Runs that a text tells of one by one; a table has the others."""


def curves(runs: Sequence[Run]) -> str:
    """Of learning curves of runs on one dataset, drawn or to look into."""
    phases = [UNITS[phase] for phase in PHASES if any(len(run.curve(phase)[0]) for run in runs)]
    return f"Learning curves on {runs[0].dataset}: {_score(runs)} over {' and then '.join(phases)}. {_ends(runs)}"


def interactive(runs: Sequence[Run]) -> str:
    """Of the same curves with their menu and slider."""
    return f"Interactive: a menu shows single seeds, a slider smooths. {curves(runs)}"


def seeds(runs: Sequence[Run]) -> str:
    """Of the dots of single seeds at the last evaluation of runs on one dataset."""
    return f"Last evaluation on {runs[0].dataset}: {_score(runs)} of each seed and episode as dots. {_ends(runs)}"


def rows(run: Run) -> str:
    """Of a t-SNE map."""
    kinds = ", ".join(kind.replace("synthetic_", "generated ") for kind in run.samples)
    return f"t-SNE map of the rows of {run.label} on {run.dataset}, coloured by kind: {kinds}."


def marks(run: Run) -> str:
    """Of what a stratifier did."""
    shown = "scores of offline and online rows, marks that cross the origin, the energy's loss, a histogram of scores, "
    return f"Six panels of {run.label} on {run.dataset}: {shown}rows exchanged per batch and the gain in Q by guidance."


def quality(runs: Sequence[Run]) -> str:
    """Of generated rows at every refresh, runs on one dataset."""
    measures = "; ".join(" ".join(words.split()) for words in QUALITY.values())
    return f"Generated rows on {runs[0].dataset} at every refresh, where logged: {measures}."


def seconds(runs: Sequence[Run]) -> str:
    """Of the bars of wall-clock time."""
    phases = plots.phase_seconds(runs)
    told = []
    for i, run in enumerate(runs[:MOST]):
        taken = {name: float(values[i]) for name, values in phases.items()}
        most = max(taken, key=lambda name: taken[name])
        told.append(f"{run.shown} {sum(taken.values()):.3g} s, most of it {most}")
    return f"Wall-clock time of each run as a bar of its phases: {'; '.join(told)}{_others(runs)}."


def _score(runs: Sequence[Run]) -> str:
    return "normalised score" if runs[0].normalized else "return"


def _ends(runs: Sequence[Run]) -> str:
    """The last means, one by one."""
    ends = [run.evaluations[-1].scores[run.finite] for run in runs[:MOST]]
    told = [f"{run.shown} {np.mean(x):.3g}" if len(x) else run.shown for run, x in zip(runs, ends, strict=False)]
    return f"Means at the end: {', '.join(told)}{_others(runs)}."


def _others(runs: Sequence[Run]) -> str:
    return f"; {len(runs) - MOST} more in the tables" if len(runs) > MOST else ""
