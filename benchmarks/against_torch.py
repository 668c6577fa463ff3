"""Updates of one seed beside the same in eager PyTorch, in turns in one run on one machine; prints one json object.

    python benchmarks/against_torch.py --torch /tmp/torchvenv/bin/python [--rounds 3] [--threads 1]

`--torch` is an interpreter that has PyTorch (see `torch_iql.py`). Milliseconds are of CPU time, all threads together,
the fewest of all rounds: on a machine with other work the clock on the wall says more of that work. The ratio stands
beside that of the matrix-product rates of both libraries, each by the clock and the best of all rounds.
"""

import argparse
import json
import os
import pathlib
import subprocess
import time

HERE = pathlib.Path(__file__).parent
CASES = {
    "iql": ("torch_iql.py", {}, 30),
    "calql": ("torch_calql.py", {"agent.critic_hidden": (256, 256)}, 5),
}
"""By agent: the script of the reference, fields of ours for the same sizes, and updates of a call."""


def torch_round(python, script, updates, threads):
    """One run of a reference."""
    sizes = ["--obs-dim", "17", "--act-dim", "6", "--updates", str(updates), "--repeats", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [python, script, *sizes]
    done = subprocess.run(command, cwd=HERE, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def our_rounds(name, fields, updates):
    """A function that runs `updates` updates three times and returns the fewest CPU milliseconds of one."""
    import jax

    from cfdg_jax.bench.programs import chunk_arguments, program_of
    from cfdg_jax.training.learn import offline_chunk

    program = program_of("halfcheetah", 1, 20_000, {"augment.width": 64} | fields, name)
    state, meters, rows = chunk_arguments(program, "online")

    def measure():
        nonlocal state, meters
        times = []
        for _ in range(4):
            start = time.process_time()
            state, meters = offline_chunk(program, state, meters, rows, updates, "online")
            jax.block_until_ready(state.agent)
            times.append(time.process_time() - start)
        return 1e3 * min(times[1:]) / updates

    return measure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", required=True, help="a Python with PyTorch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of both libraries")
    args = parser.parse_args()
    if args.threads == 1:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    from cfdg_jax.bench.programs import matmul_gflops
    from cfdg_jax.training.logging import device_name

    results = {"command": f"python benchmarks/against_torch.py --threads {args.threads}", "device": device_name()}
    for name, (script, fields, updates) in CASES.items():
        ours, measured, theirs, rates = our_rounds(name, fields, updates), [], [], []
        for _ in range(args.rounds):
            theirs.append(torch_round(args.torch, script, updates, args.threads))
            measured.append(ours())
            rates.append(matmul_gflops())
        torch_ms = min(run["cpu_milliseconds"] for run in theirs)
        torch_rate = max(run["matmul_gflops"] for run in theirs)
        results[name] = {
            "torch_ms": torch_ms,
            "ours_ms": min(measured),
            "ratio": torch_ms / min(measured),
            "product_rate_ratio": max(rates) / torch_rate,
            "torch": theirs[0]["torch"],
        }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
