"""What goes on inside a method, as pictures and tables: how rows are marked, and how good generated rows are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cfdg_jax.report import tables
from cfdg_jax.report.plots import COLORS, style, thousands
from cfdg_jax.report.runs import SAMPLE_KINDS, Run
from cfdg_jax.report.tables import Table
from cfdg_jax.types import SCORE_EDGES

QUALITY = {
    "dynamics_error": "one-step error of s'\n(1: as bad as not moving)",
    "reward_error": "reward error\n(standard deviations)",
    "online/energy_distance": "energy distance\nto online rows",
    "online_nearer": "share nearest to\nan online row",
}
"""The measures of generated rows that are drawn, with what to write beside them."""

GENERATED = tuple(kind for kind in SAMPLE_KINDS if kind.startswith("synthetic_"))

MARKS = {
    "offline_marked_online": "Offline rows marked online-like",
    "online_marked_offline": "Online rows marked offline-like",
    "score_offline": "Score of offline rows",
    "score_online": "Score of online rows",
    "exchanged": "Rows exchanged per batch",
    "proposal_gain": "Gain in Q by guidance",
    "energy_loss": "Energy loss",
    "energy_floor": "Entropy of its labels",
    "energy_samples": "Effective number of supports",
}
"""The columns of a stratifier's table: metrics of the online phase."""


def series(run: Run, phase: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps `[T]` and the mean over finite seeds `[T]` of a logged metric; seeds without a value are left out."""
    lines = [line for line in run.metrics if line["phase"] == phase and name in line]
    values = np.array([[np.nan if v is None else v for v in line[name]] for line in lines], float)
    values = values[:, run.finite] if len(lines) else values
    if np.isnan(values).all():
        return np.zeros(0), np.zeros(0)
    kept = ~np.isnan(values).all(axis=1)
    return np.array([line["step"] for line in lines])[kept], np.nanmean(values[kept], axis=1)


def last(run: Run, phase: str, name: str) -> np.ndarray | None:
    """The last value logged of a metric, of the finite seeds that have one, `[S]`; None if there is none."""
    for line in reversed(run.metrics):
        if line["phase"] == phase and name in line:
            values = np.array([np.nan if v is None else v for v in line[name]], float)[run.finite]
            return values[~np.isnan(values)]
    return None


def all_tables(runs: Sequence[Run]) -> list[Table]:
    """For each dataset: how rows were marked at the end, and how good rows were at the last refresh."""
    found = []
    for dataset, group in tables.by_dataset(runs).items():
        marked = {run.shown: (run, "") for run in group if stratified(run)}
        chance = "An offline-like score is low. With half of a batch marked, marks by lot cross the origin in 0.50."
        found.append(_table(f"{dataset}: who was treated conservatively, at the end", MARKS, marked, "online", chance))
        made = {
            f"{run.shown}, {kind.removeprefix('synthetic_')} label": (run, f"{kind}/")
            for run in group
            for kind in GENERATED
        }
        columns = {name: text.replace("\n", " ") for name, text in QUALITY.items()}
        units = "Every measure in units of the data (`augment.quality`)."
        found.append(_table(f"{dataset}: generated rows at the last refresh", columns, made, "refresh", units))
    return [table for table in found if table.rows]


def _table(title: str, columns: dict[str, str], lines: dict[str, tuple[Run, str]], phase: str, note: str) -> Table:
    """A row per line that logged any of `columns`, whose names begin with the line's own prefix."""
    rows = []
    for label, (run, prefix) in lines.items():
        values = [last(run, phase, prefix + name) for name in columns]
        if any(value is not None for value in values):
            rows.append((label, *(tables.cell(value, 2) for value in values)))
    return Table(title, ("Method", *columns.values()), tuple(rows), (note, tables.CELLS))


def stratified(run: Run) -> bool:
    """Whether the run logged scores of a stratifier."""
    return len(series(run, "online", "score_offline_p50")[0]) > 0


def stratification(run: Run) -> Figure:
    """Scores by origin (median, 10 % to 90 %) and their histograms at the end, marks that cross, energy and its gain.

    A score is the squared distance between a row's action and its proposal: low is offline-like. The energy network's
    loss lies between the entropy of its labels, which it could reach without noise on the actions alone, and log K,
    that of an energy that knows nothing. Its gain is Q of guided proposals less the mean Q of the behaviour model's.
    """
    with style():
        figure = Figure(figsize=(9.6, 4.6), layout="constrained")
        scores, marks, energy, histogram, exchanged, gain = figure.subplots(2, 3).flat
        for origin, color in zip(("offline", "online"), COLORS, strict=False):
            steps, median = series(run, "online", f"score_{origin}_p50")
            low, high = (series(run, "online", f"score_{origin}_p{q}")[1] for q in (10, 90))
            scores.plot(steps, median, color=color, label=f"{origin} rows")
            scores.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
            shares = [last(run, "online", f"score_{origin}_bin{i:02d}") for i in range(SCORE_EDGES.size + 1)]
            heights = [np.nan if share is None else share.mean() for share in shares]
            edges = [SCORE_EDGES[0] ** 2 / SCORE_EDGES[1], *SCORE_EDGES, SCORE_EDGES[-1] ** 2 / SCORE_EDGES[-2]]
            histogram.stairs(heights, edges, color=color, fill=True, alpha=0.35, label=f"{origin} rows")
        scores.set_ylabel("score")
        histogram.set_xscale("log")
        histogram.set_xlabel("score at the end (ends: all beyond)")
        histogram.set_ylabel("share of rows of that origin")
        exchanged.plot(*series(run, "online", "exchanged"), color=COLORS[0])
        exchanged.set_ylabel("rows exchanged per batch")
        exchanged.set_ylim(bottom=0)
        for i, (name, text) in enumerate(
            {"offline_marked_online": "offline rows, marked online", "online_marked_offline": "the reverse"}.items()
        ):
            marks.plot(*series(run, "online", name), color=COLORS[i], label=text)
        marks.set_ylabel("share of rows of that origin")
        marks.set_ylim(0, 1)
        for i, (name, text) in enumerate({"energy_loss": "loss", "energy_floor": "entropy of labels"}.items()):
            energy.plot(*series(run, "online", name), color=COLORS[i], label=text, linestyle="-" if i == 0 else "--")
        energy.set_ylabel("contrastive loss of the energy")
        gain.plot(*series(run, "online", "proposal_gain"), color=COLORS[0])
        gain.axhline(0.0, color="0.6", linewidth=0.8)
        gain.set_ylabel("gain in Q by guidance")
        for ax, name, reason in (
            (energy, "energy_loss", "no energy network: proposals are not guided"),
            (gain, "proposal_gain", "not logged: no guidance, or stratify.gain_rows 0"),
        ):
            if not len(series(run, "online", name)[0]):
                ax.text(0.5, 0.6, reason, ha="center", transform=ax.transAxes, fontsize=7)
        for ax in (scores, marks, energy, exchanged, gain):
            _finish(ax, legend=ax not in (exchanged, gain))
        histogram.legend(fontsize=7)
    return figure


def generator_quality(runs: Sequence[Run]) -> Figure | None:
    """Quality of generated rows at every refresh, a panel per measure; None if no run logged any."""
    found = {
        (run.shown, source, name): series(run, "refresh", f"{source}/{name}")
        for run in runs
        for source in GENERATED
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
