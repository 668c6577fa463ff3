"""The command line, ``cfdg-jax``: subcommands over the public functions, one-line errors, honest exit codes.

0 done; 2 wrong usage or bad input; 130 interrupted after a checkpoint; 1 anything else.
"""

from __future__ import annotations

import argparse
import errno
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cfdg_jax.errors import UserError, require
from cfdg_jax.process import starting
from cfdg_jax.training.progress import Interrupted

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATH_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip
"""What is wrong with a path that a user named."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s."""

    def error(self, message: str) -> NoReturn:
        raise UserError(self.prog, message, f"see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    try:
        arguments, rest = _parser().parse_known_args(argv)
        if "names" in arguments and not any(word.startswith("-") for word in rest):  # names behind an option
            arguments.names, rest = [*arguments.names, *rest], []
        if rest and not arguments.takes_fields:
            raise UserError(arguments.prog, f"unknown argument {rest[0]}", f"see {arguments.prog} --help")
        if arguments.takes_fields:
            arguments.fields = parse_fields(rest)
        return arguments.run(arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(f"interrupted; {str(stop) or 'run the same command again to continue'}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        return _os_error(error)


def _os_error(error: OSError) -> int:
    """One line for a file that cannot be read or written."""
    reason, name = error.strerror or " ".join(str(error).split()), error.filename
    if error.errno in DISK_ERRORS:
        place = f" while writing {name}" if name else ""
        print(f"error: disk full{place} ({reason}); free some space, what was complete is kept", file=sys.stderr)
        return 1
    print(f"error: {name}: {reason}" if name else f"error: {reason}", file=sys.stderr)
    return 2 if error.errno in PATH_ERRORS else 1


def parse_fields(rest: Sequence[str]) -> dict[str, str]:
    """``--agent.expectile 0.9 --offline.steps=100`` as ``{"agent.expectile": "0.9", "offline.steps": "100"}``."""
    fields, items = {}, list(rest)
    while items:
        flag = items.pop(0)
        require(
            flag.startswith("--") and len(flag) > 2,
            flag,
            "is no option",
            "config fields look like --agent.discount 0.99",
        )
        name, has_value, value = flag[2:].partition("=")
        if not has_value:
            require(bool(items), flag, "has no value", f"write {flag} VALUE")
            value = items.pop(0)
        fields[name.replace("-", "_")] = value
    return fields


def _parser() -> Parser:
    parser = Parser(prog="cfdg-jax", description="Offline-to-online reinforcement learning with diffusion generation.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, run: Callable, text: str, takes_fields: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run, takes_fields=takes_fields, prog=f"cfdg-jax {name}")
        return command

    demo = add("demo", _demo, "Pre-train, improve with and without generated rows, write a report.", takes_fields=True)
    demo.add_argument("--out", help="folder for the runs and the report (default runs/demo)")
    demo.add_argument("--preset", default="reduced", help="reduced (minutes) or smoke (seconds)")
    train = add(
        "train", _train, "Train many seeds at once; any config field is --dotted.path VALUE.", takes_fields=True
    )
    _train_arguments(train)
    sweep = add("sweep", _sweep, "Run every line of a yaml file, sharing pre-training, and report on all of them.")
    sweep.add_argument("file", metavar="FILE.yaml")
    sweep.add_argument("--out", help="folder for the runs and the report (default runs/<name of the file>)")
    sweep.add_argument("--quiet", action="store_true", help="no progress bars")
    sweep.add_argument("--dry-run", action="store_true", help="print every run's steps, memory and hours, and stop")
    sweep.add_argument("--rates", metavar="FILE", help="the benchmark's results that hours are estimated from")
    sample = add("sample", _sample, "Fit a generator to a dataset and write rows in D4RL's layout.", takes_fields=True)
    sample.add_argument("--dataset", required=True, help="offline rows")
    sample.add_argument("--online", help="a second dataset whose rows count as online ones, for generators of both")
    sample.add_argument("--augment", help="generator (default: the first that can be fitted to one dataset alone)")
    sample.add_argument("--rows", required=True, help="rows to generate")
    sample.add_argument("--out", required=True, metavar="FILE.hdf5")
    sample.add_argument("--preset", default="paper", help="paper, reduced or smoke: where values start from")
    sample.add_argument("--check", action="store_true", help="measure the rows and write FILE.hdf5.quality.json")
    sample.add_argument("--quiet", action="store_true", help="no progress bars")
    report = add("report", _report, "Write curves, tables and pictures of runs as one HTML page.")
    report.add_argument("runs", nargs="+", metavar="RUN_DIR")
    report.add_argument("--out", help="folder for the page (default: beside the first run)")
    bench = add("bench", _bench, "Measure throughput beside this machine's matrix-product rate.")
    bench.add_argument(
        "what", nargs="*", metavar="WHAT", help="offline agents online stratify generator env; default: all"
    )
    bench.add_argument("--out", help="json file to write (default benchmarks/results/<device>.json)")
    bench.add_argument("--quick", action="store_true", help="seconds instead of minutes; for checking that it runs")
    _data_arguments(add("data", _data, "List, describe, check, build and convert datasets."))
    return parser


def _train_arguments(train: argparse.ArgumentParser) -> None:
    train.add_argument("--dataset", help='dataset name or path; "" trains from scratch on --env.task')
    for name, text in {
        "agent": "base agent",
        "augment": "generator of synthetic rows",
        "stratify": "who is treated conservatively",
        "mix": "where the rows of a batch come from",
    }.items():
        train.add_argument(f"--{name}", help=text)
    train.add_argument("--seeds", help="seeds trained at once")
    train.add_argument("--preset", default="paper", help="paper, reduced or smoke: where values start from")
    train.add_argument("--out", help="run folder, absent or empty")
    train.add_argument("--resume", metavar="DIR", help="continue a run folder from its newest checkpoint")
    train.add_argument("--from-offline", metavar="DIR", help="start from the finished pre-training of another run")
    train.add_argument("--show", action="store_true", help="print the resolved config and stop")
    train.add_argument("--quiet", action="store_true", help="no progress bars")
    train.add_argument("--deterministic", action="store_true", help="deterministic kernels on GPU, slower")


def _data_arguments(data: argparse.ArgumentParser) -> None:
    data.add_argument("action", choices=("list", "info", "check", "build", "convert"))
    data.add_argument("names", nargs="*", metavar="NAME_OR_PATH", help="convert takes SRC DST")
    data.add_argument("--rows", help="build: rows of a local: dataset, up to 2000000")
    data.add_argument("--json", action="store_true", help="info, check: one json object a line")
    data.add_argument("--clip-actions", action="store_true", help="convert: clip actions to [-1, 1], not refuse them")


def _version() -> str:
    from importlib import metadata

    return f"cfdg-jax {metadata.version('cfdg-jax')}"


def _train(arguments: argparse.Namespace) -> int:
    with starting(arguments.deterministic):
        from cfdg_jax.fields import to_yaml
        from cfdg_jax.training.run import default_folder, train

    if arguments.resume:
        given = [
            name
            for name in ("dataset", "agent", "augment", "stratify", "mix", "seeds", "out")
            if getattr(arguments, name)
        ]
        extra = given + list(arguments.fields)
        require(not extra, f"--{extra[0] if extra else ''}", "cannot change on --resume", "start a new run instead")
        folder, config = pathlib.Path(arguments.resume), None
    else:
        config = resolve(arguments)
        if arguments.show:
            print(to_yaml(config), end="")
            return 0
        folder = pathlib.Path(arguments.out) if arguments.out else default_folder(config)
    try:
        run = train(
            config, folder, resume=arguments.resume, offline_from=arguments.from_offline, progress=not arguments.quiet
        )
    except Interrupted:
        raise Interrupted(f"continue with: cfdg-jax train --resume {folder}") from None
    print(f"done: {run.folder}  (report: cfdg-jax report {run.folder})")
    return 0


def resolve(arguments: argparse.Namespace):
    """The config that the train command's flags describe: choices, then preset, then dotted fields."""
    from cfdg_jax.config import REGISTRIES
    from cfdg_jax.presets import make_config

    given = {name: getattr(arguments, name) for name in ("dataset", *REGISTRIES, "seeds")}
    given = {name: value for name, value in given.items() if value is not None}
    return make_config(preset=arguments.preset, **given, **arguments.fields)


def _demo(arguments: argparse.Namespace) -> int:
    with starting():
        from cfdg_jax.demo import demo

    print(demo(pathlib.Path(arguments.out or "runs/demo"), arguments.preset, arguments.fields))
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    with starting():
        from cfdg_jax.fields import coerce
        from cfdg_jax.training.progress import Progress
        from cfdg_jax.upsample import check, default_generator, job_config, prepare, sample

    progress, out = Progress(not arguments.quiet), pathlib.Path(arguments.out)
    rows, generator = coerce(int, arguments.rows, "rows"), arguments.augment or default_generator()
    config = job_config(arguments.dataset, generator, arguments.online, arguments.preset, arguments.fields)
    job = prepare(config, arguments.online, rows, out, progress, checked=arguments.check)
    print(f"written: {sample(job, progress)}  ({rows:,} transitions)")
    if arguments.check:
        for name, value in check(job).items():
            print(f"{name:<48} {value:.4g}")
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    with starting():
        from cfdg_jax.sweep import read_sweep, sweep

    if arguments.dry_run:
        from cfdg_jax.forecast import read_rates, table

        print(table(read_sweep(arguments.file), read_rates(arguments.rates)))
        return 0
    path = pathlib.Path(arguments.file)
    out = pathlib.Path(arguments.out) if arguments.out else pathlib.Path("runs") / path.stem
    print(f"report: {sweep(read_sweep(path), out, progress=not arguments.quiet)}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    with starting(compiles=False):
        from cfdg_jax.report.build import build_report

    try:
        page = build_report(
            [pathlib.Path(run) for run in arguments.runs], arguments.out and pathlib.Path(arguments.out)
        )
    except OSError as error:
        if error.errno not in PATH_ERRORS:
            raise
        remedy = "name a folder that may be written with --out"
        raise UserError(str(error.filename), f"cannot be written ({error.strerror})", remedy) from None
    print(page)
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    with starting():
        from cfdg_jax.bench import bench

    bench(arguments.what, arguments.out and pathlib.Path(arguments.out), quick=arguments.quick)
    return 0


def _data(arguments: argparse.Namespace) -> int:
    with starting(compiles=False):
        from cfdg_jax.data import commands, doctor
        from cfdg_jax.data.convert import convert
        from cfdg_jax.fields import coerce

    wanted = {"list": 0, "info": 1, "check": 1, "build": 1, "convert": 2}[arguments.action]
    names = arguments.names
    require(
        len(names) == wanted,
        f"cfdg-jax data {arguments.action}",
        f"takes {wanted} name{'s' * (wanted != 1)}, got {len(names)}",
        "see cfdg-jax data --help",
    )
    action, options = arguments.action, dict[str, Any]()
    for flag, actions in (("clip_actions", ("convert",)), ("rows", ("build",)), ("json", ("info", "check"))):
        value, shown = getattr(arguments, flag), f"--{flag.replace('_', '-')}"
        require(not value or action in actions, shown, f"is of {' and '.join(actions)} alone", "leave it out")
        options |= {flag: value} if value else {}
    if "rows" in options:
        options["rows"] = coerce(int, options["rows"], "rows")
    if action == "convert":
        text, code = convert(*names, **options), 0
    elif action in ("info", "check"):
        text, code = getattr(doctor, action)(*names, as_json="json" in options)
    else:
        text, code = getattr(commands, f"{action}_text")(*names, **options), 0
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
