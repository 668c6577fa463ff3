"""``cfdg-jax bench``: throughput, each number beside the matrix-product rate of the same machine in the same run.

The command's help says what each part measures.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from cfdg_jax.bench import kernels, online, rates, scaling
from cfdg_jax.bench.programs import matmul_gflops
from cfdg_jax.errors import UserError, require
from cfdg_jax.training.logging import device_name, versions, write_atomic

PARTS = {
    "offline": rates.offline_rates,
    "agents": rates.agent_rates,
    "online": online.online_rates,
    "stratify": online.stratify_rates,
    "generator": rates.generator_rates,
    "env": rates.env_rates,
    "scaling": scaling.scaling_rates,
    "kernels": kernels.kernel_counts,
}
OF_AGENTS = ("agents", "kernels")
"""Parts that can be had for some agents alone."""


def bench(
    what: Sequence[str] = (), out: pathlib.Path | None = None, quick: bool = False, agents: Sequence[str] = ()
) -> pathlib.Path:
    """Measures `what` (default: everything), prints it and writes one json file; returns its path.

    A file of the same device and versions keeps the parts that are not measured anew. With `agents`, `what` is of
    `OF_AGENTS` (default: both), and the default file is another.
    """
    unknown = [name for name in what if name not in PARTS]
    require(not unknown, "bench", f"'{' '.join(unknown)}' is unknown", f"valid: {', '.join(PARTS)}")
    what = what or (OF_AGENTS if agents else ())
    others = [name for name in what if name not in OF_AGENTS]
    remedy = f"goes with {' '.join(OF_AGENTS)}"
    require(not agents or not others, "--agent", f"is nothing to {' '.join(others)}", remedy)
    default = "-".join(["bench", jax.devices()[0].platform, *agents, *["quick"] * quick])
    path = out or pathlib.Path("benchmarks/results") / f"{default}.json"
    _require_place(path)
    options = [f"--agent {name}" for name in agents] + ["--quick"] * quick
    results: dict[str, Any] = {
        "command": " ".join(["cfdg-jax bench", *what, *options]),
        "device": device_name(),
        "versions": versions(),
    }
    print(f"device: {results['device']}")
    for name in what or PARTS:
        before = matmul_gflops(512 if quick else 2048)
        measured = PARTS[name](quick, *[agents] * bool(agents))
        rate = max(before, matmul_gflops(512 if quick else 2048))
        results[name] = {"matmul_gflops": rate} | measured
        _add_shares(results[name], rate)
        print(f"{name}:\n" + json.dumps(results[name], indent=2))
        if name == "kernels":
            print(kernels.table(measured))
    results = _joined(path, results)
    write_atomic(path, json.dumps(results, indent=2) + "\n")
    print(f"written: {path}")
    return path


def _require_place(path: pathlib.Path) -> None:
    """Refuses, before anything is measured, a file that cannot be written or is none that may be replaced."""
    remedy = "name another with --out"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if before:
            json.loads(before)
        write_atomic(path, before)
        if not before:
            path.unlink()
    except OSError as error:
        raise UserError(str(path), f"cannot be written ({error.strerror})", remedy) from None
    except ValueError as error:
        raise UserError(str(path), f"is no json ({error}) and would be replaced", remedy) from None


def _joined(path: pathlib.Path, results: dict[str, Any]) -> dict[str, Any]:
    """`results` with what the file at `path` holds beside them, where it is of the same device and versions."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        same = all(before[name] == results[name] for name in ("device", "versions"))
        both = {"command": f"{before['command']}; {results['command']}"}
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is no benchmark's
        return results
    left = {name: value for name, value in before.items() if name in PARTS and name not in results}
    return results | left | both if same and left else results


def _add_shares(results: dict[str, Any], rate: float) -> None:
    for value in results.values():
        if isinstance(value, dict) and "gflops" in value:
            value["share_of_matmul"] = value["gflops"] / rate
