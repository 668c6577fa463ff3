"""What each of 1, 2, 4 and 8 simulated devices holds of eight lanes, and what they exchange.

    python benchmarks/devices.py [--out benchmarks/results/devices.json]

Runs `tests/many_devices.py`, whose numbers the tests compare, and keeps what it read out of the compiled programs:
bytes of a program's arguments on one device, of its share of the rings and of a part of the critics.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile

from called import command

from cfdg_jax.training.logging import device_name, versions

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "tests"))
import many_devices

KEPT = ("memory", "collectives")
LIGHT = "--xla_backend_optimization_level=0"
"""What is read does not depend on it, and minutes do."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/devices.json"))
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        found = many_devices.found(pathlib.Path(folder), ("2", "4"), LIGHT)
    devices = {
        count: {name: outcome[name] for name in KEPT}
        | {"shards": {name: each[0] for name, each in outcome["shards"].items()}}
        for count, outcome in sorted(found["outcomes"].items())
    }
    results = {"command": command(), "device": device_name(), "versions": versions()}
    out.write_text(json.dumps(results | {"devices": devices}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
