"""``cfdg-jax sweep FILE.yaml``: many runs as one command, pre-training shared, one report at the end.

    preset: reduced                                # where all values start from
    fields: {seeds: 3, agent.hidden: [128, 128]}   # for all runs; any choice or dotted field
    over: {dataset: [local:hopper-medium-v0]}      # every combination of these ...
    runs:                                          # ... with every one of these
      - {agent: NAME}
      - {agent: NAME, augment: NAME, label: with generated rows}

A field that a run's choices do not have, such as ``augment.steps`` without a generator, may stand under ``fields``: it
is used where it exists. Runs with the same pre-training make it once. What is finished is kept: the same command
continues. Where the runs are made is said in `cfdg_jax.grid`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml

from cfdg_jax import grid
from cfdg_jax.config import REGISTRIES, TrainConfig
from cfdg_jax.errors import UserError, nearest, require, require_file
from cfdg_jax.fields import leaf_paths
from cfdg_jax.presets import make_config
from cfdg_jax.report.build import build_report

KEYS = ("preset", "fields", "over", "runs")


def read_sweep(path: str | os.PathLike) -> list[TrainConfig]:
    """The configs that a sweep file describes, in its order.

    Raises:
      UserError: if the file is missing or no such mapping, or a name, field or value in it is wrong.
    """
    path = pathlib.Path(path)
    require_file(path)
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


def sweep(
    configs: Sequence[TrainConfig],
    out: str | os.PathLike,
    progress: bool = True,
    *,
    on: Literal["here", "ray"] = "here",
    group: int = 0,
    resources: Mapping[str, float] | None = None,
) -> pathlib.Path:
    """Runs `configs`, each in a folder of its own under `out`, and writes one report.

    Args:
      configs: Of the runs; one that memory does not hold is made in groups of its seeds.
      out: Folder of all of them and of the report.
      progress: Whether to show it.
      on: ``here``: one after the other in this process; ``ray``: as tasks of a Ray cluster.
      group: Most seeds of one cell, which is a run of its own; 0: all seeds of a config together.
      resources: Ray's ``num_cpus`` and ``num_gpus`` of a cell; one processor by default.

    Returns:
      The report's path.

    Raises:
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
      UserError: if `out` holds runs of other settings, or a cell failed on the cluster.
    """
    made = grid.cells(configs, pathlib.Path(out).resolve() if on == "ray" else pathlib.Path(out), group)
    if on == "ray":
        grid.run_on_ray(made, progress, resources or {"num_cpus": 1})
    else:
        grid.run_here(made, progress)
    return build_report([cell.folder for cell in made], pathlib.Path(out) / "report")
