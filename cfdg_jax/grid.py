"""Where the runs of a sweep are made: one after another in this process, or as tasks of a Ray cluster.

A cell is one run: a dataset, a method, a group of seeds. Cells with the same pre-training make it once. What is
finished is kept. A cell that was cut off goes on from its checkpoint, on whichever machine it comes to: the machines of
a cluster share the folder of the sweep. A cell that memory does not hold is made in groups of its seeds, cells in its
folder; ``groups.yaml`` there keeps their size, so that it goes on with the same ones however much memory there is then.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from cfdg_jax.config import REGISTRIES, TrainConfig, named_choice
from cfdg_jax.errors import GROUPS, UserError, require
from cfdg_jax.fields import config_hash, pre_training_hash, recorded, to_yaml
from cfdg_jax.training.devices import mesh_of
from cfdg_jax.training.logging import write_atomic
from cfdg_jax.training.memory import TooLarge
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.training.results import Run, load_run, read_config
from cfdg_jax.training.run import folder_name, train

TRIES = 3
"""How often a cell whose worker was lost is begun again."""
POLL = 0.2
"""Seconds between two looks at whether a signal has arrived."""
ANSWER = 10.0
"""Seconds within which a cluster must answer."""
STOPPING = 120.0
"""Seconds that a cancelled cell has to write its checkpoint."""


class Cell(NamedTuple):
    """One run of a sweep, and the folder it is kept in."""

    config: TrainConfig
    folder: pathlib.Path

    @property
    def shown(self) -> str:
        """For people."""
        config, last = self.config, self.config.first_seed + self.config.seeds - 1
        seeds = f"seed {last}" if config.seeds == 1 else f"seeds {config.first_seed} to {last}"
        return f"{config.name} on {config.dataset or config.env.task}, {seeds}"


def cells(configs: Sequence[TrainConfig], out: pathlib.Path, group: int = 0) -> list[Cell]:
    """The cells of `configs` under `out`, of at most `group` seeds each; 0: of all seeds of a config.

    Raises:
      UserError: for a negative `group`.
    """
    require(group >= 0, "--group", f"is {group}", "must be at least 1, or 0 for all seeds together")
    return [Cell(part, out / _folder_name(part)) for config in configs for part in _groups(config, group)]


def _groups(config: TrainConfig, group: int) -> Iterator[TrainConfig]:
    for start in range(0, config.seeds, group or config.seeds):
        seeds = min(group or config.seeds, config.seeds - start)
        yield dataclasses.replace(config, first_seed=config.first_seed + start, seeds=seeds)


def share(config: TrainConfig, part: str) -> TrainConfig:
    """What one of several processes trains of a run: `part` ``INDEX/COUNT`` of its seeds, from ``0/COUNT``.

    Raises:
      UserError: if that is no part, or `COUNT` does not divide the seeds.
    """
    index, _, count = part.partition("/")
    known = index.isdecimal() and count.isdecimal() and int(index) < int(count)
    require(known, "--share", f"is '{part}'", "must be INDEX/COUNT, the first being 0/COUNT, or auto")
    remedy = f"make it a multiple of {count}"
    require(config.seeds % int(count) == 0, "seeds", f"is {config.seeds} for {count} shares", remedy)
    return list(_groups(config, config.seeds // int(count)))[int(index)]


def in_groups(cell: Cell, large: TooLarge, progress: Progress) -> list[Cell]:
    """The groups of seeds of a run that does not fit, noted in its folder.

    Raises:
      TooLarge: `large`, if no group would fit or the run has begun as one.
    """
    if not large.group or (cell.folder / "config.yaml").exists():
        raise large
    progress.say(f"memory: {large.groups}")
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(cell.folder / GROUPS, f"group: {large.group}\n{to_yaml(cell.config)}")
    return cells([cell.config], cell.folder, large.group)


def begun_groups(folder: pathlib.Path, devices: str | None = None) -> tuple[TrainConfig | None, list[Cell]]:
    """The run that `in_groups` has parted in `folder`, to be continued on `devices`, and its groups; none: (None, []).

    Raises:
      UserError: if the note in the folder is damaged, with what is wrong and what it must hold.
    """
    path = folder / GROUPS
    if not path.exists():
        return None, []
    first, _, rest = path.read_bytes().partition(b"\n")
    known = re.fullmatch(rb"group: ([1-9]\d*)\s*", first)
    if known is None:
        found, size = first.decode(errors="replace")[:40], "must be `group: N`, the most seeds of a group"
        raise UserError(str(path), f"its first line is '{found}'", f"{size}; restore it as the run wrote it")
    config, group = dataclasses.replace(recorded(rest, str(path)), devices=devices or "auto"), int(known[1])
    made = cells([config], folder, group)
    others = {each.parent for each in folder.glob("*/config.yaml")} - {cell.folder for cell in made}
    what = f"groups of {group} seeds are not those in the folder"
    require(not others, str(path), what, "restore it as the run wrote it")
    return config, made


def require_devices(made: Sequence[Cell]) -> None:
    """Refuses devices that are not here or cannot share the lanes of a cell; one that has begun keeps its own.

    Raises:
      UserError: for the first such cell.
    """
    for cell in made:
        if not any((cell.folder / name).is_file() for name in ("config.yaml", GROUPS)):
            mesh_of(cell.config)


def _folder_name(config: TrainConfig) -> str:
    return folder_name(f"{config.dataset or config.env.task}-{config.name}", config_hash(config)[:6])


def run_or_continue(
    folder: pathlib.Path, config: TrainConfig, offline_from: pathlib.Path | None = None, progress: bool = True
) -> Run:
    """The finished run of `config` in `folder`: read back, continued, or made.

    Raises:
      UserError: if `folder` holds a run of other settings.
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
    """
    if not (folder / "config.yaml").is_file():
        return train(config, folder, offline_from=offline_from, progress=progress)
    found = read_config(folder)
    asked = dataclasses.replace(config, env=found.env, devices=found.devices)
    require(found == asked, str(folder), "holds a run of other settings", "name another --out")
    run = load_run(folder)
    return run if run.summary.get("status") == "done" else train(resume=folder, progress=progress)


def run_here(made: Sequence[Cell], progress: bool, pre_trained: dict[str, pathlib.Path] | None = None) -> None:
    """Makes the cells one after the other; the first of those with the same pre-training makes it.

    Args:
      made: The cells; one that memory does not hold is made in groups of its seeds.
      progress: Whether to show it.
      pre_trained: Folders of runs with finished pre-training by its hash; those made here join them.

    Raises:
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
      UserError: if a folder holds a run of other settings, one seed is too large, or devices are not here.
    """
    require_devices(made)
    known, bars = {} if pre_trained is None else pre_trained, Progress(progress)
    for number, cell in enumerate(made, 1):
        bars.say(f"[{number}/{len(made)}] {cell.shown}: {cell.folder}")
        key = pre_training_hash(cell.config)
        _, groups = begun_groups(cell.folder, cell.config.devices)
        if not groups:
            try:
                run_or_continue(cell.folder, cell.config, known.get(key), progress)
            except TooLarge as large:
                groups = in_groups(cell, large, bars)
        if groups:
            run_here(groups, progress, known)
        elif cell.config.offline.steps > 0:
            known.setdefault(key, cell.folder)


def run_on_ray(made: Sequence[Cell], progress: bool, resources: Mapping[str, float]) -> None:
    """Makes each cell as one task of a Ray cluster: of the one that RAY_ADDRESS names, or one on this machine.

    Pre-training that several cells share is a task before them. A cell whose worker is lost is begun again elsewhere,
    `TRIES` times, and goes on from its checkpoint.

    Args:
      made: The cells; all machines must see their folders.
      progress: Whether to show how far the sweep is.
      resources: What a task takes of its machine: Ray's ``num_cpus`` and ``num_gpus``.

    Raises:
      Interrupted: on SIGINT or SIGTERM, after the cells under way have written a checkpoint.
      UserError: if Ray or its cluster is missing, or a cell failed; the others are finished first.
    """
    require_resources(made, resources)
    ray = _ray()
    task = ray.remote(max_retries=TRIES, **resources)(_cell_of_a_task)
    sources = {key: Cell(config, made[0].folder.parent / _folder_name(config)) for key, config in _shared(made)}
    before = {key: task.remote(cell.config, cell.folder, None) for key, cell in sources.items()}
    names = {before[key]: cell.shown for key, cell in sources.items()}
    for cell in made:
        key = pre_training_hash(cell.config)
        source = sources[key].folder if key in sources else None
        names[task.remote(cell.config, cell.folder, source, *([before[key]] if source else []))] = cell.shown
    _wait(ray, names, progress)


def require_resources(made: Sequence[Cell], resources: Mapping[str, float]) -> None:
    """Refuses what no task can be given: parts of several GPUs, fewer than its devices, more than this machine has.

    A cluster elsewhere may grow, so that there any number is asked for.

    Raises:
      UserError: for the first of them.
    """
    ray = sys.modules.get("ray")  # connected by a script of the user's
    local = "RAY_ADDRESS" not in os.environ and not (ray and ray.is_initialized())
    most = {"num_cpus": os.cpu_count() or 1} if local else {}
    if local and resources.get("num_gpus"):  # JAX looks for them, and warns when Ray forks after that
        most["num_gpus"] = len(_gpus())
    for name, value in resources.items():
        option = f"--{name.removeprefix('num_')}"
        require(value >= 0, option, f"is {value:g}", "must be at least 0")
        require(value <= 1 or value == int(value), option, f"is {value:g}", "must be whole above 1")
        here = most.get(name, value)
        remedy = "lower it, or name a cluster with RAY_ADDRESS"
        require(value <= here, option, f"is {value:g} and this machine has {here}", remedy)
    given = max(resources.values())
    for devices in (cell.config.devices for cell in made if cell.config.devices.isdecimal()):
        remedy = f"give it as many with --cpus {devices} or --gpus {devices}"
        require(int(devices) <= max(given, 1), "devices", f"is {devices} and a task is given {given:g}", remedy)


def _gpus() -> list[Any]:
    try:
        return jax.local_devices(backend="gpu")
    except RuntimeError:
        return []


def on_ray_in_words(made: Sequence[Cell], resources: Mapping[str, float]) -> str:
    """What `run_on_ray` would ask of a cluster."""
    shared, where = len(list(_shared(made))), os.environ.get("RAY_ADDRESS", "this machine (RAY_ADDRESS names no other)")
    given = {name: value for name, value in resources.items() if value} or {"cpus": 0}
    takes = ", ".join(f"{value:g} {name.removeprefix('num_')}" for name, value in given.items())
    before = f", after {shared} of pre-training that several share" if shared else ""
    return f"{len(made)} tasks of {takes} on {where}{before}; a task whose worker is lost is begun again {TRIES} times"


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("--on ray", "ray is not installed", "pip install 'cfdg-jax[ray]'") from None
    if not ray.is_initialized():
        _require_answer(os.environ.get("RAY_ADDRESS", ""))
        ray.init(log_to_driver=False, include_dashboard=False)
    return ray


def _require_answer(address: str) -> None:
    """Refuses a ``HOST:PORT`` where nothing answers: Ray would ask again and again, deaf to signals."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # none, or one of Ray's words
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER).close()
    except OSError as error:
        problem = f"is {address}, where nothing answers ({error})"
        raise UserError("RAY_ADDRESS", problem, "start the cluster, or unset it") from None


