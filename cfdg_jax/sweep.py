"""``cfdg-jax sweep FILE.yaml``: many runs as one command, pre-training shared, one report at the end.

    preset: reduced                                # where all values start from
    fields: {seeds: 3, agent.hidden: [128, 128]}   # for all runs; any choice or dotted field
    over: {dataset: [local:hopper-medium-v0]}      # every combination of these ...
    runs:                                          # ... with every one of these
      - {agent: NAME}
      - {agent: NAME, augment: NAME, label: with generated rows}

A field that a run's choices do not have, such as ``augment.steps`` without a generator, may stand under ``fields``: it
is used where it exists. Runs with the same pre-training make it once. What is finished is kept: the same command
continues.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cfdg_jax.config import REGISTRIES, TrainConfig
from cfdg_jax.errors import UserError, nearest, require
from cfdg_jax.fields import config_hash, leaf_paths, to_dict
from cfdg_jax.presets import make_config
from cfdg_jax.report.build import build_report
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.results import Run, load_run, read_config
from cfdg_jax.training.run import folder_name, train

KEYS = ("preset", "fields", "over", "runs")
NOT_PRE_TRAINING = ("augment", "stratify", "online", "refresh", "label", "preset", "checkpoint", "log")
"""Parts of a config that the offline phase does not depend on."""


def read_sweep(path: str | os.PathLike) -> list[TrainConfig]:
    """The configs that a sweep file describes, in its order.

    Raises:
      UserError: if the file is missing or no such mapping, or a name, field or value in it is wrong.
    """
    path = pathlib.Path(path)
    require(path.is_file(), str(path), "does not exist", "name a yaml file")
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(str(path), f"is not valid yaml in UTF-8 ({error})", "see docs/use.md for the layout") from None
    return expand(plain, str(path))


def expand(plain: Any, path: str) -> list[TrainConfig]:
    """The configs of a sweep as plain values; `path` names it in errors.

    Raises:
      UserError: if it is no such mapping, or a name, field or value in it is wrong.
    """
    require(isinstance(plain, dict), path, "is no mapping", f"give it the keys {', '.join(KEYS)}")
    for key in plain:
        require(key in KEYS, f"{path}: {key}", "is unknown", nearest(str(key), KEYS))
    preset, fields, over = plain.get("preset", "reduced"), plain.get("fields") or {}, plain.get("over") or {}
    runs = plain.get("runs") or [{}]
    for name, value, kind in (("fields", fields, dict), ("over", over, dict), ("runs", runs, list)):
        require(isinstance(value, kind), f"{path}: {name}", f"is {value!r}", f"must be a {kind.__name__}")
    for number, run in enumerate(runs, 1):
        found = f"is {run!r}"
        require(isinstance(run, dict), f"{path}: run {number}", found, "must hold fields, such as {agent: NAME}")
    for name, values in over.items():
        require(isinstance(values, list) and bool(values), f"{path}: over.{name}", f"is {values!r}", "must be a list")
    combinations = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    configs: list[TrainConfig] = []
    for crossed, run in itertools.product(combinations, runs):
        try:
            config = _config(fields, crossed | run, preset)
        except UserError as error:
            raise UserError(f"{path}: {crossed | run}: {error.field}", error.problem, error.remedy) from None
        require(config not in configs, f"{path}: {crossed | run}", "is listed twice", "remove one")
        configs.append(config)
    return configs


def _config(fields: Mapping[str, Any], own: Mapping[str, Any], preset: str) -> TrainConfig:
    """One run's config; of the common `fields` those of choices made otherwise are left out."""
    require("preset" not in {**fields, **own}, "preset", "is no field", "write it at the top of the file")
    choices = {name: value for name, value in {**fields, **own}.items() if name in (*REGISTRIES, "dataset", "env.task")}
    known = leaf_paths(make_config(preset=preset, **choices))
    of_some_choice = {
        f"{field}.{option.name}"
        for field, entries in REGISTRIES.items()
        for entry in entries.values()
        for option in dataclasses.fields(entry.config)
    }
    common = {name: value for name, value in fields.items() if name in known or name not in of_some_choice}
    return make_config(preset=preset, **{**common, **own})


def sweep(configs: Sequence[TrainConfig], out: str | os.PathLike, progress: bool = True) -> pathlib.Path:
    """Runs `configs` one after the other, each in a folder of its own under `out`, and writes one report.

    Returns:
      The report's path.

    Raises:
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
      UserError: if `out` holds runs of other settings.
    """
    out, bars = pathlib.Path(out), Progress(progress)
    pre_trained: dict[str, pathlib.Path] = {}
    folders = []
    for number, config in enumerate(configs, 1):
        folder = out / _folder_name(config)
        bars.say(f"[{number}/{len(configs)}] {config.name} on {config.dataset or config.env.task}: {folder}")
        key = pre_training_hash(config)
        run_or_continue(folder, config, pre_trained.get(key), progress)
        if config.offline.steps > 0:
            pre_trained.setdefault(key, folder)
        folders.append(folder)
    return build_report(folders, out / "report")


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
    asked = dataclasses.replace(config, env=found.env)
    require(found == asked, str(folder), "holds a run of other settings", "name another --out")
    run = load_run(folder)
    return run if run.summary.get("status") == "done" else train(resume=folder, progress=progress)


def pre_training_hash(config: TrainConfig) -> str:
    """Equal for configs whose offline phases are the same."""
    plain = {name: value for name, value in to_dict(config).items() if name not in NOT_PRE_TRAINING}
    plain["mix"] = config.mix.batch_size
    plain["evaluate"] = (config.evaluate.offline_every, config.evaluate.episodes)
    return hashlib.sha256(yaml.safe_dump(plain, sort_keys=True).encode()).hexdigest()


def _folder_name(config: TrainConfig) -> str:
    return folder_name(f"{config.dataset or config.env.task}-{config.name}", config_hash(config)[:6])
