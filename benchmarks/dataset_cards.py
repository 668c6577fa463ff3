"""Writes a card for each `local:` dataset into the docs.

    python benchmarks/dataset_cards.py > docs/datasets.md

Datasets that are not on this machine yet are built first. `cfdg-jax data info NAME` says more about one.
"""

from __future__ import annotations

import argparse
import fnmatch

import numpy as np

from cfdg_jax.data import load, local, names
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.maze_faults import try_ends
from cfdg_jax.data.reference_scores import normalized_score

HEAD = """# The `local:` datasets

Written by `benchmarks/dataset_cards.py`. They follow D4RL's recipes, with behaviour policies that this project trained
under D4RL's dynamics (`benchmarks/train_behaviour.py`, curves in `benchmarks/results`), and are never shown in one
table with D4RL's own.

| | |
|---|---|
| `cfdg-jax data build 'local:*'` | builds them all |
| `cfdg-jax data check 'local:*'` | checks them all, and replays rows of each in its environment |
| `cfdg-jax data build NAME --rows 2000000` | makes a larger one and prints its path |

The behaviour's score is the mean over episodes, normalised by D4RL's references; in the toys it is the share of
episodes that reach the goal. In the mazes an episode is a try, from where the ant is put to where it is taken away when
its time is up. It aims at a goal of its own and turns about it once it is there; the score is the share of tries that
pass the one goal that pays, as in D4RL's files. Rows are the same again on the same machine; another processor rounds
otherwise, robots amplify it, and a score of Hopper's medium may be two points off.
"""


def row(name: str, data: Dataset) -> str:
    """One line of the table: sizes, quantiles of returns and lengths, the behaviour's score."""
    returns, lengths = data.episode_returns, data.episode_lengths
    if data.task.startswith("antmaze-"):
        ends = np.flatnonzero(try_ends(data))
        lengths = np.diff(ends, prepend=-1)
        returns = np.minimum(np.add.reduceat(data.rewards, np.append(0, ends[:-1] + 1)), 1.0)
    low, middle, high = np.percentile(returns, [5, 50, 95])
    normal = normalized_score(data.task, returns)
    score = f"{np.mean(normal):.1f}" if normal is not None else f"{100 * data.terminals.sum() / len(returns):.1f}"
    quantiles = f"{low:.4g} / {middle:.4g} / {high:.4g}"
    return f"| `{name}` | {len(data):,} | {len(returns):,} | {np.median(lengths):.0f} | {quantiles} | {score} |"


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sample",
        nargs=2,
        metavar=("NAMES", "ROWS"),
        default=("", "0"),
        help="describe these, with *, by so many rows instead of the default",
    )
    parser.add_argument("--only", default="*", help="names to describe, with *")
    args = parser.parse_args()
    print(HEAD)
    sampled, rows = args.sample[0], int(args.sample[1])
    if sampled:
        print(f"Of `{sampled}` this describes samples of {rows:,} rows, of the others the default sizes.\n")
    print("| dataset | rows | episodes | median length | return 5 / 50 / 95 % | score |\n|---|---|---|---|---|---|")
    made = []
    for short in names.RECIPES:
        if fnmatch.fnmatchcase(short, args.only):
            sample = rows if fnmatch.fnmatchcase(short, sampled) else None
            data = load.load_dataset(local.build(short, rows=sample, progress=False))
            print(row(f"local:{short}", data), flush=True)
            made.append((short, data))
    print("\n## How each was made\n")
    for short, data in made:
        print(f"- `local:{short}`: {data.metadata['policies']}.")


if __name__ == "__main__":
    main()
