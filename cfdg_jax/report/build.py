"""One self-contained HTML page, and its pictures and tables as files, from run folders."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence

from cfdg_jax.errors import require
from cfdg_jax.report import alt, csvs, diagnostics, interactive, plots, stats, tables
from cfdg_jax.report.fields import configs, provenance
from cfdg_jax.report.groups import read_runs
from cfdg_jax.report.page import Saver, download, escape, figure, saver, table, template, write
from cfdg_jax.report.published import SOURCE, published
from cfdg_jax.report.runs import Run, runs_in
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

CSVS: dict[str, Callable[[Sequence[Run]], str]] = {
    "scores": csvs.scores,
    "seeds": csvs.seeds,
    "evaluations": csvs.evaluations,
}
"""Files beside the page."""


def build_report(
    run_dirs: Sequence[pathlib.Path | str], out: pathlib.Path | str | None = None, refresh: int = 0
) -> pathlib.Path:
    """Writes ``report.html`` with its pictures embedded, the same PNGs beside it, and the tables as .md and .csv.

    Args:
      run_dirs: Finished run folders of any methods and datasets, shown in this order, and folders of such.
      out: Folder to write to, made if missing; ``report`` inside the only run folder, or beside the first of several,
        if None. Earlier reports there are overwritten.
      refresh: Seconds after which a browser reads the page again; 0 for never.

    Returns:
      The path of ``report.html``.

    Raises:
      UserError: A run folder is missing, unfinished or corrupt, or `out` is a file.
    """
    folders = [run for folder in run_dirs for run in runs_in(folder)]
    runs, first = read_runs(folders), pathlib.Path(run_dirs[0]).resolve()
    out = pathlib.Path(out) if out else (first if len(run_dirs) == 1 else first.parent) / "report"
    require(out.is_dir() or not out.exists(), str(out), "is a file", "name a folder for the report")
    out.mkdir(parents=True, exist_ok=True)
    written = {name: content(runs) for name, content in CSVS.items()}
    scores, inside, save = tables.all_tables(runs), diagnostics.all_tables(runs), saver(out)
    sections = [_warnings(runs), *_curves(runs, written["evaluations"], save), *_scores(runs, scores, save)]
    sections += [*_diagnostics(runs, inside, save), *_rows(runs, save), *_seconds(runs, save)]
    sections += [*configs(runs), *provenance(runs), _definitions()]
    page = template().substitute(
        refresh=f'<meta http-equiv="refresh" content="{refresh}">' if refresh else "",
        title=escape(_title(runs)),
        lead=escape(_lead(runs, len(folders))),
        body="\n".join(sections),
    )
    write(out / "scores.md", "\n".join(tables.to_markdown(table) for table in [*scores, *inside]))
    for name, content in written.items():
        write(out / f"{name}.csv", content)
    write(out / "report.html", page)
    return out / "report.html"


def _title(runs: Sequence[Run]) -> str:
    methods = list(dict.fromkeys(run.label for run in runs))
    datasets = list(tables.by_dataset(runs))
    what = ", ".join(methods) if len(methods) < 5 else f"{len(methods)} methods"
    return f"{what} on {datasets[0] if len(datasets) == 1 else f'{len(datasets)} datasets'}"


def _lead(runs: Sequence[Run], folders: int) -> str:
    """How many folders, what they are shown as, seeds, and what they did; a folder may hold settings, or share one."""
    seeds, kinds = sorted({run.seeds for run in runs}), {
        (True, True): "offline pre-training, then online improvement",
        (True, False): "offline training only",
        (False, True): "online training from the first step, without pre-training",
    }  # fmt: skip
    each = f"{seeds[0]} seed{'s' if seeds != [1] else ''}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    counts = [f"{n} {word}{'s' if n > 1 else ''}" for n, word in ((folders, "run"), (len(runs), "setting"))]
    counts = counts if folders != len(runs) else counts[:1]
    done = dict.fromkeys(kinds[len(run.curve("offline")[0]) > 0, len(run.curve("online")[0]) > 0] for run in runs)
    return f"{', '.join(counts)}, {each}{' each' if len(runs) > 1 else ''}; {'; '.join(done)}."


def _warnings(runs: Sequence[Run]) -> str:
    notes = [f"{run.dataset}, {run.label}: {note}." for run in runs for note in run.notes]
    return "\n".join(f'<p class="warning">{escape(note)}</p>' for note in notes)


def _curves(runs: Sequence[Run], evaluations: str, save: Saver) -> Iterator[str]:
    yield "<h2>Learning curves</h2>"
    for dataset, group in tables.by_dataset(runs).items():
        caption = "Mean over seeds, 95 % bootstrap interval as a band, single seeds as faint lines."
        if any(run.finite.sum() < stats.MIN_SEEDS for run in group):
            caption += f" Fewer than {stats.MIN_SEEDS} seeds have no band."
        if any(len(run.refreshes()) for run in group):
            caption += " Short ticks at the bottom: the generator was refreshed."
        yield figure(save(f"curves {dataset}", plots.learning_curves(group), alt.curves(group)), caption)
    yield interactive.script()
    for number, (dataset, group) in enumerate(tables.by_dataset(runs).items()):
        caption = f"{dataset}: choose seeds and smooth below, click names to hide a method, drag to look closer, "
        caption += "double-click to go back."
        if published(dataset):
            caption += f" Grey names show published curves of {SOURCE} (4 seeds, every 100,000 steps)."
        yield figure(interactive.curves(group, f"curves-{number}"), caption)
    yield download("evaluations.csv", evaluations, "every evaluation of every seed")


def _scores(runs: Sequence[Run], every_table: Sequence[Table], save: Saver) -> Iterator[str]:
    yield "<h2>Scores</h2>"
    yield from map(table, every_table)
    for dataset, group in tables.by_dataset(runs).items():
        caption = f"{dataset}, last evaluation: a large dot per seed, a small dot per episode, mean and interval below."
        yield figure(save(f"seeds {dataset}", plots.seed_scores(group), alt.seeds(group)), caption)


def _rows(runs: Sequence[Run], save: Saver) -> Iterator[str]:
    shown = [run for run in runs if len(run.samples) > 1]
    if shown:
        yield "<h2>Where the rows lie</h2>"
    for run in shown:
        caption = (
            f"{run.dataset}, {run.label}: t-SNE of standardised transitions (observation, action, reward, next "
            "observation, terminal), all kinds embedded together. Only neighbourhoods mean something, not distances."
        )
        yield figure(save(f"rows {run.path.name} {run.label} {run.dataset}", plots.tsne(run), alt.rows(run)), caption)


def _diagnostics(runs: Sequence[Run], inside: Sequence[Table], save: Saver) -> Iterator[str]:
    if inside:
        yield "<h2>Inside the methods</h2>"
        yield from map(table, inside)
    for run in filter(diagnostics.stratified, runs):
        yield f"<h2>Who was treated conservatively: {escape(run.label)}</h2>"
        caption = (
            f"{run.dataset}. Scores by origin, medians with 10 % to 90 % bands, low is offline-like; marks that cross "
            "the origin; the energy network's loss, which without noise on the actions could fall to its labels' "
            "entropy; and what its guidance gains in Q."
        )
        image = save(f"stratification {run.path.name} {run.label}", diagnostics.stratification(run), alt.marks(run))
        yield figure(image, caption)
    for dataset, group in tables.by_dataset(runs).items():
        drawn = diagnostics.generator_quality(group)
        if drawn is not None:
            yield f"<h2>Quality of generated rows: {escape(dataset)}</h2>"
            caption = "At every refresh, means over seeds; every measure in units of the data (`augment.quality`)."
            yield figure(save(f"quality {dataset}", drawn, alt.quality(group)), caption)


def _seconds(runs: Sequence[Run], save: Saver) -> Iterator[str]:
    phases = plots.phase_seconds(runs)
    if phases:
        caption = "Wall-clock time of all seeds of a run together; XLA's compilation is apart from what it is for."
        yield "<h2>Seconds per phase</h2>"
        yield figure(save("seconds per phase", plots.seconds_per_phase(runs), alt.seconds(runs)), caption)
        lines = [(run.label, *(f"{taken[i]:.3f}" for taken in phases.values())) for i, run in enumerate(runs)]
        yield download("seconds-per-phase.csv", csvs.lines([("Method", *phases), *lines]), "these seconds")


def _definitions() -> str:
    terms = dict(tables.DEFINITIONS)
    for term, function in STATISTICS.items():
        terms[term] = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    entries = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f"<h2>What the numbers mean</h2><dl>{entries}</dl>"
