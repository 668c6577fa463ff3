"""The mixing rules by name: adding one is its file and one line here."""

from __future__ import annotations

from typing import Any

from cfdg_jax.methods import Entry, Mix, registered
from cfdg_jax.mix import a3rl, balanced, balanced_replay, oorb, uniform
from cfdg_jax.types import Spec

MIXES: dict[str, Entry] = {
    "balanced": balanced.ENTRY,
    "uniform": uniform.ENTRY,
    "balanced_replay": balanced_replay.ENTRY,
    "oorb": oorb.ENTRY,
    "a3rl": a3rl.ENTRY,
}


def make_mix(config: Any, spec: Spec) -> Mix:
    """The mixing rule of a resolved config object."""
    return registered(MIXES, config).factory(config, spec)
