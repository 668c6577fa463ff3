"""Pictures of runs as matplotlib figures: learning curves, t-SNE of rows, seconds per phase, scores of single seeds.

Every function returns a `matplotlib.figure.Figure` that belongs to no window and no global state; the same runs give
the same pixels. Colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import pathlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cfdg_jax.report import stats
from cfdg_jax.report.runs import PHASES, Run

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
PHASE_COLORS = {
    "data": "#999999",
    "compile": "#000000",
    "offline": "#0072B2",
    "online": "#D55E00",
    "refresh": "#009E73",
    "evaluate": "#E69F00",
    "checkpoint": "#56B4E9",
}
OTHER_PHASE = "#CC79A7"
ROW_COLORS = {
    "offline": "#0072B2",
    "online": "#E69F00",
    "synthetic_offline": "#D55E00",
    "synthetic_online": "#009E73",
}
STEP_LABELS = {"offline": "gradient updates, offline", "online": "environment steps per seed, online"}
CURVES_WIDTH, LEGEND_COLUMNS, LETTER, HANDLE = 7.2, 4, 0.072, 0.55
"""Inches of the curves; most columns of their legend; inches of a letter and of what stands before a label in it."""
LABEL, LINE = 34, 0.15
"""Letters of a line of a label beside an axis, and inches of its height."""
INK, FAINT = "#333333", "#E4E4E4"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "figure.dpi": 110,
}


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, whatever the user's own matplotlib settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def save(figure: Figure, path: pathlib.Path) -> pathlib.Path:
    """Writes `figure` as a PNG without dates or version stamps, so that equal figures are equal files."""
    with style():
        figure.savefig(path, format="png", metadata={"Software": None}, facecolor="white")
    return path


def learning_curves(runs: Sequence[Run], title: str | None = None) -> Figure:
    """Scores of runs on one dataset over both phases, the hand-over marked by a vertical line.

    Lines are means over seeds, bands their 95 % bootstrap intervals (none below three seeds), faint lines single
    seeds, ticks at the bottom the steps at which a generator was refreshed. The phases have axes of their own, because
    an offline update and an environment step are different units.
    """
    phases = [phase for phase in PHASES if any(len(run.curve(phase)[0]) for run in runs)]
    longest = max(len(run.shown) for run in runs)
    legend_columns = max(1, min(LEGEND_COLUMNS, int(CURVES_WIDTH / (HANDLE + LETTER * longest))))
    legend_rows = -(-len({run.shown for run in runs}) // legend_columns)
    with style():
        figure = Figure(figsize=(CURVES_WIDTH, 3.5 + 0.2 * legend_rows))
        height = figure.get_figheight()
        widths = [1.0 if phase == "offline" else 1.5 for phase in phases]
        axes = figure.subplots(1, len(phases), sharey=True, width_ratios=widths, squeeze=False)[0]
        figure.subplots_adjust(0.085, 0.5 / height, 0.98, 1 - (0.35 + 0.2 * legend_rows) / height, wspace=0.0)
        for phase, ax in zip(phases, axes, strict=True):
            for i, run in enumerate(runs):
                _curve(ax, run, phase, _look(i))
            _step_axis(ax, phase)
        axes[0].set_ylabel("normalised score" if runs[0].normalized else "return")
        if len(phases) == 2:
            _hand_over(*axes)
        figure.text(0.01, 1 - 0.08 / height, title or runs[0].dataset, va="top", fontsize=10.5, fontweight="bold")
        figure.legend(
            handles=_one_per_label(axes),
            loc="upper left",
            bbox_to_anchor=(0.0, 1 - 0.25 / height),
            ncols=legend_columns,
        )
    return figure


def _look(i: int) -> dict[str, Any]:
    """Colour, marker and line of curve `i`; the line changes once the colours are used up."""
    lap, place = divmod(i, len(COLORS))
    return {"color": COLORS[place], "marker": MARKERS[place], "linestyle": LINES[lap % len(LINES)]}


def _curve(ax: Axes, run: Run, phase: str, look: dict[str, Any]) -> None:
    steps, scores = run.curve(phase)
    if len(steps) == 0 or scores.shape[1] == 0:
        return
    estimate, color = stats.bootstrap([scores], resamples=1000), look["color"]
    ax.plot(steps, scores, color=color, alpha=0.22, linewidth=0.7)
    ax.fill_between(steps, estimate.low, estimate.high, color=color, alpha=0.16, linewidth=0)
    every = max(1, len(steps) // 8)
    ax.plot(steps, estimate.value, linewidth=1.8, label=run.shown, markevery=every, markersize=4, clip_on=False, **look)
    if phase == "online":
        for step in run.refreshes():
            ax.plot([step, step], [0, 0.03], transform=ax.get_xaxis_transform(), color=color, linewidth=1.2)


def _one_per_label(axes: Sequence[Axes]) -> list[Artist]:
    """A legend handle for each run, whichever phases it has."""
    shown = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    return list(shown.values())


def _step_axis(ax: Axes, phase: str) -> None:
    ax.set_xlabel(STEP_LABELS[phase])
    ax.set_xlim(0, max([1.0, *(float(np.asarray(line.get_xdata())[-1]) for line in ax.lines)]))
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: thousands(step)))


def thousands(step: float) -> str:
    """A step count as an axis label: ``500``, ``20k``, ``1.5M``."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(step) >= unit:
            return f"{step / unit:g}{suffix}"
    return f"{step:g}"


