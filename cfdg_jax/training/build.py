"""From a config to the program of a run, refusing what cannot work before anything is computed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.agents.registry import make_agent
from cfdg_jax.augment.registry import make_augmenter
from cfdg_jax.config import TrainConfig, resolved
from cfdg_jax.core import ring
from cfdg_jax.data.transforms import Transforms
from cfdg_jax.errors import require
from cfdg_jax.mix.registry import make_mix
from cfdg_jax.stratify.registry import make_stratifier
from cfdg_jax.training.program import Program
from cfdg_jax.types import Spec


def build_program(config: TrainConfig, spec: Spec, transforms: Transforms, rows: np.ndarray) -> Program:
    """Makes the algorithms of `config` and puts the offline rows `[N, D]` (N may be 0) on the device, once."""
    online = config.online
    updates = {"offline": config.offline.steps, "online": (online.steps - online.start_steps) * online.utd}
    methods = resolved(config)
    stratifier = make_stratifier(methods["stratify"], spec)
    require(
        not stratifier.stages or rows.shape[0] > 0,
        "stratify",
        "is trained on offline data before the online phase, but there is no dataset",
        "name one with --dataset, or use --stratify none",
    )
    augmenter = make_augmenter(methods["augment"], spec, with_terminal=spec.terminates)
    if augmenter.shares:  # traced now, so that data it cannot learn from are refused before the run and not within it
        empty = jax.eval_shape(lambda: ring.empty(online.capacity, rows.shape[1]))
        jax.eval_shape(augmenter.init, jax.random.key(0), jax.ShapeDtypeStruct(rows.shape, rows.dtype), empty)
    return Program(
        config=config,
        spec=spec,
        transforms=jax.tree.map(jnp.asarray, transforms),
        offline_rows=jnp.asarray(rows),
        offline_agent=make_agent(methods["agent"], spec, "offline", max(updates["offline"], 1)),
        online_agent=make_agent(methods["agent"], spec, "online", max(updates["online"], 1)),
        augmenter=augmenter,
        mix=make_mix(methods["mix"], spec),
        stratifier=stratifier,
    )
