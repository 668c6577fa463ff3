"""The four methods of a run, at the values of its config or with some of its fields as arrays.

A method is made from a frozen config by a factory that looks at no value it can compute with. So a field of a lane
enters the program as a traced `[]` array, and the factory is called again inside the mapped function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from cfdg_jax.agents.registry import make_agent
from cfdg_jax.augment.registry import make_augmenter
from cfdg_jax.config import TrainConfig, resolved
from cfdg_jax.mix.registry import make_mix
from cfdg_jax.stratify.registry import make_stratifier
from cfdg_jax.types import Array, Spec
from cfdg_jax.values import changed

Settings = Mapping[str, Array]
"""``{dotted field: values}``, ``[S]`` of all lanes or ``[]`` of one; empty without an axis."""


def settings_of(config: TrainConfig) -> dict[str, Array]:
    """The values `[S]` of the lanes, by field."""
    lanes = config.lanes
    return {path: jnp.asarray([lane.values[path] for lane in lanes], jnp.float32) for path in config.vmap}


def make_methods(config: TrainConfig, spec: Spec, settings: Settings) -> dict[str, Any]:
    """The methods as fields of a `Program`, with `settings` `[]` in the place of the config's values.

    Their checks were made on the plain values when the config was (`cfdg_jax.config.at_point`).
    """
    own = with_settings(resolved(config), settings)
    offline, online = max(config.offline.steps, 1), max(config.online.updates, 1)
    return {
        "offline_agent": make_agent(own["agent"], spec, "offline", offline),
        "online_agent": make_agent(own["agent"], spec, "online", online),
        "augmenter": make_augmenter(own["augment"], spec),
        "mix": make_mix(own["mix"], spec),
        "stratifier": make_stratifier(own["stratify"], spec),
    }


def with_settings(methods: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the methods' configs in which the fields of `settings` hold its values, unchecked."""
    made = dict(methods)
    for path, value in settings.items():
        choice, _, leaf = path.partition(".")
        made[choice] = changed(made[choice], {leaf: value})
    return made