def _hand_over(offline: Axes, online: Axes) -> None:
    """Joins the two panels at a dashed line: the offline axis ends where the online axis begins."""
    offline.set_facecolor("#F6F6F6")
    online.xaxis.set_major_locator(MaxNLocator(5, prune="lower"))
    online.spines["left"].set(linestyle=(0, (4, 3)), linewidth=1.2)
    online.tick_params(axis="y", left=False)
    online.annotate(
        "hand-over", (0, 1), (4, -3), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=8
    )


def row_map(samples: Mapping[str, np.ndarray], points: int = 2000, seed: int = 0) -> dict[str, np.ndarray]:
    """A joint t-SNE of standardised rows: at most `points` of them, as many of each kind as the rarest allows.

    Args:
      samples: Rows `[n, W]` by kind.
      points: Upper bound on the rows embedded together.
      seed: Seed of the choice of rows and of t-SNE.

    Returns:
      Positions `[m, 2]` by kind.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    count = min(points // len(samples), *(len(rows) for rows in samples.values()))
    chosen = [rows[rng.choice(len(rows), count, replace=False)] for rows in samples.values()]
    rows = np.concatenate(chosen)
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-6)
    tsne = TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", max_iter=500, random_state=seed)
    with threadpool_limits(1):  # its threads busy-wait for each other: on a machine in use, two are far slower than one
        positions = tsne.fit_transform(rows)
    return dict(zip(samples, np.split(positions, len(samples)), strict=True))


def tsne(run: Run, points: int = 2000, seed: int = 0) -> Figure:
    """Offline, online and generated rows of one run in one t-SNE plane, as Figure 1 of CFDG.

    The first panel shows where offline and online data lie; the others lay what the generator made for each over it.
    """
    positions = row_map(run.samples, points, seed)
    kinds = {"real rows": PHASES, **{f"generated for {real}": (real, f"synthetic_{real}") for real in PHASES}}
    panels = {title: [kind for kind in shown if kind in positions] for title, shown in kinds.items()}
    panels = {title: shown for title, shown in panels.items() if kinds[title][-1] in shown}
    with style():
        figure = Figure(figsize=(2.9 * len(panels) + 0.1, 3.3), layout="constrained")
        axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for ax, (title, shown) in zip(axes, panels.items(), strict=True):
            for kind in (kind for kind in positions if kind not in shown):
                ax.scatter(*positions[kind].T, s=3, color="#DDDDDD", linewidth=0)
            for kind in shown:
                label = kind.replace("synthetic_", "generated ")
                ax.scatter(*positions[kind].T, s=7, alpha=0.6, color=ROW_COLORS[kind], linewidth=0, label=label)
            ax.set(xticks=[], yticks=[], title=title)
            ax.grid(False)
            ax.spines[["left", "bottom"]].set_visible(False)
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2, markerscale=2, handletextpad=0.1)
    return figure


def seconds_per_phase(runs: Sequence[Run]) -> Figure:
    """Wall-clock time of each run as one stacked bar: data, compilation, the phases, refreshes, evaluation."""
    phases = phase_seconds(runs)
    longest = float(np.sum(list(phases.values()), axis=0).max())
    unit, seconds_per_unit = ("s", 1) if longest < 600 else ("min", 60) if longest < 7200 else ("h", 3600)
    places, ends = np.arange(len(runs))[::-1], np.zeros(len(runs))
    with style():
        figure = Figure(figsize=(7.2, 1.0 + _row(runs, 0.42) * len(runs)), layout="constrained")
        ax = figure.subplots()
        for phase, seconds in phases.items():
            lengths = seconds / seconds_per_unit
            color = PHASE_COLORS.get(phase, OTHER_PHASE)
            bars = ax.barh(places, lengths, 0.62, left=ends, color=color, label=phase, edgecolor="white", linewidth=0.8)
            shown = [f"{length:.3g}" if s > 0.05 * longest else "" for length, s in zip(lengths, seconds, strict=True)]
            ax.bar_label(bars, shown, label_type="center", color="white", fontsize=8)
            ends += lengths
        for place, end in zip(places, ends, strict=True):
            ax.annotate(f"{end:.3g} {unit}", (end, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_yticks(places, _names(runs))
        ax.set_xlabel(f"wall-clock time ({unit})")
        ax.set_xlim(0, 1.1 * longest / seconds_per_unit)
        ax.grid(False, axis="y")
        figure.legend(loc="outside upper center", ncols=6, handlelength=1, handleheight=1)
    return figure


def phase_seconds(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """Seconds `[runs]` by phase, in the order of `PHASE_COLORS` and then of appearance."""
    known = dict.fromkeys((*PHASE_COLORS, *(phase for run in runs for phase in run.summary.get("seconds", {}))))
    seconds = {name: np.array([float(run.summary.get("seconds", {}).get(name, 0)) for run in runs]) for name in known}
    return {name: values for name, values in seconds.items() if values.any()}


def seed_scores(runs: Sequence[Run]) -> Figure:
    """The last evaluation of every seed of runs on one dataset: a large dot per seed, a small one per episode, and the
    mean over seeds with its 95 % interval below them. A row per run, so that names of any length fit beside it."""
    with style():
        figure = Figure(figsize=(7.2, 0.8 + _row(runs, 0.55) * len(runs)), layout="constrained")
        ax = figure.subplots()
        for i, run in enumerate(runs):
            color = COLORS[i % len(COLORS)]
            episodes = run.evaluations[-1].scores[run.finite]
            places = i + 0.5 * (np.arange(len(episodes)) - (len(episodes) - 1) / 2) / max(len(episodes), 4) - 0.08
            if episodes.shape[1] > 1:
                ax.plot(episodes, places, ".", color=color, alpha=0.25, markersize=3.5)
            ax.plot(episodes.mean(axis=1), places, "o", color=color, markersize=6, markeredgecolor="white")
            if len(episodes):
                estimate = stats.bootstrap([episodes.mean(axis=1)])
                ax.plot([estimate.low, estimate.high], [i + 0.34] * 2, color=INK, linewidth=1.6)
                ax.plot(estimate.value, i + 0.34, "|", color=INK, markersize=10, markeredgewidth=2)
        ax.set_yticks(range(len(runs)), _names(runs))
        ax.set_ylim(len(runs) - 0.4, -0.6)
        ax.grid(False, axis="y")
        ax.set_xlabel("normalised score" if runs[0].normalized else "return")
    return figure


def _names(runs: Sequence[Run]) -> list[str]:
    """Labels beside an axis, on several lines where they are long."""
    return [textwrap.fill(run.shown, LABEL) for run in runs]


def _row(runs: Sequence[Run], least: float) -> float:
    """Inches of a row in which the longest label fits."""
    return max(least, *(LINE * (1 + label.count("\n")) + 0.1 for label in _names(runs)))
