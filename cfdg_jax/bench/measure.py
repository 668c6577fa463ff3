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
    """Measures `what` (default: everything), prints it and writes it to a json file after each part; returns its path.

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
    previous = _present(path)
    options = [f"--agent {name}" for name in agents] + ["--quick"] * quick
    results: dict[str, Any] = {"command": "", "device": device_name(), "versions": versions()}
    print(f"device: {results['device']}")
    asked = tuple(what or PARTS)
    for done, name in enumerate(asked, start=1):
        results[name] = _measured(name, quick, agents)
        words = what if done == len(asked) else asked[:done]  # what is in the file if the next part is interrupted
        results["command"] = " ".join(["cfdg-jax bench", *words, *options])
        write_atomic(path, json.dumps(_joined(previous, results), indent=2) + "\n")
    print(f"written: {path}")
    return path


def _measured(name: str, quick: bool, agents: Sequence[str]) -> dict[str, Any]:
    """The numbers of one part, printed too."""
    before = matmul_gflops(512 if quick else 2048)
    measured = PARTS[name](quick, *[agents] * bool(agents))
    rate = max(before, matmul_gflops(512 if quick else 2048))
    found = {"matmul_gflops": rate} | measured
    _add_shares(found, rate)
    print(f"{name}:\n" + json.dumps(found, indent=2))
    if name == "kernels":
        print(kernels.table(measured))
    return found


def _present(path: pathlib.Path) -> Any:
    """What the file at `path` holds, None where there is none.

    Raises:
      UserError: before anything is measured, if it cannot be written or is none that may be replaced.
    """
    remedy = "name another with --out"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        held = json.loads(before) if before else None
        write_atomic(path, before)
        if not before:
            path.unlink()
        return held
    except OSError as error:
        raise UserError(str(path), f"cannot be written ({error.strerror})", remedy) from None
    except ValueError as error:
        raise UserError(str(path), f"is no json ({error}) and would be replaced", remedy) from None


def _joined(previous: Any, results: dict[str, Any]) -> dict[str, Any]:
    """`results` with what the file held beside them, `previous`, where that is of the same device and versions."""
    try:
        same = all(previous[name] == results[name] for name in ("device", "versions"))
        both = {"command": f"{previous['command']}; {results['command']}"}
    except (KeyError, TypeError):  # there was none, or it is no benchmark's
        return results
    left = {name: value for name, value in previous.items() if name in PARTS and name not in results}
    return results | left | both if same and left else results


def _add_shares(results: dict[str, Any], rate: float) -> None:
    for value in results.values():
        if isinstance(value, dict) and "gflops" in value:
            value["share_of_matmul"] = value["gflops"] / rate
