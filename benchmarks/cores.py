"""Updates/s of four seeds on one device, whose products the cores share, and with a core for each part of the seeds.

    python benchmarks/cores.py [--agents iql sac] [--out benchmarks/results/cores.json]

HalfCheetah, batch 256, twenty updates in a call and one, as online; the fastest of two turns in one run. Seconds to
compile stand beside them.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import jax
from called import command

from cfdg_jax.bench.programs import chunk_arguments, matmul_gflops, program_of
from cfdg_jax.bench.rates import SECONDS, update_rate
from cfdg_jax.core.machine import cores
from cfdg_jax.process import setup
from cfdg_jax.training.learn import offline_chunk
from cfdg_jax.training.logging import device_name, versions
from cfdg_jax.training.program import Program

SEEDS, WIDTHS, UPDATES = 4, (64, 128, 256), (1, 20)
WAYS = {"one device": "1", "a core for a seed": "all"}


def seconds_to_compile(program: Program, updates: int) -> float:
    """Of the call that is timed; nothing is found in a cache."""
    state, meters, rows, *_ = chunk_arguments(program, "online")
    lowered = offline_chunk.of(program).lower(state, meters, rows, updates, "online")
    start = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - start


def rates(agent: str, width: int, updates: int) -> dict[str, dict[str, float]]:
    """Updates/s in all of each of `WAYS`."""
    fields = {"augment.width": 64, "agent.hidden": (width, width)}
    ways = {name: program_of("halfcheetah", SEEDS, 20_000, fields | {"devices": d}, agent) for name, d in WAYS.items()}
    compiling = {name: seconds_to_compile(program, updates) for name, program in ways.items()}
    rate = lambda program: update_rate(program, updates, 1, "online", SECONDS)["updates_per_second"]
    turns = [{name: rate(program) for name, program in ways.items()} for _ in range(2)]
    return {
        name: {"updates_per_second": max(turn[name] for turn in turns), "seconds_to_compile": compiling[name]}
        for name in ways
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=("iql", "sac"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/cores.json"))
    arguments = parser.parse_args()
    setup()
    jax.config.update("jax_enable_compilation_cache", False)
    found = {"command": command(), "device": device_name(), "cores": cores(), "versions": versions()}
    found["matmul_gflops"] = matmul_gflops()
    for agent in arguments.agents:
        for width in WIDTHS:
            for updates in UPDATES:
                found[f"{agent}, width {width}, {updates} updates in a call"] = made = rates(agent, width, updates)
                print(agent, width, updates, json.dumps(made), flush=True)
                arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