def _shared(made: Sequence[Cell]) -> Iterator[tuple[str, TrainConfig]]:
    """The pre-training that several cells share, as runs that end with it."""
    keys = [pre_training_hash(cell.config) for cell in made]
    for key in dict.fromkeys(keys):
        config = made[keys.index(key)].config
        if keys.count(key) > 1 and config.offline.steps > 0:
            plain = {field: named_choice(field, next(iter(REGISTRIES[field]))) for field in ("augment", "stratify")}
            online = dataclasses.replace(config.online, steps=0)
            yield key, dataclasses.replace(config, **plain, online=online, label="pre-training")


def _cell_of_a_task(config: TrainConfig, folder: pathlib.Path, source: pathlib.Path | None, *after: None) -> None:
    """What a worker does, once the tasks `after` which it comes are done."""
    from cfdg_jax import process

    process.setup()
    before = begun_groups(source)[1] or [Cell(config, source)] if source else []
    run_here([Cell(config, folder)], False, {pre_training_hash(cell.config): cell.folder for cell in before})


def _wait(ray: Any, names: dict[Any, str], progress: bool) -> None:
    waiting, failures = list(names), {}
    bars = Progress(progress)
    with Interrupts().watching() as interrupts, bars.bar("cells", len(names), 0, "cell") as bar:
        while waiting:
            done, waiting = ray.wait(waiting, timeout=POLL)
            for task in done:
                try:
                    ray.get(task)
                    bars.say(f"done: {names[task]}")
                except ray.exceptions.RayError as error:
                    failures[names[task]] = error
                bar.update(1)
            if waiting and interrupts.requested:
                for task in waiting:
                    ray.cancel(task)
                ray.wait(waiting, num_returns=len(waiting), timeout=STOPPING)
                raise Interrupted
    for name, failed in failures.items():
        cause = getattr(failed, "cause", None) or failed
        last = str(cause).strip().splitlines()[-1]
        others = f"; {len(failures) - 1} more failed" if len(failures) > 1 else ""
        raise UserError(name, f"failed: {last}{others}", "the others are done; the same command tries it again")
