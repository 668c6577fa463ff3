"""One self-contained HTML page, and its pictures and tables as files, from run folders."""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import os
import pathlib
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cfdg_jax.errors import require
from cfdg_jax.report import diagnostics, interactive, plots, stats, tables
from cfdg_jax.report.groups import read_runs
from cfdg_jax.report.published import SOURCE, published
from cfdg_jax.report.runs import Run
from cfdg_jax.report.tables import Table

STATISTICS: dict[str, Callable] = {
    "95 % interval": stats.bootstrap,
    "IQM": stats.iqm,
    "Mean": stats.mean,
    "Median": stats.median,
    "Optimality gap": stats.optimality_gap,
    "Area under curve": stats.area_under_curve,
    "Regret": stats.regret,
}
"""Terms defined by the first paragraph of a docstring, so that page and code cannot disagree."""

Saver = Callable[[str, Figure], str]
"""``(name, figure) -> img element``, having written the figure as a PNG."""


def build_report(
    run_dirs: Sequence[pathlib.Path | str], out: pathlib.Path | str | None = None, refresh: int = 0
) -> pathlib.Path:
    """Writes ``report.html`` with its pictures embedded, the same PNGs beside it, and the tables as .md and .csv.

    Args:
      run_dirs: Finished run folders of any methods and datasets, shown in this order.
      out: Folder to write to, made if missing; ``report`` inside the only run folder, or beside the first of several,
        if None. Earlier reports there are overwritten.
      refresh: Seconds after which a browser reads the page again; 0 for never.

    Returns:
      The path of ``report.html``.

    Raises:
      UserError: A run folder is missing, unfinished or corrupt, or `out` is a file.
    """
    runs = read_runs(run_dirs)
    out = pathlib.Path(out) if out else (runs[0].path if len(runs) == 1 else runs[0].path.parent) / "report"
    require(out.is_dir() or not out.exists(), str(out), "is a file", "name a folder for the report")
    out.mkdir(parents=True, exist_ok=True)
    scores, inside = tables.all_tables(runs), diagnostics.all_tables(runs)
    sections = [_warnings(runs), *_curves(runs, _saver(out)), *_scores(runs, scores, _saver(out))]
    sections += [
        *_diagnostics(runs, inside, _saver(out)),
        *_rows(runs, _saver(out)),
        *_seconds(runs, _saver(out)),
        *_configs(runs),
        _provenance(runs),
    ]
    page = _template().substitute(
        refresh=f'<meta http-equiv="refresh" content="{refresh}">' if refresh else "",
        title=escape(_title(runs)),
        lead=escape(_lead(runs)),
        body="\n".join([*sections, _definitions()]),
    )
    _write(out / "scores.md", "\n".join(tables.to_markdown(table) for table in [*scores, *inside]))
    _write(out / "scores.csv", tables.to_csv(runs))
    _write(out / "evaluations.csv", tables.evaluations_csv(runs))
    _write(out / "report.html", page)
    return out / "report.html"


def _template() -> string.Template:
    return string.Template((importlib.resources.files(__package__) / "template.html").read_text("utf-8"))


def _write(path: pathlib.Path, content: str) -> None:
    """Replaces `path` in one step, so that a failed write leaves the earlier report whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, "utf-8")
    os.replace(partial, path)


def _saver(out: pathlib.Path) -> Saver:
    def write(name: str, figure: Figure) -> str:
        path = plots.save(figure, out / f"{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-').lower()}.png")
        data = base64.b64encode(path.read_bytes()).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{escape(name)}" width="{_css_width(figure)}">'

    return write


def _css_width(figure: Figure) -> int:
    return round(figure.get_figwidth() * 96 * 1.25)


def escape(text: Any) -> str:
    """Text for HTML; what stands in `backticks` becomes code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", html.escape(str(text), quote=True))


def _title(runs: Sequence[Run]) -> str:
    methods = list(dict.fromkeys(run.label for run in runs))
    datasets = list(tables.by_dataset(runs))
    what = ", ".join(methods) if len(methods) < 5 else f"{len(methods)} methods"
    return f"{what} on {datasets[0] if len(datasets) == 1 else f'{len(datasets)} datasets'}"


def _lead(runs: Sequence[Run]) -> str:
    seeds = sorted({run.seeds for run in runs})
    phases = "offline pre-training, then online improvement" if any(len(r.curve("online")[0]) for r in runs) else ""
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    each = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{count} of {each} seed{'s' if seeds != [1] else ''}; {phases or 'offline training only'}."


def _warnings(runs: Sequence[Run]) -> str:
    notes = [f"{run.dataset}, {run.label}: {note}." for run in runs for note in run.notes]
    return "\n".join(f'<p class="warning">{escape(note)}</p>' for note in notes)


def _figure(image: str, caption: str, kind: str = "wide") -> str:
    return f'<figure class="{kind}">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def _curves(runs: Sequence[Run], save: Saver) -> Iterator[str]:
    yield "<h2>Learning curves</h2>"
    for dataset, group in tables.by_dataset(runs).items():
        caption = "Mean over seeds, 95 % bootstrap interval as a band, single seeds as faint lines."
        if any(run.finite.sum() < stats.MIN_SEEDS for run in group):
            caption += f" Fewer than {stats.MIN_SEEDS} seeds have no band."
        if any(len(run.refreshes()) for run in group):
            caption += " Short ticks at the bottom: the generator was refreshed."
        yield _figure(save(f"curves {dataset}", plots.learning_curves(group)), caption)
    yield interactive.script()
    for number, (dataset, group) in enumerate(tables.by_dataset(runs).items()):
        caption = f"{dataset}: choose seeds and smooth below, click names to hide a method, drag to look closer, "
        caption += "double-click to go back."
        if published(dataset):
            caption += f" Grey names show published curves of {SOURCE} (4 seeds, every 100,000 steps)."
        yield _figure(interactive.curves(group, f"curves-{number}"), caption)
    yield _download("evaluations.csv", tables.evaluations_csv(runs), "every evaluation of every seed")


