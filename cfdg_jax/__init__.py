"""cfdg_jax: offline-to-online reinforcement learning with diffusion generation, many seeds at once, in JAX.

>>> import cfdg_jax
>>> config = cfdg_jax.make_config("local:hopper-medium-replay-v0", agent="iql", augment="cfdg", preset="reduced")
>>> run = cfdg_jax.train(config)  # doctest: +SKIP
"""

from cfdg_jax.agents.registry import make_agent
from cfdg_jax.augment.registry import make_augmenter
from cfdg_jax.config import TrainConfig
from cfdg_jax.data.load import load_dataset
from cfdg_jax.envs.registry import make_env
from cfdg_jax.mix.registry import make_mix
from cfdg_jax.presets import make_config
from cfdg_jax.stratify.registry import make_stratifier
from cfdg_jax.training.run import evaluate, load_run, train

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
