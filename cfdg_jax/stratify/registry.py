"""The stratifiers by name: one line each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cfdg_jax.stratify.a3rl import A3RLConfig, a3rl
from cfdg_jax.stratify.adaptive_bc import AdaptiveBCConfig, adaptive_bc
from cfdg_jax.stratify.by_source import BySourceConfig, by_source
from cfdg_jax.stratify.none import NoneConfig, none
from cfdg_jax.stratify.stratdiff import StratDiffConfig, stratdiff
from cfdg_jax.types import Spec, Stratifier

STRATIFIERS: dict[str, tuple[type, Callable[[Any, Spec], Stratifier]]] = {
    "none": (NoneConfig, none),
    "by_source": (BySourceConfig, by_source),
    "adaptive_bc": (AdaptiveBCConfig, adaptive_bc),
    "a3rl": (A3RLConfig, a3rl),
    "stratdiff": (StratDiffConfig, stratdiff),
}


def make_stratifier(config: Any, spec: Spec) -> Stratifier:
    """The stratifier whose config class `config` is an instance of."""
    for config_class, factory in STRATIFIERS.values():
        if type(config) is config_class:
            return factory(config, spec)
    raise TypeError(f"{type(config).__name__} is not the config of a registered stratifier")
