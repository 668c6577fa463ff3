"""What APL's two agents have in common: when its release learns."""

from __future__ import annotations

from typing import Any

from cfdg_jax.methods import Preset


def rhythm(preset: Preset) -> dict[str, Any]:
    """Steps and update blocks of APL's release (docs/algorithms.md#apl); CFDG pre-trains for 1M updates."""
    if preset == "paper":
        return {
            "online.start_steps": 1_000,
            "online.steps": 100_000,
            "online.update_every": 1_000,
            "online.utd": 10,
        } | {"refresh.every": 10_000}
    return {"online.update_every": 40 if preset == "smoke" else 1_000, "online.utd": 2}
