"""What all agents share: preset values of their sizes and rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfdg_jax.methods import Preset, Task, Values

SMALL: Values = {"agent.hidden": (32, 32), "agent.critic_hidden": (32, 32), "agent.actions": 4}
"""Sizes of preset ``smoke``; fields that an agent lacks are left out."""


def sizes(preset: Preset, task: Task) -> Values:
    """Network sizes of a preset."""
    return SMALL if preset == "smoke" else {}


def pretrained_sizes(preset: Preset, task: Task) -> Values:
    """`sizes`, and the target rate of agents that are made to be pre-trained.

    After n updates a target looks about n tau steps ahead. At 0.005 the short phases of preset ``reduced`` would give
    fewer than 1 / (1 - discount).
    """
    rate = {"agent.tau": 0.02} if preset != "paper" and task.family != "toy" else {}
    return {**rate, **sizes(preset, task)}


def apl_rhythm(preset: Preset) -> dict[str, Any]:
    """Steps and update blocks of APL's release (docs/algorithms.md#apl); CFDG pre-trains for 1M updates."""
    if preset == "paper":
        return {
            "online.start_steps": 1_000,
            "online.steps": 100_000,
            "online.update_every": 1_000,
            "online.utd": 10,
        } | {"refresh.every": 10_000}
    return {"online.update_every": 40 if preset == "smoke" else 1_000, "online.utd": 2}


def apl_companions(agent: type) -> Mapping[str, str]:
    """APL's own mixing rule, and its marks by origin."""
    del agent
    return {"mix": "oorb", "stratify": "by_source"}
