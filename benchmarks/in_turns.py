"""CPU time of an update at two commits, in turns on one machine.

    git worktree add ../before f790610
    python benchmarks/in_turns.py ../before [--agents iql sac] [--out benchmarks/results/before-after.json]

A process for each commit, agent and round, with its own `cfdg_jax`; milliseconds of an update and seed are of all
threads together, the fewest of all rounds: on a machine with other work the clock on the wall says more of that work.
The rate of a large product is of CPU time too, all cores together, the best of several moments.
With `--kernels BEFORE.json AFTER.json`, files of `cfdg-jax bench kernels`, the result holds these counts too, FLOP and
memory among them.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys

from against_torch import product_rate
from called import command

from cfdg_jax.training.logging import device_name, versions

HERE = pathlib.Path(__file__).resolve().parents[1]
AGENTS = ("iql", "pex", "td3bc", "sac", "crossq", "cql", "calql")
SEEDS = (1, 5)
CALLS = 4
UPDATES = {"cql": 3, "calql": 3}
"""Of a call; of an agent that is not named, `MANY`."""
MANY = 20

TIMED = """
import sys, time, json, jax
from cfdg_jax.bench.programs import chunk_arguments, program_of
from cfdg_jax.training.learn import offline_chunk
agent, updates, calls, *seeds = sys.argv[1:]
found = {}
for count in map(int, seeds):
    program = program_of("halfcheetah", count, 20_000, {"augment.width": 64}, agent)
    state, meters, rows = chunk_arguments(program, "online")
    times = []
    for _ in range(1 + int(calls)):
        start = time.process_time()
        state, meters = offline_chunk(program, state, meters, rows, int(updates), "online")
        jax.block_until_ready(state.agent)
        times.append(time.process_time() - start)
    found[count] = 1e3 * min(times[1:]) / int(updates) / count
print(json.dumps(found))
"""


def milliseconds(folder: pathlib.Path, agent: str) -> dict[str, float]:
    """Of an update and seed, by the number of seeds."""
    numbers = (str(UPDATES.get(agent, MANY)), str(CALLS), *map(str, SEEDS))
    env = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", TIMED, agent, *numbers], env=env, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _share(counts: dict[str, float], cpu_milliseconds: float, results: dict) -> float:
    """Of the rate of a large product on all cores; counts are of five seeds."""
    gflop = counts["gflop"] / SEEDS[-1]
    return gflop / (cpu_milliseconds / 1e3) * (os.cpu_count() or 1) / results["matmul_gflops"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=pathlib.Path, help="a checkout of the commit before")
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kernels", nargs=2, type=pathlib.Path, metavar=("BEFORE.json", "AFTER.json"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/before-after.json"))
    args = parser.parse_args()
    sides = {"before": args.before.resolve(), "after": HERE}
    kernels = dict(zip(sides, (json.loads(path.read_text())["kernels"] for path in args.kernels or ()), strict=False))
    results = {"command": command(), "device": device_name(), "versions": versions()}
    cores = os.cpu_count() or 1
    rates = [cores * product_rate()]
    results |= {"kernels": kernels, "milliseconds": {}}
    for agent in args.agents:
        rounds = [{side: milliseconds(folder, agent) for side, folder in sides.items()} for _ in range(args.rounds)]
        fewest = {f"seeds_{n}": {side: min(each[side][str(n)] for each in rounds) for side in sides} for n in SEEDS}
        results["milliseconds"][agent] = fewest
        rates.append(cores * product_rate())
        print(f"| {agent} | {' | '.join(' -> '.join(f'{v:.3g}' for v in each.values()) for each in fewest.values())} |")
    results["matmul_gflops"] = max(rates)
    for agent, fewest in results["milliseconds"].items() if kernels else ():
        share = {side: _share(kernels[side][agent], ms, results) for side, ms in fewest["seeds_5"].items()}
        fewest["share_of_product_rate_seeds_5"] = share
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
