"""``cfdg-jax demo``: the sweep of `assets/demo.yaml`, from nothing to a report."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from cfdg_jax.sweep import expand, sweep


def demo(out: pathlib.Path, preset: str = "reduced", fields: Mapping[str, Any] | None = None) -> str:
    """Runs the demo into `out`.

    Args:
      out: Folder of the runs and the report.
      preset: The file's own, or another, whose values then stand without the file's budget.
      fields: Dotted fields for all runs.

    Returns:
      What to print: the report's path and the time taken.

    Raises:
      UserError: if `out` holds runs of other settings.
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
    """
    start = time.perf_counter()
    plain = yaml.safe_load(resources.files("cfdg_jax").joinpath("assets/demo.yaml").read_text(encoding="utf-8"))
    kept = plain["fields"] if preset == plain["preset"] else {"dataset": plain["fields"]["dataset"]}
    configs = expand(plain | {"preset": preset, "fields": kept | dict(fields or {})}, "demo")
    return f"report: {sweep(configs, out)}\n{time.perf_counter() - start:.0f} s in all"
