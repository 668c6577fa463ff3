"""d3rlpy's IQL on a dataset file, its policy kept every so often; the half of `against_d3rlpy.py` that needs d3rlpy.

d3rlpy is no dependency of the project. Run this file with an interpreter that has it::

    python3.11 -m venv ../d3rlpy && ../d3rlpy/bin/pip install d3rlpy h5py
    ../d3rlpy/bin/python benchmarks/d3rlpy_iql.py FILE.hdf5 OUT_DIR

The settings are those of d3rlpy's own reproduction (reproductions/offline/iql.py and its AntMaze runs): two layers of
256, rate 3e-4, the policy's along a cosine, and for robots rewards of 1000 over the range of returns.
"""

import argparse
import pathlib

import d3rlpy
import h5py
import numpy as np
import torch
from d3rlpy.optimizers import AdamFactory, CosineAnnealingLRFactory

ROBOT = {"expectile": 0.7, "weight_temp": 3.0, "max_weight": 100.0}
MAZE = {"expectile": 0.9, "weight_temp": 10.0, "max_weight": 100.0}


def read(path, maze):
    """The rows of a file in D4RL's layout, the last row an end."""
    with h5py.File(path) as file:
        rows = {name: file[name][()] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    rows["rewards"] = (rows["rewards"] - maze).astype(np.float32)[:, None]
    rows["timeouts"][-1] = not rows["terminals"][-1]
    ends = {name: rows[name].astype(np.float32) for name in ("terminals", "timeouts")}
    return d3rlpy.dataset.MDPDataset(**rows | ends)


def learner(maze):
    """IQL with d3rlpy's published settings."""
    cosine = AdamFactory(lr_scheduler_factory=CosineAnnealingLRFactory(T_max=1_000_000 if maze else 500_000))
    scaler = None if maze else d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0)
    return d3rlpy.algos.IQLConfig(
        actor_learning_rate=3e-4, critic_learning_rate=3e-4, batch_size=256, actor_optim_factory=cosine,
        reward_scaler=scaler, **(MAZE if maze else ROBOT),
    ).create(device=False)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--maze", action="store_true")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=25_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    d3rlpy.seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    algo = learner(args.maze)
    epochs = algo.fitter(
        read(args.file, args.maze), n_steps=args.steps, n_steps_per_epoch=args.every, show_progress=False,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )  # fmt: skip
    for epoch, _ in epochs:
        weights = {name: value.detach().numpy() for name, value in algo.impl.policy.state_dict().items()}
        np.savez(args.out / f"{epoch * args.every}.npz", **weights)


if __name__ == "__main__":
    main()
