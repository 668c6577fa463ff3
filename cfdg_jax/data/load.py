"""`load_dataset`: finds a dataset by its name (`cfdg_jax.data.names`) and reads it."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

from cfdg_jax.data import d4rl, local, minari
from cfdg_jax.data.dataset import Dataset, from_arrays
from cfdg_jax.data.files import PathLike, exists, verified_sha256
from cfdg_jax.data.hdf5 import read_hdf5, read_metadata
from cfdg_jax.data.names import RECIPES, REMOTES, Dynamics, split_name
from cfdg_jax.data.npz import read_npz
from cfdg_jax.errors import require


def load_dataset(
    name: str | os.PathLike[str],
    *,
    dynamics: Dynamics | None = None,
    download: bool = True,
    progress: bool = True,
    data_dir: PathLike | None = None,
    clip_actions: bool = False,
) -> Dataset:
    """Finds, fetches or builds, checks and reads a dataset.

    Args:
      name: ``d4rl:NAME``, ``minari:ID``, ``local:NAME`` or the path of a file in D4RL's layout.
      dynamics: The simulator variant: what ``local:`` is built with, and what the others are said to have been
        logged with. Default: ``d4rl`` for ``d4rl:`` and the robots of ``local:``, otherwise what the file says, or
        ``gymnasium``.
      download: Whether the network may be used; ``CFDG_OFFLINE=1`` forbids it as well.
      progress: Whether to show bars.
      data_dir: The data folder, by default ``CFDG_DATA_DIR`` or ``~/.cache/cfdg_jax``.
      clip_actions: Whether actions outside [-1, 1] are clipped to it, not refused.

    Raises:
      UserError: for unknown names, with the nearest valid ones, files that cannot be had, and bad data.
    """
    kind = split_name(name)[0]
    path = file_of(name, dynamics=dynamics, download=download, progress=progress, data_dir=data_dir)
    arrays, metadata = read_npz(path) if path.suffix == ".npz" else read_hdf5(path)
    task, logged_with = environment_of(path, metadata)
    dataset = from_arrays(
        arrays,
        str(path) if kind == "file" else str(name),
        task=task,
        dynamics=logged_with if kind == "local" or dynamics is None else dynamics,
        origin=kind,
        sha256=verified_sha256(path),
        metadata=metadata,
        clip_actions=clip_actions,
    )
    if "doubt" in metadata:
        dataset = dataclasses.replace(dataset, warnings=(*dataset.warnings, str(metadata["doubt"])))
    return dataset


def file_of(
    name: str | os.PathLike[str],
    *,
    dynamics: Dynamics | None = None,
    download: bool = True,
    progress: bool = True,
    data_dir: PathLike | None = None,
) -> pathlib.Path:
    """The file of a dataset, fetched or built where it is not there yet; see `load_dataset`."""
    kind, rest = split_name(name)
    if kind == "d4rl":
        return d4rl.fetch(rest, data_dir=data_dir, allowed=download, progress=progress)
    if kind == "local":
        return local.build(rest, dynamics=dynamics, data_dir=data_dir, progress=progress)
    if kind == "minari":
        return minari.convert(rest, data_dir=data_dir, allowed=download)
    return pathlib.Path(rest)


def environment_of(path: pathlib.Path, metadata: Mapping[str, Any]) -> tuple[str, Dynamics]:
    """Environment id and dynamics of a file, from its scalars or its name."""
    _refuse_metadata(path, metadata)
    return _environment(path, metadata)


def _refuse_metadata(path: pathlib.Path, metadata: Mapping[str, Any]) -> None:
    """Refuses scalars that the package reads and cannot: a dynamics of no known name, returns that are no numbers."""
    dynamics, valid = metadata.get("dynamics", "gymnasium"), typing.get_args(Dynamics)
    require(dynamics in valid, f"{path}: metadata/dynamics", f"is {dynamics!r}", f"must be {' or '.join(valid)}")
    for name in ("return_low", "return_high") if "return_low" in metadata else ():
        value = metadata.get(name)
        number = isinstance(value, int | float) and math.isfinite(value)
        require(number, f"{path}: metadata/{name}", f"is {value!r}", "must be a finite number")


def task_of_name(name: str) -> str:
    """The environment id a dataset name implies without fetching or building anything; empty where it does not say."""
    if name == "":
        return ""
    kind, rest = split_name(name)
    if kind == "d4rl":
        return REMOTES[rest].task
    if kind == "local":
        return RECIPES[rest].task
    if kind == "minari" or not exists(pathlib.Path(rest)):
        return ""
    path = pathlib.Path(rest)
    return _environment(path, read_npz(path)[1] if path.suffix == ".npz" else read_metadata(path))[0]


def _environment(path: pathlib.Path, metadata: Mapping[str, Any]) -> tuple[str, Dynamics]:
    """Environment id and dynamics of a file: from its own words, or because D4RL published a file of that name."""
    if "task" in metadata:
        return str(metadata["task"]), metadata.get("dynamics", "gymnasium")
    for remote in REMOTES.values():
        if remote.file == path.name:
            return remote.task, "d4rl"
    robot, _, version = str(metadata.get("env", "")).rpartition("-v")
    if robot.lower() in ("hopper", "halfcheetah", "walker2d", "ant") and version in ("2", "3", "4"):
        return robot.lower(), "gymnasium" if version == "4" else "d4rl"  # up to -v3 they ran on mujoco-py
    return "", "gymnasium"
