"""``cfdg-jax report``, ``evaluate`` and ``export``: what is done with the folders of runs."""

from __future__ import annotations

import pathlib
import time

import click

from cfdg_jax.commands.options import FieldValue, RunFolder, Text
from cfdg_jax.errors import PATH_ERRORS, UserError
from cfdg_jax.process import render_offscreen, starting

WATCH = 30
"""Seconds between two pages of runs that go on."""


@click.command(short_help="curves, tables and pictures of runs as one page")
@click.argument("runs", nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--out", type=Text(), metavar="DIR", help="folder for the page (default: beside the first run)")
@click.option("--watch", is_flag=True, help="write it again every half minute until all runs are done")
def report(runs: tuple[str, ...], out: str | None, watch: bool) -> None:
    """Write curves, tables and pictures of runs as one HTML page."""
    with starting(compiles=False):
        from cfdg_jax.report.build import build_report
        from cfdg_jax.report.runs import going_on

    folders, target = [pathlib.Path(run) for run in runs], pathlib.Path(out) if out else None
    try:
        while watch and going_on(folders):
            print(build_report(folders, target, refresh=WATCH), flush=True)
            time.sleep(WATCH)
        page = build_report(folders, target)
    except OSError as error:
        if error.errno not in PATH_ERRORS:
            raise
        remedy = "name a folder that may be written with --out"
        raise UserError(str(error.filename), f"cannot be written ({error.strerror})", remedy) from None
    print(page)


@click.command(short_help="scores of a trained run, and a video")
@click.argument("run", type=RunFolder(), metavar="RUN_DIR")
@click.option("--episodes", type=FieldValue("evaluate.episodes", int), metavar="N", help="of each seed")
@click.option(
    "--video", type=Text(), metavar="FILE", help="also film one episode of the first seed: .gif, .webp or .mp4"
)
def evaluate(run: str, episodes: str | None, video: str | None) -> None:
    """Evaluate the newest checkpoint of a run on fresh environments, without its data."""
    if video:
        render_offscreen()
    with starting():
        from cfdg_jax.training.results import evaluate, load_run
        from cfdg_jax.training.video import film, require_video
        from cfdg_jax.values import coerce

    found = load_run(run)
    if video:
        require_video(found, pathlib.Path(video))
    scores = evaluate(found, None if episodes is None else coerce(int, episodes, "evaluate.episodes"))
    print(scores_table([lane.name for lane in found.lanes], scores))
    if video:
        print(f"video: {film(found, pathlib.Path(video))}")


def scores_table(seeds: list[str], scores: dict) -> str:
    """One line for each seed and one for all: means over episodes and their spread."""
    wide = max(5, *map(len, seeds))
    lines = [f"{'seed':>{wide}} {'episodes':>8} {'return':>10} {'spread':>8} {'score':>7} {'success':>8} {'length':>7}"]
    returns, normalized, lengths = scores["return"], scores["normalized_score"], scores["length"]
    for i in [*range(len(returns)), slice(None)]:
        name = "all" if isinstance(i, slice) else seeds[i]
        score = "-" if normalized is None else f"{normalized[i].mean():.1f}"
        numbers = f"{returns[i].mean():>10.1f} {returns[i].std():>8.1f} {score:>7}"
        success = f"{scores['success'][i].mean():>8.2f} {lengths[i].mean():>7.0f}"
        lines.append(f"{name:>{wide}} {returns[i].size:>8} {numbers} {success}")
    return "\n".join(lines)


@click.command(short_help="trained policies as plain arrays")
@click.argument("run", type=RunFolder(), metavar="RUN_DIR")
@click.option("--out", type=Text(), required=True, metavar="FILE.npz", help="the file to write")
def export(run: str, out: str) -> None:
    """Write the trained policies of a run as plain arrays, which NumPy alone can act with."""
    with starting():
        from cfdg_jax.training.export import export
        from cfdg_jax.training.results import load_run

    print(f"written: {export(load_run(run), pathlib.Path(out))}")
