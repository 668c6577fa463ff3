"""REDQ, randomised ensembled double Q-learning (Chen et al. 2021, arXiv 2101.05982).

The update is that of `sac`, with ten critics::

    y  : the minimum over two of the target critics, drawn at random
    pi : alpha log pi(a~ | s) - the mean over all critics of Q(s, a~), once per environment step
    Q  : twenty updates per environment step, which are `online.utd`

Formulas and sources: docs/algorithms.md#redq.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cfdg_jax.agents.base import sizes
from cfdg_jax.agents.sac import SACConfig, Switches, sac
from cfdg_jax.agents.soft import resolve_delay
from cfdg_jax.methods import Entry, Preset, Task, Values, Variant


@dataclasses.dataclass(frozen=True)
class REDQConfig(SACConfig):
    """Hyper-parameters; the defaults are the released code's (docs/algorithms.md#redq)."""

    critics: int = 10
    subset: float = 2.0
    policy_delay: int | None = None

    def variants(self) -> Mapping[str, Variant]:
        """The releases that `variant` names."""
        return VARIANTS


AUTHORS = Switches(
    order="joint",
    policy_q="mean",
    temperature_loss="log_alpha",
    log_std_range=(-20.0, 2.0),
    density_epsilon=1e-6,
    init="xavier",
)
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=AUTHORS),
    "ave": Variant({"subset": 0.0}, AUTHORS._replace(target_rule="mean")),
    "rem": Variant({"subset": 0.0}, AUTHORS._replace(target_rule="random")),
    "fractional": Variant({"subset": 1.5}, AUTHORS),
    "first_release": Variant(switches=AUTHORS._replace(order="in_place_joint")),
}
"""Releases by name (docs/algorithms.md#redq).

``authors``: the released code.
``ave``, ``rem``: its targets of the mean, and of a random mixture, over all critics.
``fractional``: its fractional number of critics in the target, one or two of them.
``first_release``: March 2021; the policy's gradient meets critics that were overwritten in place.
"""

STEPS = {"hopper": 125_000, "walker2d": 300_000, "ant": 300_000, "halfcheetah": 400_000}
"""Environment steps of the released code."""


def _many_critics(preset: Preset, task: Task) -> dict[str, Any]:
    """Updates per environment step and ensemble of a preset."""
    if preset == "paper":
        return {"online.utd": 20}
    return {"online.utd": 4, "agent.critics": 4} | dict(sizes(preset, task))


def _values(preset: Preset, task: Task) -> Values:
    steps = {"online.steps": STEPS.get(task.name, 300_000)} if preset == "paper" else {}
    return {**steps, **_many_critics(preset, task)}


ENTRY = Entry(
    REDQConfig,
    sac,
    about="randomised ensembled double Q-learning (Chen et al. 2021)",
    values=_values,
    resolve=resolve_delay,
    variants=VARIANTS,
    pretrains=False,
)
