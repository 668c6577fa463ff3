"""``cfdg-jax demo``: the main job on the embedded default, ending in a report.

    data      local:hopper-medium-replay-v0, built on first use
    offline   IQL, several seeds at once
    online    twice from the same pre-training: IQL, and IQL with CFDG
    report    one HTML page

Every stage keeps what it finished: running the command again continues where it stopped.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping

from cfdg_jax.config import TrainConfig, named_choice, override
from cfdg_jax.data.load import task_of_name
from cfdg_jax.presets import apply_preset
from cfdg_jax.report.build import build_report
from cfdg_jax.sweep import run_or_continue

DATASET = "local:hopper-medium-replay-v0"
BUDGET = {
    "agent.hidden": (128, 128),
    "mix.kind": "uniform",
    "offline.steps": 10_000,
    "online.steps": 15_000,
    "evaluate.offline_every": 2_500,
    "augment.steps": 2_000,
    "refresh.rows": 10_000,
}
"""What the demo changes in the reduced preset, to end within ten minutes on two cores."""


def demo_config(augment: str, preset: str, fields: Mapping[str, str]) -> TrainConfig:
    """The config of one of the demo's two runs; `fields` are dotted overrides for both."""
    config = TrainConfig(dataset=DATASET, augment=named_choice("augment", augment))
    config = apply_preset(config, preset, task_of_name(DATASET))
    values = (BUDGET if preset == "reduced" else {}) | dict(fields)
    own = {path: value for path, value in values.items() if augment != "none" or not path.startswith("augment.")}
    return override(config, own)


def demo(out: pathlib.Path, preset: str = "reduced", fields: Mapping[str, str] | None = None) -> str:
    """Runs the demo into `out` and returns what to print: the report's path and the time taken.

    Raises:
      UserError: if `out` holds runs of other settings.
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
    """
    start = time.perf_counter()
    base = run_or_continue(out / "iql", demo_config("none", preset, fields or {}))
    augmented = run_or_continue(out / "iql-cfdg", demo_config("cfdg", preset, fields or {}), base.folder)
    page = build_report([base.folder, augmented.folder], out / "report")
    return f"report: {page}\n{time.perf_counter() - start:.0f} s in all"
