"""What ``cfdg-jax data`` prints: ``list``, ``info``, ``check``, ``build``, ``convert``."""

from __future__ import annotations

import pathlib

from cfdg_jax.data import d4rl, local, minari
from cfdg_jax.data.check import check_fits, describe
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.files import cache_dir, exists, told
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset, split_name
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.errors import UserError, nearest, require
from cfdg_jax.types import Spec


def list_text() -> str:
    """All names, with what is already on this machine marked."""
    root = cache_dir()
    lines = [f"data folder: {root} (CFDG_DATA_DIR)", "", "built here on first use:"]
    for name, recipe in local.DATASETS.items():
        with told(root, "cannot be read"):
            there = any((root / "local").glob(f"{name}-{recipe.rows}-*.hdf5"))
        lines.append(f"  local:{name:<28} {recipe.rows:>9,} rows {'  built' if there else ''}".rstrip())
    lines += ["", "downloaded on first use:"]
    for name, remote in d4rl.DATASETS.items():
        there = exists(root / "d4rl" / remote.file)
        lines.append(f"  d4rl:{name:<29} {'  downloaded' if there else ''}".rstrip())
    lines += ["", "besides: minari:ID, and the path of a file in D4RL's layout"]
    return "\n".join(lines)


def info_text(name: str) -> str:
    """What a dataset holds."""
    dataset = load_dataset(name)
    return describe(dataset, _spec(dataset)).text()


def check_text(name: str) -> str:
    """Refuses what is wrong, warns of what looks wrong, or says that all is well."""
    dataset = load_dataset(name)
    spec = _spec(dataset)
    if spec is not None:
        check_fits(dataset, spec, dataset.task)
    report = describe(dataset, spec)
    lines = [f"note: {note}" for note in report.notes] + [f"warning: {warning}" for warning in report.warnings]
    verdict = f"{dataset.name}: {len(dataset):,} rows, {len(dataset.episode_returns):,} episodes, usable"
    return "\n".join([*lines, f"{verdict}{f', {len(report.warnings)} warnings' if report.warnings else ''}"])


def build_text(name: str) -> str:
    """Fetches, converts or builds a named dataset; returns where it is."""
    kind, rest = split_name(name)
    if kind == "d4rl":
        return str(d4rl.fetch(rest))
    if kind == "minari":
        return str(minari.convert(rest))
    require(
        kind == "local",
        name,
        "is a file and needs no building",
        nearest(name, [f"local:{known}" for known in local.DATASETS]),
    )
    return str(local.build(rest))


def convert_text(source: str, target: str, clip_actions: bool = False) -> str:
    """Writes any dataset as a file in D4RL's layout, with next observations; returns what was written."""
    path = pathlib.Path(target)
    require(path.suffix in (".hdf5", ".h5"), target, "is no HDF5 file name", "end it in .hdf5")
    require(not exists(path), target, "exists", "choose another name or move it away")
    dataset = load_dataset(source, clip_actions=clip_actions)
    write_hdf5(path, dataset, {"task": dataset.task, "dynamics": dataset.dynamics, "name": dataset.name})
    return f"{target}: {len(dataset):,} rows of {dataset.name}"


def _spec(dataset: Dataset) -> Spec | None:
    """The environment's spec, where the dataset names one that is installed."""
    try:
        return spec_of(dataset.task, dataset.dynamics) if dataset.task else None
    except UserError:
        return None
