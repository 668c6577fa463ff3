"""What `benchmarks/gpu.sh` runs: rates of an accelerator part by part, the dearest questions first.

    versions    of everything, and the device
    products    GFLOP/s of a large product in float32, TF32 and bfloat16; GB/s of a copy
    seeds       updates/s of the first agent for 1 to 200 seeds, in each precision
    transfers   microseconds of a packet to the device and of actions back, in plain and in pinned memory
    online      the online step beside its updates and environments alone
    generator   denoiser steps/s and generated rows/s
    paper       hours of an online phase of preset `paper`, put together from the rates above
    real        20,000 online steps with generated rows, as `cfdg-jax train` makes them
    stratify    the online step with each stratifier
    profile     the ten dearest kernels of an online update

Files are written as numbers come, and name what is not measured yet: the process may be ended at any moment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from called import command
from traced import kernel_microseconds

import cfdg_jax
from cfdg_jax.augment.registry import AUGMENTERS
from cfdg_jax.bench.online import online_rates, stratify_rates
from cfdg_jax.bench.programs import best_seconds, matmul_gflops, program_of
from cfdg_jax.bench.rates import generator_rates, update_rate
from cfdg_jax.training.logging import device_name, versions, write_atomic

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
DEAREST = 10


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Of matrix products within the block; programs are compiled anew."""
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", name)
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)


def products(quick: bool, found: dict) -> Iterator[tuple[str, float]]:
    size = 512 if quick else 8192
    for name in PRECISIONS:
        with precision(name):
            yield f"{name}_gflops", matmul_gflops(size)
    x = jnp.zeros(1 << (20 if quick else 28), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    yield "copy_gb_per_second", 2 * x.nbytes / best_seconds(lambda: copy(x), 5) / 1e9


def seeds(quick: bool, found: dict) -> Iterator[tuple[str, dict[str, float]]]:
    for name in PRECISIONS:
        for count in (1, 2) if quick else (1, 5, 20, 50, 100, 200):
            with precision(name):
                program = program_of("halfcheetah", count, 20_000, {"augment.width": 64})
                yield f"{name}_{count}", update_rate(program, 10 if quick else 100, 2 if quick else 3)


def transfers(quick: bool, found: dict) -> dict[str, float]:
    """Of HalfCheetah's sizes; a packet is copied into pinned memory first, actions are computed into it."""
    device = jax.devices()[0]
    pinned = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
    on_device = jax.sharding.SingleDeviceSharding(device)
    times = {}
    for count in (5, 200):
        packet, actions = np.zeros((count, 60), np.float32), jnp.zeros((count, 6))
        here, there = jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 1, out_shardings=pinned)
        calls = {
            "send": lambda packet=packet: jax.device_put(packet, on_device),
            "send_pinned": lambda packet=packet: jax.device_put(jax.device_put(packet, pinned), on_device),
            "return": lambda actions=actions, here=here: np.asarray(here(actions)),
            "return_pinned": lambda actions=actions, there=there: np.asarray(there(actions)),
        }
        times |= {f"{name}_seeds_{count}_us": 1e6 * best_seconds(call, 20) for name, call in calls.items()}
    return times


def paper(quick: bool, found: dict) -> dict[str, float]:
    """Five seeds; the fit of all of them is taken as five times that of one, which a device does better."""
    config = cfdg_jax.make_config("local:hopper-medium-v0", augment=list(AUGMENTERS)[-1], preset="paper")
    width = "64" if quick else "1024"
    rates = found["generator"][f"fit_width_{width}"], found["generator"][f"sample_width_{width}"]
    refreshes = (config.online.steps - 1) // config.refresh.every
    fit = refreshes * config.augment.steps / rates[0]["steps_per_second"]
    made = refreshes * config.refresh.rows / rates[1]["rows_per_second"] * config.augment.sampler_steps / 32
    hours = {
        "online": config.online.steps / found["online"]["steps_per_second"] / 3600,
        "fits": config.seeds * fit / 3600,
        "rows": config.seeds * made / 3600,
    }
    return hours | {"all": sum(hours.values())}


