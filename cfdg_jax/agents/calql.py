"""Cal-QL, calibrated Q-learning (Nakamoto et al. 2023, arXiv 2303.05479).

The update is that of `cql` with one change to its regulariser: at the actions of the policy, Q_i becomes
max(Q_i, mc_return). A value already under the return of the behaviour is pushed no further; mc_return = -inf is no
bound. Formulas and sources: docs/algorithms.md#calql.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from cfdg_jax.agents.cql import ANTMAZE, CQLConfig, Switches, cql
from cfdg_jax.agents.penalty import penalty_values
from cfdg_jax.methods import Entry, Preset, Task, Values, Variant


@dataclasses.dataclass(frozen=True)
class CalQLConfig(CQLConfig):
    """Hyper-parameters; the defaults are the authors' for AntMaze (docs/algorithms.md#calql)."""

    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256, 256, 256)
    policy_learning_rate: float = 1e-4
    penalty_weight: float = 5.0
    lagrange_gap: float | None = 0.8
    calibrate: Literal["never", "offline", "always"] = "always"
    backup: Literal["sample", "max", "max_each"] = "max"

    def variants(self) -> Mapping[str, Variant]:
        """The releases that `variant` names."""
        return VARIANTS


CORL = {
    "hidden": (256, 256, 256),
    "critic_hidden": (256, 256),
    "policy_learning_rate": 3e-5,
    "penalty_weight": 10.0,
    "lagrange_gap": None,
    "calibrate": "offline",
    "backup": "sample",
}
"""CORL's values by default."""
WIDE = {"critic_hidden": (512, 512, 512), "backup": "max", "penalty_weight": 5.0, "lagrange_gap": None}
"""The authors' values on kitchen and Adroit."""
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=Switches()),
    "kitchen": Variant({**WIDE, "hidden": (512, 512, 512)}, Switches(importance_weights=False)),
    "adroit": Variant({**WIDE, "hidden": (512, 512), "penalty_weight": 1.0}, Switches()),
    "corl": Variant(CORL, Switches(online_bound="zero")),
    "corl_antmaze": Variant({**CORL, **ANTMAZE}, Switches(online_bound="zero")),
    "edis": Variant(
        {**CORL, "policy_learning_rate": 1e-4, "lagrange_gap": 10.0, "entropy_backup": True},
        Switches(online_bound="zero"),
    ),
}
"""Releases by name (docs/algorithms.md#calql). Rewards and mixing ratios that belong to them are fields of the run.

``authors``: the authors' code on AntMaze.
``kitchen``, ``adroit``: on these tasks.
``corl``, ``corl_antmaze``: CORL's, calibrated in the offline phase alone.
``edis``: the base of EDIS on locomotion; its penalty online differs by task, see `online_penalty_share`.
"""


def _values(preset: Preset, task: Task) -> Values:
    """The authors' on AntMaze; elsewhere a fixed penalty, rewards by return (docs/algorithms.md#calql)."""
    values: dict[str, Any] = {}
    if task.family == "antmaze":
        values |= {"transform.reward": "scale_bias", "transform.failure_reward": 0.0}
    else:
        values |= {"agent.penalty_weight": 10.0, "agent.lagrange_gap": None, "agent.backup": "sample"}
        if task.family != "toy":
            values |= {"transform.reward": "return_range", "transform.observation": "standardise"}
    return values | penalty_values(preset, task)


ENTRY = Entry(
    CalQLConfig,
    cql,
    about="calibrated Q-learning (Nakamoto et al. 2023)",
    values=_values,
    variants=VARIANTS,
    without=({"lagrange_gap": None}, {"lagrange_gap": None, "penalty_weight": 0.0}),
)
