"""``cfdg-jax train``: a run, what it would be, and what its fields mean."""

from __future__ import annotations

import pathlib
import shlex
from typing import Any

import click

from cfdg_jax import catalog
from cfdg_jax.commands.options import (
    BEGUN_FOLDER,
    RUN_FOLDER,
    DatasetName,
    FieldPath,
    FieldValue,
    RunCommand,
    Text,
    method_option,
    preset_option,
    quiet_option,
    set_fields,
    vmap_option,
)
from cfdg_jax.errors import GROUPS, require
from cfdg_jax.process import starting
from cfdg_jax.tasks import has_picture
from cfdg_jax.training.progress import Interrupted

WRITTEN = "config.yaml, evaluations.jsonl, metrics.jsonl, checkpoints"


@click.command(cls=RunCommand, short_help="train many seeds at once")
@click.option("--dataset", type=DatasetName(), metavar="NAME", help='name or path; "" trains from scratch')
@method_option("agent", "base agent (cfdg-jax list agents)")
@method_option("augment", "generator of synthetic rows (cfdg-jax list augmenters)")
@method_option("mix", "where the rows of a batch come from (cfdg-jax list mixers)")
@method_option("stratify", "which rows are treated conservatively (cfdg-jax list stratifiers)")
@click.option("--seeds", type=FieldValue("seeds", int), metavar="N", help="seeds trained at once")
@vmap_option
@preset_option("paper")
@click.option("--out", type=Text("dir"), metavar="DIR", help="run folder, absent or empty")
@click.option("--resume", type=BEGUN_FOLDER, metavar="DIR", help="continue a run folder from its newest checkpoint")
@click.option(
    "--from-offline", type=RUN_FOLDER, metavar="DIR", help="start from the finished pre-training of another run"
)
@click.option("--show", is_flag=True, help="print the resolved config, with what differs from the preset, and stop")
@click.option(
    "--explain", type=FieldPath(), metavar="FIELD", help="say what a config field means, with its defaults, and stop"
)
@click.option("--dry-run", is_flag=True, help="read the data, print steps, memory and expected time, and stop")
@quiet_option
@click.option(
    "--share",
    type=Text(),
    metavar="I/N|auto",
    help="train part I of N of the seeds, on one of N machines; auto asks the scheduler",
)
@click.option("--deterministic", is_flag=True, help="deterministic kernels on GPU, slower")
def train(
    preset: str, out: str | None, resume: str | None, from_offline: str | None, show: bool, explain: str | None,
    dry_run: bool, quiet: bool, share: str | None, deterministic: bool, **fields: Any,
) -> None:  # fmt: skip
    """Train many seeds at once: pre-train on a dataset, improve by interaction."""
    given = set_fields(fields)
    if explain:
        _explain(explain, given)
        return
    with starting(deterministic):
        from cfdg_jax import grid
        from cfdg_jax.report.runs import runs_in
        from cfdg_jax.training import devices as machine
        from cfdg_jax.training.memory import TooLarge
        from cfdg_jax.training.progress import Progress
        from cfdg_jax.training.results import read_config
        from cfdg_jax.training.run import default_folder, train
        from cfdg_jax.training.untouched import refuse_used
    devices, groups = None, list["grid.Cell"]()
    if resume:
        devices = given.pop("devices", None)
        extra = [*given, *(["out"] if out else []), *(["share"] if share else [])]
        require(not extra, f"--{extra[0] if extra else ''}", "cannot change on --resume", "start a new run instead")
        folder = pathlib.Path(resume)
        config, groups = grid.begun_groups(folder, devices)
    else:
        config = resolve(preset, given)
        if show:
            _show(config, preset, given)
            return
        folder = pathlib.Path(out) if out else default_folder(config)
        if share:
            share = machine.part_of_cluster() if share == "auto" else share
            config, folder = grid.share(config, share), folder / f"share-{share.partition('/')[0]}"
    if dry_run:
        if not resume:
            refuse_used(folder)
        _dry_run(folder, config, from_offline, devices, groups)
        return
    try:
        if not groups:
            try:
                train(config, folder, resume=resume, offline_from=from_offline, devices=devices, progress=not quiet)
            except TooLarge as large:
                if config is None or from_offline:
                    raise
                groups = grid.in_groups(grid.Cell(config, folder), large, Progress(not quiet))
        grid.run_here(groups, not quiet)
    except (Interrupted, KeyboardInterrupt) as stop:
        begun = any((folder / name).is_file() for name in ("config.yaml", GROUPS))
        resume = f"continue with: cfdg-jax train --resume {shlex.quote(str(folder))}"
        said = str(stop), resume if begun else "run the same command again"
        raise Interrupted("; ".join(filter(None, said))) from None
    one = runs_in(groups[0].folder if groups else folder)[0]
    parts = f"{len(groups)} groups of seeds, each a run folder of its own" if groups else WRITTEN
    print(f"done: {folder}  ({parts})")
    video = " --video run.gif" if has_picture(read_config(one).env.task) else ""
    print(f"next: cfdg-jax report {folder}, or cfdg-jax evaluate {one}{video}")


def resolve(preset: str, given: dict[str, Any]) -> Any:
    """The config that the options describe: choices, then preset, then fields."""
    from cfdg_jax.presets import make_config

    return make_config(preset=preset, **given)


def _show(config: Any, preset: str, given: dict[str, Any]) -> None:
    from cfdg_jax.explain import marked_yaml

    choices = {name: value for name, value in given.items() if name in (*catalog.LISTS, "dataset", "env.task")}
    print(marked_yaml(config, resolve(preset, choices)), end="")


def _explain(path: str, given: dict[str, Any]) -> None:
    found = catalog.select(path, {choice: given.get(choice) for choice in catalog.LISTS})
    if len(found) > 1:
        print(catalog.listed(found))
        return
    with starting():
        from cfdg_jax.explain import explanation

    print(explanation(found[0], given))


def _dry_run(
    folder: pathlib.Path, config: Any, from_offline: str | None, devices: str | None, groups: list[Any]
) -> None:
    from cfdg_jax.dryrun import dry_run, so_far
    from cfdg_jax.training.results import read_config

    source = pathlib.Path(from_offline) if from_offline else None
    print(dry_run(read_config(folder, devices) if config is None else config, folder, source))
    for cell in groups:
        print(f"{'group':<13} {cell.shown}: {cell.folder}, {so_far(cell.folder) or 'not begun'}")
