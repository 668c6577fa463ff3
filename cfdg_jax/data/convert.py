"""``cfdg-jax data convert``: the same rows in another layout, lossless there and back.

=================== =====================================================================================
``file.hdf5``       D4RL's flat layout with next observations and time-outs
``file.npz``        the same arrays by the same names, and what the file says about itself as json
``minari:lab/x-v0`` one episode after another through the minari package, into its folder of datasets
=================== =====================================================================================
"""

from __future__ import annotations

import pathlib

from cfdg_jax.data.files import exists
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.minari import write_minari
from cfdg_jax.data.npz import write_npz
from cfdg_jax.errors import require


def convert(source: str, target: str, clip_actions: bool = False) -> str:
    """Writes a dataset in the layout that `target` names; returns what was written, and what clipping changed.

    Raises:
      UserError: if `target` is of no such layout or there already, or `source` cannot be read.
    """
    minari, path = target.startswith("minari:"), pathlib.Path(target)
    layouts = "end it in .hdf5 or .npz, or name minari:lab/mine-v0"
    known = minari or path.suffix in (".hdf5", ".h5", ".npz")
    require(known, target, "is no HDF5 file name and no other layout", layouts)
    require(minari or not exists(path), target, "exists", "choose another name or move it away")
    dataset = load_dataset(source, clip_actions=clip_actions)
    about = {"task": dataset.task, "dynamics": dataset.dynamics, "name": dataset.name}
    if minari:
        write_minari(dataset, target.removeprefix("minari:"))
    elif path.suffix == ".npz":
        write_npz(path, dataset.arrays(), about)
    else:
        write_hdf5(path, dataset, about)
    remarks = "; rewards stay those of the actions as recorded" if clip_actions else ""
    return f"{target}: {len(dataset):,} rows of {dataset.name}{remarks}"
