"""``cfdg-jax report``, ``evaluate`` and ``export``: what is done with the folders of runs."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence

import click

from cfdg_jax.axis import Lane, words
from cfdg_jax.commands.options import RUN_FOLDER, FieldValue, Text
from cfdg_jax.errors import PATH_ERRORS, UserError
from cfdg_jax.process import render_offscreen, starting

WATCH = 30
"""Seconds until the page of unfinished runs is written again."""


@click.command(short_help="curves, tables and pictures of runs as one page")
@click.argument("runs", type=Text("dir"), nargs=-1, required=True, metavar="RUN_DIR...")
@click.option("--out", type=Text("dir"), metavar="DIR", help="folder for the page (default: beside the first run)")
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
@click.argument("run", type=RUN_FOLDER, metavar="RUN_DIR")
@click.option("--episodes", type=FieldValue("evaluate.episodes", int), metavar="N", help="of each seed")
@click.option(
    "--video", type=Text("file"), metavar="FILE", help="also film one episode of the first seed: .gif, .webp or .mp4"
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
    print(scores_table(found.lanes, scores))
    if video:
        print(f"video: {film(found, pathlib.Path(video))}")


def scores_table(lanes: Sequence[Lane], scores: dict) -> str:
    """One line for each seed, then one for all of each value of ``--vmap``: means over episodes and their spread.

    Lost seeds, whose scores are NaN, are named and left out of ``all``.
    """
    lost = [bool((returns != returns).any()) for returns in scores["return"]]
    groups: dict[str, list[int]] = {}
    for i, lane in enumerate(lanes):
        groups.setdefault(f"all at {words(lane.values)}" if lane.values else "all", []).append(i)
    wide = max(5, *(len(lane.name) for lane in lanes), *map(len, groups))
    lines = [f"{'seed':>{wide}} {'episodes':>8} {'return':>10} {'spread':>8} {'score':>7} {'success':>8} {'length':>7}"]
    for i, lane in enumerate(lanes):
        numbers = "lost in training: its parameters are not finite" if lost[i] else _numbers(scores, [i])
        lines.append(f"{lane.name:>{wide}} {numbers}")
    for name, index in groups.items():
        left = [i for i in index if not lost[i]]
        numbers = _numbers(scores, left) if left else "no seed is left"
        over = f"  over {len(left)} of {len(index)} seeds" if 0 < len(left) < len(index) else ""
        lines.append(f"{name:>{wide}} {numbers}{over}")
    return "\n".join(lines)


def _numbers(scores: dict, index: list[int]) -> str:
    returns, lengths, success = (scores[name][index] for name in ("return", "length", "success"))
    score = "-" if scores["normalized_score"] is None else f"{scores['normalized_score'][index].mean():.1f}"
    spread = f"{returns.size:>8} {returns.mean():>10.1f} {returns.std():>8.1f} {score:>7}"
    return f"{spread} {success.mean():>8.2f} {lengths.mean():>7.0f}"


@click.command(short_help="trained policies as plain arrays")
@click.argument("run", type=RUN_FOLDER, metavar="RUN_DIR")
@click.option("--out", type=Text("file"), required=True, metavar="FILE.npz", help="the file to write")
def export(run: str, out: str) -> None:
    """Write the trained policies of a run as plain arrays, which NumPy alone can act with."""
    with starting():
        from cfdg_jax.training.export import export
        from cfdg_jax.training.results import load_run

    print(f"written: {export(load_run(run), pathlib.Path(out))}")
