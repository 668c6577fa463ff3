"""Where IQL's state value climbs on the way through a maze, beside what the way is worth: run folders to a table each.

    python benchmarks/maze_values.py RUN_DIR... [--rows 20000]

Each run is one of `--agent iql` on a maze's dataset. Rows are drawn from the dataset, kept where the ant is upright and
put into the cells of the shortest way from evaluation's start to its goal; V is the mean over a cell's rows and over
seeds. A step costs 1, so that k steps to the goal are worth -(1 - discount^k) / (1 - discount); k is at the data's mean
step.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from cfdg_jax.agents import iql
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.navigate import into_body
from cfdg_jax.data.transforms import apply_observation
from cfdg_jax.envs.maze import UNIT, Cell, Maze, maze
from cfdg_jax.report.tables import Table, to_markdown
from cfdg_jax.training.results import load_run


def way(layout: Maze) -> Iterator[Cell]:
    """The cells of the shortest way from evaluation's start to its goal, both ends among them."""
    cell, following = layout.start, layout.following(layout.goal)
    while cell != layout.goal:
        yield cell
        cell = following[cell]
    yield cell


def upright(obs: np.ndarray) -> np.ndarray:
    """Whether the torso's own z axis points up, `[n]` of observations `[n, 29]`."""
    quaternion = obs[:, 3:7] / np.linalg.norm(obs[:, 3:7], axis=1, keepdims=True)
    return into_body(quaternion, np.broadcast_to([0.0, 0.0, 1.0], (len(obs), 3)))[:, 2] > 0.5


def worth(steps: np.ndarray, discount: float) -> np.ndarray:
    """The return of so many steps that cost 1 each, and of nothing afterwards."""
    return -(1.0 - discount**steps) / (1.0 - discount)


class Found(NamedTuple):
    """V and Q - V, each `[S, n]`, of the rows drawn from a dataset, both observations of the rows, the discount."""

    value: np.ndarray
    advantage: np.ndarray
    obs: np.ndarray
    next_obs: np.ndarray
    discount: float


def found(folder: pathlib.Path, rows: int) -> tuple[str, Found]:
    """The dataset's name and what its value networks hold of it."""
    run = load_run(folder)
    program, saved = run.restore()
    config = run.config
    parts = iql.parts(config.agent, program.spec, "offline", config.offline.steps)
    data = load_dataset(config.dataset)
    drawn = np.random.default_rng(0).permutation(len(data))[:rows]
    obs = apply_observation(program.transforms.observation, data.observations[drawn])

    @jax.jit
    @jax.vmap
    def of_seed(agent):
        value = parts.value.apply(agent.value, obs)
        return value, parts.critic.apply(agent.target, obs, data.actions[drawn]).min(axis=0) - value

    value, advantage = map(np.asarray, of_seed(saved.state.agent))
    return config.dataset, Found(
        value, advantage, data.observations[drawn], data.next_observations[drawn], config.agent.discount
    )


def lines(layout: Maze, of: Found) -> Iterator[tuple[str, ...]]:
    """The row of a run's values, and the row of what the way is worth at its discount."""
    stands, cells = upright(of.obs), list(way(layout))
    at = np.array([layout.cell_at(place) for place in of.obs[:, :2]])
    step = np.linalg.norm(of.next_obs[:, :2] - of.obs[:, :2], axis=1)[stands].mean()
    inside = [stands & (at == cell).all(axis=1) for cell in cells]
    means = [of.value[:, rows].mean() if rows.any() else np.nan for rows in inside]
    others = of.value[:, ~stands].mean(), of.advantage.std()
    yield ("V", *(f"{value:.1f}" for value in (*means, *others)))
    left = UNIT / step * np.arange(len(cells))[::-1]
    yield (f"the way at {step:.2f} m a step", *(f"{each:.1f}" for each in worth(left, of.discount)), "", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=20_000)
    args = parser.parse_args()
    for folder in args.runs:
        name, of = found(folder, args.rows)
        layout = maze(name.split("antmaze-")[1].split("-")[0])
        cells = [f"({row}, {column})" for row, column in way(layout)]
        header = ("mean V", *cells, "on its back", "Q - V, deviation")
        print(to_markdown(Table(f"{name}, {folder.name}", header, tuple(lines(layout, of)), ())))


if __name__ == "__main__":
    main()
