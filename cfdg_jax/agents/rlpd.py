"""RLPD, reinforcement learning with prior data (Ball et al. 2023, arXiv 2302.02948).

The update is that of `sac`, with ten layer-normalised critics::

    y  : the minimum over two of the target critics, drawn at random
    Q  : the mean over critics of their squared TD errors, twenty updates per environment step, which are `online.utd`
    pi : alpha log pi(a~ | s) - the mean over all critics of Q(s, a~), once per environment step

Half of each batch is offline data; that is the mixing rule's. Formulas and sources: docs/algorithms.md#rlpd.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cfdg_jax.agents.base import sizes
from cfdg_jax.agents.sac import SACConfig, Switches, sac
from cfdg_jax.agents.soft import resolve_delay
from cfdg_jax.methods import Entry, Preset, Task, Values, Variant


@dataclasses.dataclass(frozen=True)
class RLPDConfig(SACConfig):
    """Hyper-parameters; the defaults are the released code's for locomotion (docs/algorithms.md#rlpd)."""

    critics: int = 10
    subset: float = 2.0
    layer_norm: bool = True
    target_entropy_scale: float = 0.5
    policy_delay: int | None = None

    def variants(self) -> Mapping[str, Variant]:
        """The releases that `variant` names."""
        return VARIANTS


AUTHORS = Switches(policy_q="mean", q_loss="mean", log_std_range=(-20.0, 2.0), init="xavier")
ANTMAZE = {"hidden": (256, 256, 256), "subset": 1.0, "entropy_backup": False}
"""The released code's values on AntMaze."""
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=AUTHORS),
    "antmaze": Variant(ANTMAZE, AUTHORS),
    "sac_learner": Variant({"critics": 2, "subset": 0.0, "layer_norm": False}, AUTHORS),
}
"""Releases by name (docs/algorithms.md#rlpd).

``authors``: the released code on locomotion.
``antmaze``: on AntMaze; the target is one random critic.
``sac_learner``: the released learner with its own defaults, without the paper's changes.
"""


def _values(preset: Preset, task: Task) -> Values:
    antmaze = task.family == "antmaze"
    values = {f"agent.{field}": value for field, value in ANTMAZE.items()} if antmaze else {}
    if preset == "paper":
        return values | {"online.utd": 20, "online.steps": 300_000 if antmaze else 250_000}
    return values | {"online.utd": 4, "agent.critics": 4} | dict(sizes(preset, task))


ENTRY = Entry(
    RLPDConfig,
    sac,
    about="RL with prior data (Ball et al. 2023)",
    values=_values,
    resolve=resolve_delay,
    variants=VARIANTS,
    pretrains=False,
)
