"""Published learning curves, to be laid beside a run's own on the same dataset.

Numbers: corl-team/CORL at eeeeef2, ``results/bin/finetune_scores.pickle`` (Apache-2.0), normalised scores, 4 seeds, one
evaluation kept of every 100,000 steps. Nobody but D4RL's own datasets has published curves, so `local:` runs get none.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from typing import NamedTuple

SOURCE = "CORL"


class Curve(NamedTuple):
    """Mean scores of one method on one dataset and phase, with standard deviations over seeds."""

    method: str
    phase: str
    steps: list[float]
    mean: list[float]
    std: list[float]


@functools.cache
def _all() -> dict[str, list[Curve]]:
    text = importlib.resources.files("cfdg_jax").joinpath("assets/published.csv").read_text("utf-8")
    curves: dict[tuple[str, str, str], Curve] = {}
    for row in csv.DictReader(text.splitlines()):
        curve = curves.setdefault(
            (row["dataset"], row["method"], row["phase"]), Curve(row["method"], row["phase"], [], [], [])
        )
        for values, name in ((curve.steps, "step"), (curve.mean, "mean"), (curve.std, "std")):
            values.append(float(row[name]))
    found: dict[str, list[Curve]] = {}
    for (dataset, _, _), curve in curves.items():
        found.setdefault(dataset, []).append(curve)
    return found


def published(dataset: str) -> list[Curve]:
    """The published curves on a dataset; none where there are none."""
    return _all().get(dataset, [])
