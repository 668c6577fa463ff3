"""``cfdg-jax data convert``: the same rows in another layout, lossless there and back.

=================== =====================================================================================
``file.hdf5``       D4RL's flat layout
``file.npz``        the same arrays by the same names, and what the file says about itself as json
``minari:lab/x-v0`` one episode after another through the minari package, into its folder of datasets
=================== =====================================================================================

Between flat files every array goes along as it is (`cfdg_jax.data.flat`). Minari keeps transitions: it gets those that
`load_dataset` reads. Two layouts are sources alone: ``lerobot:FOLDER`` (`cfdg_jax.data.lerobot`) and
``ogbench:FILE.npz`` (`cfdg_jax.data.ogbench`).
"""

from __future__ import annotations

import pathlib

import numpy as np

from cfdg_jax.data.arrays import REQUIRED
from cfdg_jax.data.dataset import Dataset, from_arrays
from cfdg_jax.data.files import exists
from cfdg_jax.data.flat import copy_flat, open_flat
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.lerobot import read_lerobot
from cfdg_jax.data.load import environment_of, file_of, load_dataset
from cfdg_jax.data.minari import write_minari
from cfdg_jax.data.npz import write_npz
from cfdg_jax.data.ogbench import read_ogbench
from cfdg_jax.errors import require


def convert(
    source: str, target: str, clip_actions: bool = False, action_range: tuple[float, float] | None = None
) -> str:
    """Writes a dataset in the layout that `target` names; returns what was written, and what is to be known of it.

    Args:
      source: A dataset's name or path, ``lerobot:FOLDER`` or ``ogbench:FILE.npz``.
      target: A file name ending in .hdf5 or .npz, or ``minari:ID``.
      clip_actions: Whether actions outside [-1, 1] are clipped to it, not refused.
      action_range: Of the two layouts of others: what their actions call -1 and 1, for all dimensions alike.

    Raises:
      UserError: if `target` is of no such layout or there already, or `source` cannot be read.
    """
    minari, path = target.startswith("minari:"), pathlib.Path(target)
    layouts = "end it in .hdf5 or .npz, or name minari:lab/mine-v0"
    known = minari or path.suffix in (".hdf5", ".h5", ".npz")
    require(known, target, "is no HDF5 file name and no other layout", layouts)
    require(minari or not exists(path), target, "exists", "choose another name or move it away")
    if not minari and not source.startswith(tuple(_OTHERS)):
        return _copied(source, path, clip_actions, action_range)
    dataset = _read(source, clip_actions, action_range)
    about = {**dataset.metadata, "task": dataset.task, "dynamics": dataset.dynamics, "name": dataset.name}
    if minari:
        write_minari(dataset, target.removeprefix("minari:"))
    elif path.suffix == ".npz":
        write_npz(path, dataset.arrays(), about)
    else:
        write_hdf5(path, dataset, about)
    remarks = [_CLIPPED] if clip_actions else []
    remarks += ["transitions alone; arrays beside them stay behind"] if minari else []
    remarks += [*dataset.notes] if source.startswith(tuple(_OTHERS)) else []
    remarks += [str(dataset.metadata["doubt"])] if "doubt" in dataset.metadata else []
    return "; ".join([f"{target}: {len(dataset):,} rows of {dataset.name}", *remarks])


def _copied(source: str, target: pathlib.Path, clip_actions: bool, action_range: tuple[float, float] | None) -> str:
    """Copies a flat file; says what is to be known of the copy."""
    _refuse_range(action_range, source)
    path = file_of(source)
    with open_flat(path) as file:
        shapes, about = {column.name: column.shape for column in file.columns()}, file.about
        rows = shapes.get("observations", (0,))[0]
        for name in REQUIRED:
            require(name in shapes, f"{path}: {name}", "is missing", "D4RL's layout is needed")
            held = f"has {shapes[name][0]:,} rows but observations has {rows:,}"
            require(shapes[name][0] == rows, f"{path}: {name}", held, "all must agree")
        task, dynamics = environment_of(path, about)
        left = copy_flat(file, path, target, {"task": task, "dynamics": dynamics, "name": source}, clip_actions)
    remarks = [_CLIPPED] if clip_actions else []
    remarks += [f"left out: {', '.join(left)}, which hold no numbers"] if left else []
    remarks += [str(about["doubt"])] if "doubt" in about else []
    return "; ".join([f"{target}: {rows:,} rows of {source}", *remarks])


_CLIPPED = "rewards stay those of the actions as recorded"
_OTHERS = {"lerobot:": read_lerobot, "ogbench:": read_ogbench}
"""Readers of layouts that are sources alone, by what their names begin with."""


def _read(source: str, clip_actions: bool, action_range: tuple[float, float] | None) -> Dataset:
    kind, colon, place = source.partition(":")
    reader = _OTHERS.get(kind + colon)
    if reader is None:
        _refuse_range(action_range, source)
        return load_dataset(source, clip_actions=clip_actions)
    arrays, about = reader(pathlib.Path(place))
    if action_range is not None:
        low, high = action_range
        require(low < high, "--action-range", f"is {low:g} {high:g}", "the first number must be the smaller one")
        arrays["actions"] = (2.0 * (arrays["actions"] - low) / (high - low) - 1.0).astype(np.float32)
    return from_arrays(arrays, source, metadata=about, clip_actions=clip_actions)


def _refuse_range(action_range: tuple[float, float] | None, source: str) -> None:
    alone = "it is of lerobot: and ogbench: sources alone"
    require(action_range is None, "--action-range", f"is of no use for {source}", alone)
