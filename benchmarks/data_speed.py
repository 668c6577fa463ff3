"""How long data take: a D4RL file to rows on the device, and a `local:` dataset beside stepping its simulators alone.

    python benchmarks/data_speed.py                       writes benchmarks/results/data-speed.json

The file has D4RL's layout for HalfCheetah: a million rows, from the page cache, as they are or compressed as D4RL's
are; the rows repeat those of a `local:` dataset. Peak memory counts from before the file is opened and is given in
multiples of the packed array. Processor seconds tell more than seconds where other work runs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from called import command
from threadpoolctl import threadpool_limits

from cfdg_jax.data import local
from cfdg_jax.data.behaviours import environment, parts
from cfdg_jax.data.collect import collect
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.names import RECIPES
from cfdg_jax.data.pack import pack
from cfdg_jax.data.transforms import fit_transforms
from cfdg_jax.training.logging import device_name, versions

LIKE = "local:halfcheetah-medium-replay-v0"
BUILT = "hopper-medium-v0"
EPISODE = 1000


class Clock:
    """Seconds, and seconds of all processors, since it was made or last read."""

    def __init__(self) -> None:
        self.read()

    def read(self) -> tuple[float, float]:
        now = time.perf_counter(), time.process_time()
        since = tuple(round(b - a, 3) for a, b in zip(getattr(self, "last", now), now, strict=True))
        self.last = now
        return since  # type: ignore[return-value]


def peak_mb() -> float:
    """The most memory this process held since `forget_peak`; Linux alone."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def forget_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def write_file(path: pathlib.Path, rows: int, compression: str | None) -> None:
    """A file of `rows` rows in D4RL's layout, time-outs every `EPISODE` rows."""
    small = load_dataset(LIKE)
    arrays = {name: np.resize(value, (rows, *value.shape[1:])) for name, value in small.arrays().items()}
    arrays["timeouts"] = np.arange(rows) % EPISODE == EPISODE - 1
    write_hdf5(path, arrays, {"task": "halfcheetah", "dynamics": "d4rl"}, compression)


def load(path: pathlib.Path) -> dict:
    """Reads a file and packs it, in a process of its own; seconds and peak memory."""
    jnp.zeros(1).block_until_ready()
    path.read_bytes()  # into the page cache
    forget_peak()
    before, clock, found = peak_mb(), Clock(), {}
    dataset: Dataset = load_dataset(path)
    found["read"] = clock.read()
    transforms = fit_transforms(dataset, "return_range")
    packed = pack(dataset, transforms)
    found["pack"] = clock.read()
    on_device = jax.device_put(packed)
    on_device.block_until_ready()
    found["to_device"] = clock.read()
    size = packed.nbytes / 1e6
    return found | {"array_mb": round(size, 1), "peak_arrays": round((peak_mb() - before) / size, 2)}


def build(rows: int) -> dict:
    """Rows a second of building `BUILT` and steps a second of its simulators alone, under the same actions.

    Whole episodes are played, so at few rows for so many simulators a good part of the steps is cut away; `logging` is
    what remains of the raw rate when every step counts.
    """
    recipe, actions = RECIPES[BUILT], []
    (make,) = parts(recipe)[0].values()
    seeds = list(range(local.ENVIRONMENTS))
    env = environment(recipe, seeds, "d4rl", 0)
    policy = make(env)

    def recorded(obs, rng):
        actions.append(policy(obs, rng))
        return actions[-1]

    with threadpool_limits(limits=1, user_api="blas"):
        clock = Clock()
        collect(env, recorded, rows, np.random.default_rng(0))
        collected = clock.read()
        env = environment(recipe, seeds, "d4rl", 0)
        env.reset()
        clock.read()
        for action in actions:
            env.simulators.advance(np.clip(action, -1.0, 1.0))  # type: ignore[attr-defined]
        raw = clock.read()
    stepped = len(actions) * len(seeds)
    with tempfile.TemporaryDirectory() as folder:
        clock.read()
        local.build(BUILT, rows=rows, data_dir=folder, progress=False)
        built = clock.read()
    rate = lambda count, seconds: round(count / seconds)
    return {
        "rows": rows,
        "steps": stepped,
        "logging": [round(r / c, 2) for r, c in zip(raw, collected, strict=True)],
        "raw_steps_a_second": [rate(stepped, seconds) for seconds in raw],
        "built_rows_a_second": [rate(rows, seconds) for seconds in built],
        "share": [round(rows / b / (stepped / r), 2) for b, r in zip(built, raw, strict=True)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--build-rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "results/data-speed.json")
    parser.add_argument("--load", type=pathlib.Path, help="(of the process that loads one file)")
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load)))
        return
    found: dict = {"command": command(), "rows": args.rows}
    found["values"] = "[seconds, processor seconds]; load average " + " ".join(map(str, os.getloadavg()))
    found |= {"device": device_name(), "versions": versions()}
    with tempfile.TemporaryDirectory() as folder:
        for name, compression in (("as it is", None), ("gzip", "gzip")):
            path = pathlib.Path(folder) / f"{name.replace(' ', '-')}.hdf5"
            write_file(path, args.rows, compression)
            ran = subprocess.run([sys.executable, __file__, "--load", path], capture_output=True, text=True, check=True)
            found[f"load, {name}"] = json.loads(ran.stdout) | {"file_mb": round(path.stat().st_size / 1e6, 1)}
            print(name, found[f"load, {name}"], flush=True)
            path.unlink()
    found["build"] = build(args.build_rows)
    print(found["build"])
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
