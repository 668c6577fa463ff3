"""cfdg_jax: offline-to-online reinforcement learning with diffusion generation, many seeds at once, in JAX.

>>> import cfdg_jax
>>> config = cfdg_jax.make_config("local:hopper-medium-replay-v0", agent="iql", augment="cfdg", preset="reduced")
>>> run = cfdg_jax.train(config)  # doctest: +SKIP

The names below are imported when they are first used, so that the command line answers before JAX is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cfdg_jax import gym_ids

if TYPE_CHECKING:
    from cfdg_jax.agents.registry import make_agent
    from cfdg_jax.augment.registry import make_augmenter
    from cfdg_jax.config import TrainConfig
    from cfdg_jax.data.load import load_dataset
    from cfdg_jax.envs.registry import make_env
    from cfdg_jax.mix.registry import make_mix
    from cfdg_jax.presets import make_config
    from cfdg_jax.stratify.registry import make_stratifier
    from cfdg_jax.training.results import evaluate, load_run
    from cfdg_jax.training.run import train

_HOMES = {
    "TrainConfig": "config",
    "evaluate": "training.results",
    "load_dataset": "data.load",
    "load_run": "training.results",
    "make_agent": "agents.registry",
    "make_augmenter": "augment.registry",
    "make_config": "presets",
    "make_env": "envs.registry",
    "make_mix": "mix.registry",
    "make_stratifier": "stratify.registry",
    "train": "training.run",
}
__all__ = [
    "TrainConfig",
    "evaluate",
    "load_dataset",
    "load_run",
    "make_agent",
    "make_augmenter",
    "make_config",
    "make_env",
    "make_mix",
    "make_stratifier",
    "train",
]

gym_ids.register()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cfdg_jax' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"cfdg_jax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
