"""A long run of tiny steps: memory, open files and the run folder must not grow with the number of steps.

    python benchmarks/growth.py --steps 1000000

prints a line at every checkpoint and fails if memory grew by more than a tenth after the first tenth of the run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import resource
import tempfile

import cfdg_jax
from cfdg_jax.training.session import Session


def resident_mb() -> float:
    """Memory of this process that is in RAM."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--agent", default="sac")
    options = parser.parse_args()
    every, seen = max(options.steps // 50, 1), []
    fields = {
        "env.task": "toy-dense", "seeds": 1, "online.steps": options.steps, "online.capacity": 10_000,
        "online.start_steps": 500, "evaluate.online_every": every, "evaluate.episodes": 1, "log.every": every,
        "agent.hidden": (16, 16), "mix.batch_size": 16,
    }  # fmt: skip
    config = cfdg_jax.make_config("", options.agent, preset="smoke", **fields)
    checkpoint = Session.checkpoint

    def note(session: Session) -> None:
        checkpoint(session)
        files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        size = sum(path.stat().st_size for path in session.folder.rglob("*") if path.is_file()) / 1e6
        seen.append((session.step, resident_mb(), files, size))
        print(f"step {session.step:>9,}  memory {seen[-1][1]:7.0f} MB  open files {files:3d}  folder {size:6.2f} MB")

    Session.checkpoint = note  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        cfdg_jax.train(config, pathlib.Path(folder) / "run", progress=False)
    settled = next(line for line in seen if line[0] >= options.steps / 10)
    assert seen[-1][1] < 1.1 * settled[1], "memory grew"
    assert seen[-1][2] <= settled[2], "open files grew"


if __name__ == "__main__":
    main()
