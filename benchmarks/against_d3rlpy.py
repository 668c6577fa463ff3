"""d3rlpy's IQL on one of this project's datasets: is a low score the dataset's, or this implementation's?

    python benchmarks/against_d3rlpy.py DATASET TASK --d3rlpy PYTHON [--seeds 2] [--steps 100000] [--every 25000]

Learns DATASET, a file in D4RL's layout, with d3rlpy (`d3rlpy_iql.py` under PYTHON, a seed after the other), scores the
kept policies in TASK with D4RL's dynamics and prints a line each: the mean score over episodes, or the share in percent
that reaches a maze's goal.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import tempfile

import numpy as np

from cfdg_jax.data.reference_scores import normalized_score
from cfdg_jax.envs.registry import make_env

HERE = pathlib.Path(__file__).parent
FIRST_SEED = 10_000
"""Of the environments."""


def load_policy(path: pathlib.Path):
    """``obs [n, O] -> action [n, A]``, the mean of a policy that d3rlpy kept."""
    kept = np.load(path)
    names = ("_encoder._layers.0", "_encoder._layers.2", "_mu")
    layers = [(kept[f"{name}.weight"].T, kept[f"{name}.bias"]) for name in names]

    def act(obs: np.ndarray) -> np.ndarray:
        for kernel, bias in layers[:-1]:
            obs = np.maximum(obs @ kernel + bias, 0.0)
        kernel, bias = layers[-1]
        return np.tanh(obs @ kernel + bias)

    return act


def score(path: pathlib.Path, task: str, episodes: int) -> float:
    """Of a kept policy: the mean normalised score, or of a maze the share of successes in percent."""
    env = make_env(task, list(range(FIRST_SEED, FIRST_SEED + episodes)), "d4rl", 1)
    act, obs = load_policy(path), env.reset()
    alive, returns, reached = np.ones(episodes, bool), np.zeros(episodes), np.zeros(episodes, bool)
    while alive.any():
        step = env.step(act(obs).astype(np.float32))
        returns += np.where(alive, step.reward, 0.0)
        reached |= alive & step.success
        alive &= ~(step.terminal | step.truncated)
        obs = step.next_obs
    env.close()
    scores = None if task.startswith("antmaze") else normalized_score(task, returns)
    return float(100.0 * reached.mean() if scores is None else scores.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=pathlib.Path)
    parser.add_argument("task")
    parser.add_argument("--d3rlpy", required=True, help="an interpreter that has d3rlpy")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=25_000)
    parser.add_argument("--episodes", type=int, default=20)
    args = parser.parse_args()
    maze = ["--maze"] if args.task.startswith("antmaze") else []
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            options = [*maze, "--steps", str(args.steps), "--every", str(args.every), "--seed", str(seed)]
            subprocess.run([args.d3rlpy, HERE / "d3rlpy_iql.py", args.dataset, folder, *options], check=True)
            for path in sorted(pathlib.Path(folder).glob("*.npz"), key=lambda path: int(path.stem)):
                reached = score(path, args.task, args.episodes)
                print(f"seed {seed}, {int(path.stem):,} updates: {reached:.1f}", flush=True)


if __name__ == "__main__":
    main()