def real(quick: bool, found: dict) -> dict[str, float]:
    steps = 400 if quick else 20_000
    fields = {"offline.steps": steps // 4, "online.steps": steps, "evaluate.online_every": steps}
    fields |= {"evaluate.offline_every": steps, "online.start_steps": 200} | ({} if quick else {"seeds": 5})
    config = cfdg_jax.make_config(
        "local:toy-dense-medium-v0" if quick else "local:hopper-medium-replay-v0",
        augment=list(AUGMENTERS)[-1],
        preset="smoke" if quick else "reduced",
        **fields,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = cfdg_jax.train(config, pathlib.Path(folder) / "run", progress=False)
        return {"steps": steps, "seeds": config.seeds} | run.summary["seconds"]


def profile(quick: bool, found: dict) -> dict[str, Any]:
    """Microseconds of each kernel in a trace of online updates, all seeds; the ten with most, and their sum."""
    updates = 20 if quick else 100
    program = program_of("halfcheetah", 2 if quick else 5, 20_000, {"augment.width": 64})
    update_rate(program, updates, 1)
    spent = kernel_microseconds(lambda: update_rate(program, updates, 1))
    return {
        "device_events": jax.default_backend() != "cpu",
        "microseconds": sum(spent.values()),
        "dearest": dict(list(spent.items())[:DEAREST]),
    }


PARTS: dict[str, Callable[[bool, dict], dict | Iterator[tuple[str, Any]]]] = {
    "products": products,
    "seeds": seeds,
    "transfers": transfers,
    "online": lambda quick, found: online_rates(quick),
    "generator": lambda quick, found: generator_rates(quick),
    "paper": paper,
    "real": real,
    "stratify": lambda quick, found: stratify_rates(quick),
    "profile": profile,
}
"""Each makes its numbers, at once or one by one, of whether it is in small and of the parts before."""


def page(results: dict[str, Any]) -> str:
    """The numbers for people."""
    lines = [f"# {results['device']}", "", f"`{results['command']}`", ""]
    if results["left_out"]:
        lines += [f"Left out, for the time was up: {', '.join(results['left_out'])}.", ""]
    for name, value in results.items():
        if isinstance(value, dict):
            lines += [f"## {name}", "", "| what | value |", "|---|---|", *map(_row, _flat(value)), ""]
    return "\n".join(lines)


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{prefix}{name} ")
        else:
            yield prefix + name, each


def _row(pair: tuple[str, Any]) -> str:
    name, value = pair
    return f"| {name} | {value:,.4g} |" if isinstance(value, float) else f"| {name} | {value} |"


def measure(quick: bool, path: pathlib.Path) -> None:
    """Every part, with `path` and the page beside it as of the last number."""
    results: dict[str, Any] = {"command": command("benchmarks/gpu.sh"), "device": device_name(), "versions": versions()}
    seconds: dict[str, float] = {}

    def write() -> None:
        left = [name + " (in part)" * (name in results) for name in PARTS if name not in seconds]
        now = results | {"seconds": seconds, "left_out": left}
        write_atomic(path, json.dumps(now, indent=2) + "\n")
        write_atomic(path.with_suffix(".md"), page(now))

    write()
    print(f"written as numbers come: {path} and {path.with_suffix('.md')}", flush=True)
    for name, part in PARTS.items():
        begun, found = time.monotonic(), part(quick, results)
        for what, value in found.items() if isinstance(found, dict) else found:
            results.setdefault(name, {})[what] = value
            write()
        seconds[name] = time.monotonic() - begun
        write()
        print(f"{name}: {seconds[name]:.0f} s\n{json.dumps(results[name], indent=2)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    measure(args.quick, args.out / f"gpu-{jax.default_backend()}{'-quick' * args.quick}.json")


if __name__ == "__main__":
    main()
