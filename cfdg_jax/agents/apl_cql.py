"""APL, adaptive policy learning, on conservative Q-learning (Zheng et al. 2023, arXiv 2303.07693).

The update is that of `cql` with five critics::

    y  : the minimum over two of the target critics, drawn at random
    pi : alpha log pi(a~ | s) - the mean over all critics of Q(s, a~)

That only offline rows are conservative is the stratifier's; that batches come whole from one buffer is the mixing
rule's. Formulas and sources: docs/algorithms.md#apl.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from cfdg_jax.agents import apl
from cfdg_jax.agents.cql import CQLConfig, Switches, cql
from cfdg_jax.agents.penalty import reduced_values
from cfdg_jax.methods import Entry, Preset, Task, Values, Variant


@dataclasses.dataclass(frozen=True)
class APLCQLConfig(CQLConfig):
    """Hyper-parameters; the defaults are the authors' (docs/algorithms.md#apl)."""

    critics: int = 5
    subset: float = 2.0
    policy_learning_rate: float = 1e-4
    penalty_weight: float = 5.0

    def variants(self) -> Mapping[str, Variant]:
        """The releases that `variant` names."""
        return VARIANTS


AUTHORS = Switches(order="alpha_first", policy_q="mean", log_std_range=(-5.0, 2.0), log_std_affine=False)
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=AUTHORS),
    "released": Variant(
        switches=AUTHORS._replace(order="in_place", density_epsilon=1e-6, init="rlkit", copied_targets=False)
    ),
}
"""Releases by name (docs/algorithms.md#apl).

``authors``: the authors' update, the policy's against the critics as stepped.
``released``: their code to the letter. Its policy's gradient meets critics that were overwritten in place, and its
targets never are copies of the critics.
"""


def _values(preset: Preset, task: Task) -> Values:
    return apl.rhythm(preset) | {"mix.p_online": 0.5} | dict(reduced_values(preset, task))


ENTRY = Entry(
    APLCQLConfig,
    cql,
    about="adaptive policy learning on a conservative critic (Zheng et al. 2023)",
    values=_values,
    companions=lambda agent: {"mix": "oorb", "stratify": "by_source"},
    variants=VARIANTS,
    without=({}, {"penalty_weight": 0.0}),
)
