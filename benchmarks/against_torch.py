"""Updates and denoiser steps beside the same in eager PyTorch, in turns in one run on one machine; prints json.

    python benchmarks/against_torch.py [--torch PYTHON] [--cases iql redq]

`--torch` is an interpreter that has PyTorch, this one where it is installed beside JAX (see `torch_iql.py`).
Milliseconds are of CPU time, all threads together, the fewest of all rounds: on a machine with other work the clock on
the wall says more of that work. The ratio stands beside that of the rates of a large matrix product, in GFLOP per
second of CPU time and the best of all rounds, and beside the share of its own that either library reaches: the ratio is
that of the rates times that of the shares.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from called import command

HERE = pathlib.Path(__file__).parent
WIDTH, ROWS, LEVELS = 1_024, 2_000, 16
"""Of the denoiser: its width, the rows sampled at once, and the steps of the sampler."""


class Work(NamedTuple):
    """What is timed.

    Attributes:
      call: Makes the updates and waits.
      gflop: Of the matrix products of one of them.
    """

    call: Callable[[], None]
    gflop: float


class Case(NamedTuple):
    """A reference and what of ours is timed beside it.

    Attributes:
      script: Of the reference, with its own arguments.
      ours: ``(updates) -> Work``.
      updates: Of a call, on both sides.
    """

    script: tuple
    ours: Callable
    updates: int


def agent(name, fields=None):
    """Updates of an agent's online phase, one seed, as the run compiles them."""

    def make(updates):
        import jax

        from cfdg_jax.bench.programs import chunk_arguments, policy_delay, program_of
        from cfdg_jax.core.flops import product_flop
        from cfdg_jax.training.learn import offline_chunk

        program = program_of("halfcheetah", 1, 20_000, {"augment.width": 64} | (fields or {}), name)
        state, meters, rows = chunk_arguments(program, "online")
        chunk = lambda state, meters: offline_chunk(program, state, meters, rows, updates, "online")
        flop = product_flop(chunk, state, meters, delay=policy_delay(program))

        def call():
            nonlocal state, meters
            state, meters = chunk(state, meters)
            jax.block_until_ready(state.agent)

        return Work(call, flop / updates / 1e9)

    return make


def denoiser(part):
    """Steps of SynthER's fit, or the rows of one sampling, one seed."""

    def make(updates):
        import jax
        import jax.numpy as jnp

        from cfdg_jax.augment.registry import make_augmenter
        from cfdg_jax.augment.synther import SynthERConfig
        from cfdg_jax.bench.programs import noise_rows
        from cfdg_jax.core import ring
        from cfdg_jax.core.flops import product_flop
        from cfdg_jax.envs.registry import spec_of
        from cfdg_jax.types import Source

        spec = spec_of("halfcheetah", "gymnasium")
        held = ring.full(jnp.asarray(noise_rows(spec, 20_000)))
        augmenter = make_augmenter(SynthERConfig(width=WIDTH, sampler_steps=LEVELS, churn=0.0), spec)
        state = augmenter.init(jax.random.key(0), held.rows, held)
        key, source = jax.random.key(1), int(Source.SYNTHETIC_ONLINE)
        fits = jax.jit(lambda state: augmenter.fit(state, held.rows, held, key, steps=updates)[0], donate_argnums=0)
        rows = jax.jit(lambda state: augmenter.generate(state, key, source, ROWS))
        flop = product_flop(fits if part == "fit" else rows, state)

        def call():
            nonlocal state
            if part == "fit":
                state = fits(state)
                jax.block_until_ready(state.denoiser.params)
            else:
                jax.block_until_ready(rows(state))

        return Work(call, flop / updates / 1e9)

    return make


SAMPLER = ("torch_denoiser.py", "sample", "--width", str(WIDTH), "--rows", str(ROWS), "--steps", str(LEVELS))
CASES = {
    "iql": Case(("torch_iql.py",), agent("iql"), 30),
    "td3bc": Case(("torch_actors.py", "td3bc"), agent("td3bc"), 30),
    "redq": Case(("torch_actors.py", "redq"), agent("redq"), 20),
    "calql": Case(("torch_calql.py",), agent("calql", {"agent.critic_hidden": (256, 256)}), 5),
    "denoiser fit": Case(("torch_denoiser.py", "fit", "--width", str(WIDTH)), denoiser("fit"), 10),
    "denoiser evaluation": Case(SAMPLER, denoiser("sample"), 2 * LEVELS - 1),
}


def torch_round(python, case, threads):
    """One run of a reference."""
    sizes = ["--obs-dim", "17", "--act-dim", "6", "--updates", str(case.updates), "--repeats", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [python, *case.script, *sizes]
    done = subprocess.run(command, cwd=HERE, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def product_rate(size=2048):
    """GFLOP per second of CPU time, all threads together, of a large product of ours."""
    import jax

    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / cpu_milliseconds(lambda: product(a).block_until_ready(), 1) / 1e6


def cpu_milliseconds(call, updates):
    """The fewest milliseconds of CPU time of one of the `updates` of a call."""
    times = []
    for _ in range(4):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * min(times[1:]) / updates


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", default=sys.executable, help="a Python with PyTorch; default: this one")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of both libraries")
    args = parser.parse_args()
    if subprocess.run([args.torch, "-c", "import torch"], capture_output=True, check=False).returncode:
        parser.error(f"--torch: {args.torch} has no PyTorch; install it there, or name a Python that has it")
    if args.threads == 1:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    from cfdg_jax.training.logging import device_name

    results = {"command": command(), "device": device_name()}
    for name in args.cases:
        case = CASES[name]
        ours, measured, theirs, rates = case.ours(case.updates), [], [], []
        for _ in range(args.rounds):
            theirs.append(torch_round(args.torch, case, args.threads))
            measured.append(cpu_milliseconds(ours.call, case.updates))
            rates.append(product_rate())
        torch_ms = min(run["cpu_milliseconds"] for run in theirs)
        torch_rate = max(run["matmul_gflops"] for run in theirs) / args.threads
        results[name] = {
            "torch_ms": torch_ms,
            "ours_ms": min(measured),
            "ratio": torch_ms / min(measured),
            "product_rate_ratio": max(rates) / torch_rate,
            "torch": theirs[0]["torch"],
        }
        shares = {"ours": (min(measured), max(rates)), "torch": (torch_ms, torch_rate)}
        done = results[name]
        print(f"{name}: {done['ratio']:.2f} times, products {done['product_rate_ratio']:.2f} times", file=sys.stderr)
        results[name] |= {f"{who}_share": 1e3 * ours.gflop / ms / rate for who, (ms, rate) in shares.items()}
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
