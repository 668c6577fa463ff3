"""Where the time of an update goes: products, and everything else by kind, from a profiler's trace.

    python benchmarks/profile_updates.py [--cases iql redq] [--out benchmarks/results/profile.json]

The cases of `against_torch.py`, one seed, by the clock. Kernels run one after the other, products on all cores.
`gflops` is the rate of the products within their own time, `untraced` an update when nothing is traced.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"

from against_torch import CASES
from called import command
from traced import kernel_microseconds

from cfdg_jax.bench.programs import matmul_gflops
from cfdg_jax.training.logging import device_name, versions

KINDS = {"products": ("dot", "ynn"), "sums over rows": ("reduce",), "copies": ("copy", "transpose", "slice", "concat")}
"""Parts of a kernel's name, as XLA on CPU gives them. All other kernels are elementwise."""
ROUNDS = 5


def kind_of(kernel: str) -> str:
    return next((kind for kind, parts in KINDS.items() if any(part in kernel for part in parts)), "elementwise")


def profile(call: Callable[[], None], updates: int) -> dict[str, float]:
    """Milliseconds of one update by kind, from the fastest of several calls of `updates` each."""
    call()
    best: dict[str, float] = {"all": float("inf")}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
        spent = dict.fromkeys((*KINDS, "elementwise"), 0.0)
        for kernel, microseconds in kernel_microseconds(call).items():
            spent[kind_of(kernel)] += microseconds / updates / 1e3
        if sum(spent.values()) < best["all"]:
            best = spent | {"all": sum(spent.values()), "untraced": 1e3 * seconds / updates}
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/profile.json"))
    args = parser.parse_args()
    results = {"command": command(), "device": device_name(), "versions": versions()}
    results["matmul_gflops"], measured = matmul_gflops(), {}
    for name in args.cases:
        work = CASES[name].ours(CASES[name].updates)
        spent = profile(work.call, CASES[name].updates)
        measured[name] = spent | {"gflop": work.gflop, "gflops": 1e3 * work.gflop / spent["products"]}
        print(name, {key: round(value, 3) for key, value in measured[name].items()}, flush=True)
    results |= {"milliseconds": measured}
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
