"""What every compiled step launches before and after a change: both files of `cfdg-jax bench kernels` in one, as json
and as a table; and the kernels of one file by what they are for.

    cfdg-jax bench kernels --json BEFORE.json      (at the one commit, and at the other with AFTER.json)
    python benchmarks/kernels.py BEFORE.json AFTER.json > benchmarks/results/kernels.json
    python benchmarks/kernels.py BEFORE.json AFTER.json --table
    cfdg-jax bench kernels --agent iql,pex,sac,td3bc --json FILE.json
    python benchmarks/kernels.py FILE.json --kinds
"""

import argparse
import json
import pathlib

from cfdg_jax.bench import kinds
from cfdg_jax.bench.kernels import table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE", help="before and after; for kinds one")
    parser.add_argument("--table", action="store_true", help="as Markdown, `before -> after` where they differ")
    parser.add_argument("--kinds", action="store_true", help="as Markdown, the last file's kernels by kind")
    args = parser.parse_args()
    files = [json.loads(path.read_text()) for path in args.files]
    if args.kinds:
        steps = files[-1]["kernels"].items()
        print(kinds.table({name: row["kinds"] for name, row in steps if isinstance(row, dict)}))
        return
    if len(files) != 2:
        parser.error("takes BEFORE.json and AFTER.json; with --kinds one file")
    before, after = files
    if args.table:
        print(table(after["kernels"], before["kernels"]))
    else:
        print(json.dumps({"before": before, "after": after}, indent=2))


if __name__ == "__main__":
    main()
