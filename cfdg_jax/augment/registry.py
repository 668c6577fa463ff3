"""The augmenters by name: one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cfdg_jax.augment.cfdg import CFDGConfig, cfdg
from cfdg_jax.augment.edis import EDISConfig, edis
from cfdg_jax.augment.none import NoneConfig, none
from cfdg_jax.augment.synther import SynthERConfig, synther
from cfdg_jax.types import Augmenter, Spec

AUGMENTERS: dict[str, tuple[type, Callable[[Any, Spec, bool], Augmenter]]] = {
    "none": (NoneConfig, none),
    "synther": (SynthERConfig, synther),
    "edis": (EDISConfig, edis),
    "cfdg": (CFDGConfig, cfdg),
}


def make_augmenter(config: Any, spec: Spec, with_terminal: bool) -> Augmenter:
    """The augmenter whose config class `config` is an instance of; `with_terminal` models the terminal flag."""
    for config_class, factory in AUGMENTERS.values():
        if type(config) is config_class:
            return factory(config, spec, with_terminal)
    raise TypeError(f"{type(config).__name__} is not the config of a registered augmenter")
