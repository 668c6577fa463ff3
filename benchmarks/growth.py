"""A long run of tiny steps: memory, open files, programs and the run folder must not grow with the number of steps.

    python benchmarks/growth.py --steps 1000000

prints a line at every checkpoint, writes them with command, versions and machine, and fails if programs or open files
became more, or memory grew by more than a tenth, after the first tenth of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import tempfile
import time

import jax
from called import command

import cfdg_jax
from cfdg_jax.training.logging import device_name, versions
from cfdg_jax.training.session import Session

COMPILED = "/jax/core/compile/backend_compile_duration"
NAMES = ("step", "seconds", "memory_mb", "open_files", "programs", "folder_mb")


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def watch(seen: list[tuple[float, ...]]) -> None:
    """Makes every checkpoint add what the process holds then (`NAMES`) to `seen` and print it."""
    checkpoint, start, programs = Session.checkpoint, time.monotonic(), [0]

    def count(event: str, seconds: float, **kwargs: object) -> None:
        programs[0] += event == COMPILED

    def note(session: Session) -> None:
        checkpoint(session)
        files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        size = sum(path.stat().st_size for path in session.folder.rglob("*") if path.is_file()) / 1e6
        seconds = round(time.monotonic() - start, 1)
        seen.append((session.step, seconds, round(resident_mb(), 1), files, programs[0], round(size, 2)))
        print("  ".join(f"{name} {value:,}" for name, value in zip(NAMES, seen[-1], strict=True)), flush=True)

    jax.monitoring.register_event_duration_secs_listener(count)
    Session.checkpoint = note  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--agent", default="sac")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/growth.json"))
    options = parser.parse_args()
    every, seen = max(options.steps // 50, 1), list[tuple[float, ...]]()
    fields = {
        "env.task": "toy-dense", "seeds": 1, "online.steps": options.steps, "online.capacity": 10_000,
        "online.start_steps": 500, "evaluate.online_every": every, "evaluate.episodes": 1, "log.every": every,
        "agent.hidden": (16, 16), "mix.batch_size": 16,
    }  # fmt: skip
    config = cfdg_jax.make_config("", options.agent, preset="smoke", **fields)
    watch(seen)
    with tempfile.TemporaryDirectory() as folder:
        cfdg_jax.train(config, pathlib.Path(folder) / "run", progress=False)
    about = {"command": command(), "device": device_name(), "versions": versions(), "columns": NAMES}
    rows = ",\n".join(f"  {json.dumps(row)}" for row in seen)
    text = json.dumps(about)[:-1] + f', "rows": [\n{rows}\n]}}\n'
    options.out.write_text(text, encoding="utf-8")
    _, _, memory, files, programs, _ = next(row for row in seen if row[0] >= options.steps / 10)
    assert seen[-1][2] < 1.1 * memory, "memory grew"
    assert seen[-1][3] <= files, "open files grew"
    assert seen[-1][4] <= programs, "programs grew"


if __name__ == "__main__":
    main()