def _scores(runs: Sequence[Run], every_table: Sequence[Table], save: Saver) -> Iterator[str]:
    yield "<h2>Scores</h2>"
    yield from (_table(table) for table in every_table)
    for dataset, group in tables.by_dataset(runs).items():
        caption = (
            f"{dataset}, last evaluation: a large dot per seed, a small dot per episode, mean and interval beside."
        )
        yield _figure(save(f"seeds {dataset}", plots.seed_scores(group)), caption)


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    grid = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    link = _download(f"{re.sub(r'[^a-z0-9]+', '-', table.title.lower()).strip('-')}.csv", tables.table_csv(table))
    return f'<h3>{escape(table.title)}</h3>{grid}<ul class="notes">{notes}</ul>{link}'


def _download(name: str, content: str, what: str = "this table") -> str:
    data = base64.b64encode(content.encode()).decode()
    return f'<p class="download"><a download="{name}" href="data:text/csv;base64,{data}">{what} as csv</a></p>'


def _cell(cell: str) -> str:
    """A table cell; an interval goes on a line of its own."""
    value, bracket, interval = cell.partition(" [")
    return f"<td>{escape(value)}{f'<br><small>[{escape(interval)}</small>' if bracket else ''}</td>"


def _rows(runs: Sequence[Run], save: Saver) -> Iterator[str]:
    shown = [run for run in runs if len(run.samples) > 1]
    if shown:
        yield "<h2>Where the rows lie</h2>"
    for run in shown:
        caption = (
            f"{run.dataset}, {run.label}: t-SNE of standardised transitions (observation, action, reward, next "
            "observation, terminal), all kinds embedded together. Only neighbourhoods mean something, not distances."
        )
        yield _figure(save(f"rows {run.path.name} {run.label} {run.dataset}", plots.tsne(run)), caption)


def _diagnostics(runs: Sequence[Run], inside: Sequence[Table], save: Saver) -> Iterator[str]:
    if inside:
        yield "<h2>Inside the methods</h2>"
        yield from map(_table, inside)
    for run in filter(diagnostics.stratified, runs):
        yield f"<h2>Who was treated conservatively: {escape(run.label)}</h2>"
        caption = (
            f"{run.dataset}. Scores by origin, medians with 10 % to 90 % bands, low is offline-like; marks that cross "
            "the origin; the energy network's loss, which without noise on the actions could fall to its labels' "
            "entropy; and what its guidance gains in Q."
        )
        yield _figure(save(f"stratification {run.path.name} {run.label}", diagnostics.stratification(run)), caption)
    for dataset, group in tables.by_dataset(runs).items():
        figure = diagnostics.generator_quality(group)
        if figure is not None:
            yield f"<h2>Quality of generated rows: {escape(dataset)}</h2>"
            caption = "At every refresh, means over seeds; every measure in units of the data (`augment.quality`)."
            yield _figure(save(f"quality {dataset}", figure), caption)


def _seconds(runs: Sequence[Run], save: Saver) -> Iterator[str]:
    if plots.phase_seconds(runs):
        caption = "Wall-clock time of all seeds of a run together, compilation included."
        yield "<h2>Seconds per phase</h2>"
        yield _figure(save("seconds per phase", plots.seconds_per_phase(runs)), caption)


def _configs(runs: Sequence[Run]) -> Iterator[str]:
    """What was chosen (fields the run names as not default), what differs between runs, and everything."""
    flat = [flatten(run.config) for run in runs]
    names = list(dict.fromkeys(name for config in flat for name in config))
    differing = [name for name in names if len({config.get(name, tables.MISSING) for config in flat}) > 1]
    chosen = [name for run in runs for name in flatten(run.summary.get("non_default", {}))]
    yield "<h2>What was run</h2>"
    said = [(run.label, str(run.summary["command"])) for run in runs if run.summary.get("command")]
    yield from (f"<p>{escape(label)}: <code>{html.escape(command)}</code></p>" for label, command in dict(said).items())
    if len(runs) > 1 and differing:
        yield "<h3>Fields that differ</h3>" + _field_table(runs, flat, differing)
    if chosen:
        yield "<h3>Fields that are not default</h3>" + _field_table(runs, flat, list(dict.fromkeys(chosen)))
    yield f"<details><summary>All {len(names)} fields</summary>{_field_table(runs, flat, names)}</details>"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names and printed values of a nested mapping."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _field_table(runs: Sequence[Run], values: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(run.label)}</th>" for run in runs)
    rows = []
    for name in names:
        cells = "".join(f'<td class="wrap">{escape(of_run.get(name, tables.MISSING))}</td>' for of_run in values)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    body = "".join(rows)
    return f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _provenance(runs: Sequence[Run]) -> str:
    """Everything the summaries say beyond what is shown above, the configuration's hash and the folder's name."""
    shown = {"dataset", "label", "seconds", "non_default", "last_return"}
    values = []
    for run in runs:
        rest = {name: value for name, value in run.summary.items() if name not in shown}
        values.append(flatten({"folder": run.path.name, "config_hash": run.config.get("hash", tables.MISSING)} | rest))
    names = list(dict.fromkeys(name for of_run in values for name in of_run))
    return "<h2>Provenance</h2>" + _field_table(runs, values, names)


def _definitions() -> str:
    terms = dict(tables.DEFINITIONS)
    for term, function in STATISTICS.items():
        terms[term] = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    entries = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f"<h2>What the numbers mean</h2><dl>{entries}</dl>"
