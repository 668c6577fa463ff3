"""Updates/s of five seeds at once and one after the other, beside those of one, in turns in one run.

    python benchmarks/seed_axis.py [--agents iql sac redq rlpd] [--out benchmarks/results/seed-axis.json]

At one update in a call, as online, and at several, as before it. HalfCheetah, batch 256, the fastest of two turns.
"""

from __future__ import annotations

import argparse
import json
import pathlib

from called import command

from cfdg_jax.bench.programs import matmul_gflops, program_of
from cfdg_jax.bench.rates import SECONDS, update_rate
from cfdg_jax.training.logging import device_name, versions

WAYS = {"one seed": (1, "vmap"), "five at once": (5, "vmap"), "five in turn": (5, "scan")}
AGENTS = ("iql", "sac", "redq", "rlpd")
SEVERAL = {"cql": 4, "calql": 4}
"""Updates in a call; of an agent that is not named, `MANY`."""
MANY = 20


def rates(agent: str, updates: int) -> dict[str, float]:
    """Updates/s in all of each of `WAYS`."""
    ways = {
        name: program_of("halfcheetah", seeds, 20_000, {"augment.width": 64, "seed_axis": axis}, agent)
        for name, (seeds, axis) in WAYS.items()
    }
    rate = lambda program: update_rate(program, updates, 1, "online", SECONDS)["updates_per_second"]
    turns = [{name: rate(program) for name, program in ways.items()} for _ in range(2)]
    return {name: max(turn[name] for turn in turns) for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=AGENTS)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/seed-axis.json"))
    args = parser.parse_args()
    results = {"command": command(), "device": device_name(), "versions": versions(), "matmul_gflops": matmul_gflops()}
    for agent in args.agents:
        for updates in (1, SEVERAL.get(agent, MANY)):
            results[f"{agent}, {updates} updates in a call"] = found = rates(agent, updates)
            print(f"| {agent} | {updates} | " + " | ".join(f"{rate:.4g}" for rate in found.values()) + " |", flush=True)
            args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
