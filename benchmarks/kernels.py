"""What every compiled step launches before and after a change: both files of `cfdg-jax bench kernels` in one, as json
and as a table.

    cfdg-jax bench kernels --json BEFORE.json      (at the one commit, and at the other with AFTER.json)
    python benchmarks/kernels.py BEFORE.json AFTER.json > benchmarks/results/kernels.json
    python benchmarks/kernels.py BEFORE.json AFTER.json --table
"""

import argparse
import json
import pathlib

from cfdg_jax.bench.kernels import table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=pathlib.Path)
    parser.add_argument("after", type=pathlib.Path)
    parser.add_argument("--table", action="store_true", help="as Markdown, `before -> after` where they differ")
    args = parser.parse_args()
    before, after = (json.loads(path.read_text()) for path in (args.before, args.after))
    if args.table:
        print(table(after["kernels"], before["kernels"]))
    else:
        print(json.dumps({"before": before, "after": after}, indent=2))


if __name__ == "__main__":
    main()
