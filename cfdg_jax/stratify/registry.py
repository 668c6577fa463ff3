"""The stratifiers by name: adding one is its file and one line here."""

from __future__ import annotations

from typing import Any

from cfdg_jax.methods import Entry, Stratifier, registered
from cfdg_jax.stratify import adaptive_bc, by_source, none, stratdiff
from cfdg_jax.types import Spec

STRATIFIERS: dict[str, Entry] = {
    "none": none.ENTRY,
    "by_source": by_source.ENTRY,
    "adaptive_bc": adaptive_bc.ENTRY,
    "stratdiff": stratdiff.ENTRY,
}


def make_stratifier(config: Any, spec: Spec) -> Stratifier:
    """The stratifier of a config object."""
    return registered(STRATIFIERS, config).factory(config, spec)
