"""What each of 1, 2, 4 and 8 simulated devices holds of eight lanes, and what they exchange.

    python benchmarks/devices.py [--out benchmarks/results/devices.json]

Runs `tests/many_devices.py`, whose numbers the tests compare, and keeps what it read out of the compiled programs:
bytes of a program's arguments on one device, of its share of the rings and of a part of the critics.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from cfdg_jax.training.logging import device_name, versions

TESTS = pathlib.Path(__file__).resolve().parents[1] / "tests"
KEPT = ("memory", "collectives")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/devices.json"))
    out = parser.parse_args().out
    path = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    light = "--xla_backend_optimization_level=0"  # what is read does not depend on it, and minutes do
    flags = f"{os.environ.get('XLA_FLAGS', '')} {light} --xla_force_host_platform_device_count=8"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": flags}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(TESTS / "many_devices.py"), folder]
        found = json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    devices = {
        count: {name: outcome[name] for name in KEPT}
        | {"shards": {name: each[0] for name, each in outcome["shards"].items()}}
        for count, outcome in found["outcomes"].items()
    }
    results = {"command": "python benchmarks/devices.py", "device": device_name(), "versions": versions()}
    out.write_text(json.dumps(results | {"devices": devices}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
