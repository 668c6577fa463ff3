"""Rows kept as float32 and as bfloat16: bytes, updates a second, what rounding does to a step's motion, and learning.

    cfdg-jax sweep benchmarks/sweeps/rows.yaml --out runs/rows
    python benchmarks/rows.py --sweep runs/rows

Online steps of IQL at HalfCheetah's sizes with a full ring of a million rows a seed, without the environment, the two
in turns; a step is an insertion, an update on half offline and half online rows, and an action.
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.bench.programs import noise_rows, program_of
from cfdg_jax.core import ring
from cfdg_jax.data.load import load_dataset
from cfdg_jax.report import stats
from cfdg_jax.report.groups import read_runs
from cfdg_jax.report.runs import runs_in
from cfdg_jax.training.act import online_step
from cfdg_jax.training.learn import no_meters
from cfdg_jax.training.logging import device_name
from cfdg_jax.training.memory import memory_plan
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import init
from cfdg_jax.training.progress import Progress

KINDS = ("float32", "bfloat16")
RING = 1_000_000
SETS = ("halfcheetah", "hopper")


def started(seeds: int, kind: str):
    """A program, the arguments of its steps, and its memory plan in MB."""
    fields = {"row_dtype": kind, "augment.width": 64, "online.capacity": RING, "online.start_steps": 0}
    program = program_of("halfcheetah", seeds, 200_000, fields)
    state = init(program, "online")
    block = noise_rows(program.spec, 10_000)
    block = ring.rounded(block) if kind == "bfloat16" else block
    full = ring.full(jnp.tile(block, (seeds, RING // 10_000, 1)))
    return program, state._replace(online=full), no_meters(program, "online"), memory_plan(program, Progress(False))


def rates(seeds: int, turns: int, steps: int) -> dict[str, dict[str, float]]:
    """Updates/s of all seeds, the best of the turns, and MB of the plan."""
    runs = {kind: started(seeds, kind) for kind in KINDS}
    best = dict.fromkeys(KINDS, np.inf)
    for turn in range(turns):
        for kind in KINDS:
            program, state, meters, plan = runs[kind]
            spec = program.spec
            obs, zero = np.zeros((seeds, spec.obs_dim), np.float32), np.zeros(seeds, np.float32)
            packet = Packet(obs, np.zeros((seeds, spec.act_dim), np.float32), zero, obs, zero, obs).pack()
            counts = program.mix.counts({}, program.offline_rows.shape[0])
            for t in range(steps + 3):
                if t == 3:
                    jax.block_until_ready(state.step)
                    start = time.perf_counter()
                step = np.int32(1 + turn * steps + t)
                state, meters, action = online_step(
                    program, state, meters, packet, step, program.offline_rows, counts, False
                )
            jax.block_until_ready(action)
            best[kind] = min(best[kind], time.perf_counter() - start)
            runs[kind] = program, state, meters, plan
    return {
        kind: {"updates_per_second": seeds * steps / best[kind], "plan_mb": sum(plan.values()), **plan}
        for kind, (*_, plan) in runs.items()
    }


def rounding(task: str) -> dict[str, float]:
    """Root mean square of what is lost of s' - s over that of s' - s, the mean and the worst of the observations."""
    found = {}
    data = load_dataset(f"local:{task}-medium-replay-v0")
    mean, std = data.observations.mean(axis=0), data.observations.std(axis=0) + 1e-6
    for name, shift, scale in (("plain", 0.0, 1.0), ("standardised", mean, std)):
        before, after = ((x - shift) / scale for x in (data.observations, data.next_observations))
        kept = lambda x: x.astype(jnp.bfloat16).astype(np.float32)
        lost = np.sqrt(np.mean((kept(after) - kept(before) - (after - before)) ** 2, axis=0))
        share = lost / np.sqrt(np.mean((after - before) ** 2, axis=0))
        found |= {f"{name}_mean": float(share.mean()), f"{name}_worst": float(share.max())}
    return found


def learning(folder: str) -> dict[str, object]:
    """The means of the online evaluations of the sweep's two runs by seed, and their paired difference."""
    means = {}
    for run in read_runs(runs_in(folder)):
        online = [each.normalized.mean(axis=1) for each in run.evaluations if each.phase == "online" and each.step]
        means[run.config["row_dtype"]] = np.mean(online, axis=0)
    found = stats.bootstrap([means["bfloat16"] - means["float32"]], stats.mean)
    by_seed = {kind: np.round(means[kind], 2).tolist() for kind in KINDS}
    return by_seed | {"difference": [float(number) for number in found]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="benchmarks/results/rows.json")
    parser.add_argument("--sweep", help="folder of the sweep, for what rounding does to learning")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    results = {"device": device_name(), "lost_of_motion": {task: rounding(task) for task in SETS}}
    results |= {f"seeds_{seeds}": rates(seeds, args.turns, args.steps) for seeds in (1, 5)}
    results |= {"learning": learning(args.sweep)} if args.sweep else {}
    with open(args.out, "w", encoding="utf-8") as file:
        file.write(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
