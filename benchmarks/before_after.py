"""A change in figures: two files of `cfdg-jax bench`, of the commit before and the one after, as one and as tables.

    cfdg-jax bench agents kernels --json BEFORE.json     (at the one commit, and at the other with AFTER.json)
    python benchmarks/before_after.py BEFORE.json AFTER.json > benchmarks/results/before-after.json
    python benchmarks/before_after.py BEFORE.json AFTER.json --table kernels
    python benchmarks/before_after.py BEFORE.json AFTER.json --table agents

With one file, its kernels by what they are for:

    cfdg-jax bench kernels --agent iql,pex,sac,td3bc --json FILE.json
    python benchmarks/before_after.py FILE.json --table kinds
"""

import argparse
import json
import pathlib

from cfdg_jax.bench import kernels, kinds

SEEDS = (1, 5)


def rates(before, after):
    """Updates/s of every agent over all seeds, in brackets the share of the product rate of the same file."""
    cell = lambda row: f"{row['updates_per_second']:.4g} ({100 * row['share_of_matmul']:.0f} %)"
    lines = ["| agent | " + " | ".join(f"{n} seed{'s' * (n > 1)}" for n in SEEDS) + " |", "|---|---|---|"]
    for agent in [name.removesuffix("_seeds_1") for name in after if name.endswith("_seeds_1")]:
        pairs = [(before.get(f"{agent}_seeds_{n}"), after[f"{agent}_seeds_{n}"]) for n in SEEDS]
        cells = [f"{cell(old)} -> {cell(new)}" if old else cell(new) for old, new in pairs]
        lines.append(f"| {agent} | " + " | ".join(cells) + " |")
    product = f"{before['matmul_gflops']:.0f} -> {after['matmul_gflops']:.0f}"
    return "\n".join([*lines, f"| large product, GFLOP/s | {product} | |"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE", help="before and after; for kinds one")
    parser.add_argument("--table", choices=("kernels", "agents", "kinds"), help="as Markdown, `before -> after`")
    args = parser.parse_args()
    files = [json.loads(path.read_text()) for path in args.files]
    if args.table == "kinds":
        steps = files[-1]["kernels"].items()
        print(kinds.table({name: row["kinds"] for name, row in steps if isinstance(row, dict)}))
        return
    if len(files) != 2:
        parser.error("takes BEFORE.json and AFTER.json; for kinds one file")
    before, after = files
    if args.table == "kernels":
        print(kernels.table(after["kernels"], before["kernels"]))
    elif args.table == "agents":
        print(rates(before["agents"], after["agents"]))
    else:
        print(json.dumps({"before": before, "after": after}, indent=2))


if __name__ == "__main__":
    main()
