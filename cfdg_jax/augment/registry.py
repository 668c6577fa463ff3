"""The augmenters by name: adding one is its file and one line here."""

from __future__ import annotations

from typing import Any

from cfdg_jax.augment import cfdg, edis, none, synther
from cfdg_jax.methods import Augmenter, Entry, registered
from cfdg_jax.types import Spec

AUGMENTERS: dict[str, Entry] = {
    "none": none.ENTRY,
    "synther": synther.ENTRY,
    "edis": edis.ENTRY,
    "cfdg": cfdg.ENTRY,
}


def make_augmenter(config: Any, spec: Spec) -> Augmenter:
    """The augmenter of a config object."""
    return registered(AUGMENTERS, config).factory(config, spec)
