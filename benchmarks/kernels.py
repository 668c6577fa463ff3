"""What every compiled step launches, as Markdown: at two commits, or by what its kernels are for.

    cfdg-jax bench kernels --json BEFORE.json      (at the one commit, and at the other with AFTER.json)
    python benchmarks/kernels.py BEFORE.json AFTER.json
    cfdg-jax bench kernels --agent iql,pex,sac,td3bc --json FILE.json
    python benchmarks/kernels.py FILE.json

`benchmarks/in_turns.py` keeps the counts of two commits beside the time of their updates.
"""

import argparse
import json
import pathlib

from cfdg_jax.bench import kernels, kinds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path, help="of the commit before, or the only one")
    parser.add_argument("after", type=pathlib.Path, nargs="?", help="of the commit after")
    args = parser.parse_args()
    counts = [json.loads(path.read_text())["kernels"] for path in (args.file, args.after) if path]
    if args.after:
        print(kernels.table(counts[1], counts[0]))
    else:
        print(kinds.table({name: row["kinds"] for name, row in counts[0].items() if isinstance(row, dict)}))


if __name__ == "__main__":
    main()
