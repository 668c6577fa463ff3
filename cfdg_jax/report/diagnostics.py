"""Pictures of what goes on inside a method: how a stratifier marks rows, and how good a generator's rows are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cfdg_jax.report.plots import COLORS, style, thousands
from cfdg_jax.report.runs import Run

QUALITY = {
    "dynamics_error": "one-step error of s'\n(1: as bad as not moving)",
    "reward_error": "reward error\n(standard deviations)",
    "online/energy_distance": "energy distance\nto online rows",
    "online_nearer": "share nearest to\nan online row",
}
"""The measures of generated rows that are drawn, with what to write beside them."""


def series(run: Run, phase: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[T]` and the mean over seeds `[T]` of a logged metric; seeds without a value are left out."""
    lines = [line for line in run.metrics if line["phase"] == phase and name in line]
    values = np.array([[np.nan if v is None else v for v in line[name]] for line in lines], float)
    if not len(lines) or np.isnan(values).all():
        return np.zeros(0), np.zeros(0)
    kept = ~np.isnan(values).all(axis=1)
    return np.array([line["step"] for line in lines])[kept], np.nanmean(values[kept], axis=1)


def stratified(run: Run) -> bool:
    """Whether the run logged scores of a stratifier."""
    return len(series(run, "online", "score_offline_p50")[0]) > 0


def stratification(run: Run) -> Figure:
    """Three panels over the online phase: scores by origin (median, 10 % to 90 %), marks that cross, the energy's loss.

    A score is the squared distance between a row's action and its proposal: low is offline-like. The energy network's
    loss can reach its floor, the entropy of its labels, and no less.
    """
    with style():
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        scores, marks, energy = figure.subplots(1, 3)
        for origin, color in zip(("offline", "online"), COLORS, strict=False):
            steps, median = series(run, "online", f"score_{origin}_p50")
            low, high = (series(run, "online", f"score_{origin}_p{q}")[1] for q in (10, 90))
            scores.plot(steps, median, color=color, label=f"{origin} rows")
            scores.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        scores.set_ylabel("score")
        for i, (name, text) in enumerate(
            {"offline_marked_online": "offline rows, marked online", "online_marked_offline": "the reverse"}.items()
        ):
            marks.plot(*series(run, "online", name), color=COLORS[i], label=text)
        marks.set_ylabel("share of the rows of that origin")
        marks.set_ylim(0, 1)
        for i, (name, text) in enumerate({"energy_loss": "loss", "energy_floor": "floor"}.items()):
            energy.plot(*series(run, "online", name), color=COLORS[i], label=text, linestyle="-" if i == 0 else "--")
        energy.set_ylabel("contrastive loss of the energy")
        for ax in (scores, marks, energy):
            _finish(ax)
    return figure


def generator_quality(runs: Sequence[Run]) -> Figure | None:
    """Quality of generated rows at every refresh, a panel per measure; None if no run logged any."""
    found = {
        (run.label, source, name): series(run, "refresh", f"{source}/{name}")
        for run in runs
        for source in ("synthetic_online", "synthetic_offline")
        for name in QUALITY
    }
    found = {key: value for key, value in found.items() if len(value[0])}
    names = [name for name in QUALITY if any(key[2] == name for key in found)]
    if not names:
        return None
    lines = list(dict.fromkeys(key[:2] for key in found))
    with style():
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        for ax, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for i, (label, source) in enumerate(lines):
                if (label, source, name) in found:
                    kind = source.removeprefix("synthetic_")
                    color, text = COLORS[i % len(COLORS)], f"{label}, {kind} label"
                    ax.plot(*found[label, source, name], color=color, marker="o", markersize=4, label=text)
            ax.set_ylabel(QUALITY[name])
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
            _finish(ax, legend=False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def _finish(ax: Axes, legend: bool = True) -> None:
    ax.set_xlabel("environment steps")
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: thousands(step)))
    if legend:
        ax.legend(fontsize=7)
