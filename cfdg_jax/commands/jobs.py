"""``cfdg-jax demo``, ``sweep``, ``sample`` and ``bench``: longer jobs made of runs, fits or measurements."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Any, Literal

import click

from cfdg_jax.commands.options import (
    YAML_FILE,
    DatasetName,
    FieldValue,
    MethodNames,
    RunCommand,
    Text,
    method_option,
    preset_option,
    quiet_option,
    set_fields,
)
from cfdg_jax.errors import require
from cfdg_jax.process import starting


@click.command(cls=RunCommand, short_help="the tour: pre-train, improve, report")
@click.option(
    "--out",
    type=Text("dir"),
    metavar="DIR",
    default="runs/demo",
    show_default=True,
    help="folder of the runs and the report",
)
@preset_option("reduced")
def demo(out: str, preset: str, **fields: Any) -> None:
    """Pre-train, improve with and without generated rows, write a report."""
    with starting():
        from cfdg_jax.demo import demo

    print(demo(pathlib.Path(out), preset, set_fields(fields)))


@click.command(short_help="many runs from one yaml file, one report")
@click.argument("file", type=YAML_FILE, metavar="FILE.yaml")
@click.option("--out", type=Text("dir"), metavar="DIR", help="folder of runs and report (default runs/FILE)")
@quiet_option
@click.option("--dry-run", is_flag=True, help="print every run's steps, memory and hours, and stop")
@click.option("--rates", type=Text("file"), metavar="FILE", help="the benchmark's results, for the hours")
@click.option("--on", type=click.Choice(["here", "ray"]), default="here", show_default=True, help="where runs are made")
@click.option("--group", type=FieldValue("--group", int), metavar="N", help="most seeds of one run (default: all)")
@click.option("--cpus", type=FieldValue("--cpus", float), metavar="X", help="processors of a run on a cluster (1)")
@click.option("--gpus", type=FieldValue("--gpus", float), metavar="X", help="GPUs of a run on a cluster, such as 0.5")
def sweep(
    file: str, out: str | None, quiet: bool, dry_run: bool, rates: str | None, on: Literal["here", "ray"],
    group: str | None, cpus: str | None, gpus: str | None,
) -> None:  # fmt: skip
    """Run every line of a yaml file, sharing pre-training, and report on all of them."""
    with starting():
        from cfdg_jax.grid import cells, on_ray_in_words, require_devices, require_resources
        from cfdg_jax.sweep import read_sweep, sweep

    resources = {"num_cpus": float(cpus or 1), "num_gpus": float(gpus or 0)}
    for option, value in {"--cpus": cpus, "--gpus": gpus}.items():
        require(on == "ray" or value is None, option, "is of a run on a cluster", "add --on ray, or leave it out")
    path = pathlib.Path(file)
    folder = pathlib.Path(out) if out else pathlib.Path("runs") / path.stem
    if dry_run:
        from cfdg_jax.forecast import read_rates, table

        made = cells(read_sweep(path), folder, int(group or 0))
        print(table([cell.config for cell in made], read_rates(rates)))
        if on == "here":
            require_devices(made)
        else:
            require_resources(made, resources)
            print(on_ray_in_words(made, resources))
        return
    report = sweep(read_sweep(path), folder, progress=not quiet, on=on, group=int(group or 0), resources=resources)
    print(f"report: {report}")


@click.command(cls=RunCommand, short_help="upsample a dataset")
@click.option("--dataset", type=DatasetName(), metavar="NAME", required=True, help="offline rows")
@click.option("--online", type=Text(), metavar="NAME", help="a second dataset, whose rows count as online ones")
@method_option("augment", "generator (default: the first that can be fitted to one dataset alone)")
@click.option("--rows", type=FieldValue("rows", int), metavar="N", required=True, help="rows to generate")
@click.option("--out", type=Text("file"), required=True, metavar="FILE.hdf5", help="the file to write")
@preset_option("paper")
@click.option("--check", is_flag=True, help="measure the rows and write FILE.hdf5.quality.json")
@quiet_option
def sample(
    dataset: str, online: str | None, augment: str | None, rows: str, out: str, preset: str, check: bool, quiet: bool,
    **fields: Any,
) -> None:  # fmt: skip
    """Fit a generator to a dataset and write rows in D4RL's layout."""
    with starting():
        from cfdg_jax import upsample
        from cfdg_jax.training.progress import Progress
        from cfdg_jax.values import coerce

    progress, count = Progress(not quiet), coerce(int, rows, "rows")
    generator = augment or upsample.default_generator()
    config = upsample.job_config(dataset, generator, online, preset, set_fields(fields))
    job = upsample.prepare(config, online, count, pathlib.Path(out), progress, checked=check)
    print(f"written: {upsample.sample(job, progress)}  ({count:,} transitions)")
    if check:
        for name, value in upsample.check(job).items():
            print(f"{name:<48} {value:.4g}")


@click.command(short_help="throughput of this machine")
@click.argument("what", nargs=-1, metavar="[WHAT]...")
@click.option(
    "--out", "--json", "out", type=Text("file"), metavar="FILE",
    help="json file of the results, which keeps its other parts (default benchmarks/results/bench-DEVICE.json)",
)  # fmt: skip
@click.option("--quick", is_flag=True, help="a short and crude measurement, to see that it runs")
@click.option(
    "--agent", "agents", type=MethodNames("agent"), multiple=True, metavar="NAME,NAME,...",
    help="measure these agents only; WHAT is then agents, kernels or both (the default)",
)  # fmt: skip
@click.option(
    "--against", type=click.Choice(["torch"]), help="only the same updates in another library, and the ratios"
)
def bench(
    what: tuple[str, ...], out: str | None, quick: bool, agents: tuple[tuple[str, ...], ...], against: str | None
) -> None:
    """Measure how fast this machine trains, beside its rate of matrix products.

    WHAT names the parts to measure, all by default:

    \b
    offline    updates/s of the first agent, by number of seeds
    agents     updates/s of every agent, and seconds to compile
    online     environment steps/s of a whole run
    stratify   the same with each stratifier
    generator  fit steps/s and generated rows/s
    env        steps/s of environments alone, by number of copies
    scaling    updates/s by seeds, width, batch, updates in a call and devices
    kernels    what every compiled step launches, computes and holds; not timed
    """
    if against:
        script = pathlib.Path("benchmarks", f"against_{against}.py")
        require(script.is_file(), "--against", f"{script} is not in this folder", "run it in a checkout of the project")
        given = [
            name for name, value in {"WHAT": what, "--out": out, "--quick": quick, "--agent": agents}.items() if value
        ]
        remedy = f"its own options: python {script} --help"
        require(not given, "--against", f"takes no {given[0] if given else ''}", remedy)
        click.get_current_context().exit(subprocess.run([sys.executable, script], check=False).returncode)
    with starting():
        from cfdg_jax.bench.measure import bench

    chosen = [name for names in agents for name in names]
    bench(list(what), pathlib.Path(out) if out else None, quick=quick, agents=chosen)
