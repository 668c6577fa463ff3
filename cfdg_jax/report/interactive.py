"""Learning curves to look into: single seeds, smoothing, published curves; one plotly figure for each dataset.

Everything the buttons and the slider show is computed here, so that the page needs no code but plotly's own.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from cfdg_jax.report import alt, stats
from cfdg_jax.report.plots import COLORS, INK
from cfdg_jax.report.published import SOURCE, published
from cfdg_jax.report.runs import PHASES, Run

WINDOWS = (1, 3, 5, 9)
"""Evaluations in a smoothed point: the slider's stops."""
HEIGHT, ROW = 440, 20
"""Pixels of the curves, and of a name above them, which may need a line of its own."""
AXES = {"offline": "updates, offline", "online": "steps, online"}
DASHES = ("solid", "dash", "dot", "dashdot")


def script() -> str:
    """plotly's own code, once for a page, so that it asks nobody else for it."""
    return f"<script>{get_plotlyjs()}</script>"


def curves(runs: Sequence[Run], name: str) -> str:
    """An HTML element with the curves of runs on one dataset; `name` is unique within the page."""
    shown = [phase for phase in PHASES if any(len(run.curve(phase)[0]) for run in runs)]
    widths = [1.0 if phase == "offline" else 1.5 for phase in shown]
    figure = make_subplots(1, len(shown), shared_yaxes=True, column_widths=widths, horizontal_spacing=0.06)
    traces = [trace for number, run in enumerate(runs) for trace in _traces(run, shown, number)]
    traces += list(_published(runs, shown))
    for trace, column, _, _ in traces:
        figure.add_trace(trace, 1, column)
    for column, phase in enumerate(shown, 1):
        figure.update_xaxes(title_text=AXES[phase], rangemode="tozero", row=1, col=column)
    figure.update_yaxes(title_text="normalised score" if runs[0].normalized else "return", row=1, col=1)
    figure.update_layout(
        template="plotly_white", height=HEIGHT + ROW * len(runs), margin={"l": 60, "r": 10, "t": 40, "b": 10},
        font={"color": INK, "family": "system-ui, sans-serif"}, hovermode="closest",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        updatemenus=[_seed_picker(runs, traces)], sliders=[_smoothing(traces)],
    )  # fmt: skip
    options = {"displayModeBar": False, "responsive": True}  # its buttons would lie over the legend
    plot = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=options)
    return f'<div role="group" aria-label="{html.escape(alt.interactive(runs))}">{plot}</div>'


Trace = tuple[Any, int, int | None, np.ndarray]
"""A plotly trace, its column, the position of its seed (None: of all), and its unsmoothed values `[T]`."""


def _traces(run: Run, shown: Sequence[str], number: int) -> Iterator[Trace]:
    color, dash = COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]
    legend = True
    for column, phase in enumerate(shown, 1):
        steps, scores = run.curve(phase)
        if not len(steps) or not scores.shape[1]:
            continue
        estimate = stats.bootstrap([scores], resamples=500)
        line = {"color": color, "width": 2.5, "dash": dash}
        own = {"x": steps, "mode": "lines", "legendgroup": str(number)}
        if not np.isnan(estimate.low).any():
            edge = {**own, "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
            yield go.Scatter(y=estimate.low, **edge), column, None, estimate.low
            filled = {**edge, "fill": "tonexty", "fillcolor": _faint(color)}
            yield go.Scatter(y=estimate.high, **filled), column, None, estimate.high
        named = {"name": run.shown, "showlegend": legend, "line": line}
        yield go.Scatter(y=estimate.value, **own, **named), column, None, estimate.value
        legend = False
        for position, index in enumerate(np.flatnonzero(run.finite)):
            seed = {"name": f"{run.shown}, seed {run.numbers[index]}", "showlegend": False, "visible": False}
            thin = {"line": {"color": color, "width": 1.2, "dash": dash}}
            yield go.Scatter(y=scores[:, position], **own, **seed, **thin), column, int(index), scores[:, position]


def _published(runs: Sequence[Run], shown: Sequence[str]) -> Iterator[Trace]:
    """Curves of others, in grey and at first switched off: a click on the legend shows them."""
    first: set[str] = set()
    for curve in published(runs[0].dataset) if runs[0].normalized else []:
        if curve.phase in shown:
            style = {"mode": "lines", "line": {"color": "#888888", "dash": "dot"}, "visible": "legendonly"}
            group = {
                "name": f"{curve.method}, {SOURCE}",
                "legendgroup": curve.method,
                "showlegend": curve.method not in first,
            }
            first.add(curve.method)
            trace = go.Scatter(x=curve.steps, y=curve.mean, **style, **group)
            yield trace, shown.index(curve.phase) + 1, None, np.asarray(curve.mean)


def _seed_picker(runs: Sequence[Run], traces: Sequence[Trace]) -> dict[str, Any]:
    """A menu: means alone, all seeds, or one seed of every run."""
    count = max(run.seeds for run in runs)

    def button(label: str, shown: Callable[[int | None], bool]) -> dict[str, Any]:
        own = [trace.visible if trace.visible == "legendonly" else shown(seed) for trace, _, seed, _ in traces]
        return {"label": label, "method": "restyle", "args": [{"visible": own}]}

    buttons = [button("means of seeds", lambda seed: seed is None), button("all seeds", lambda seed: True)]
    buttons += [button(f"seed at place {i}", lambda seed, i=i: seed in (None, i)) for i in range(count)]  # type: ignore[misc]
    place = {"x": 1.0, "xanchor": "right", "y": 0.0, "yanchor": "top", "pad": {"t": 70}, "direction": "up"}
    return {"buttons": buttons, "showactive": True, **place}  # beside the slider: the legend above may take many rows


def _smoothing(traces: Sequence[Trace]) -> dict[str, Any]:
    """A slider over the number of evaluations whose running mean is drawn."""
    steps = [
        {"label": str(window), "method": "restyle", "args": [{"y": [smoothed(y, window).tolist() for *_, y in traces]}]}
        for window in WINDOWS
    ]
    title = {"prefix": "mean of the last evaluations: ", "font": {"size": 12}}
    return {"steps": steps, "active": 0, "currentvalue": title, "pad": {"t": 45}, "len": 0.5, "x": 0.0}


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values `[T]` at each point, of fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.15)"
