"""Controls of a comparison: what generated rows would do without what the generator is said to give.

    shuffled   rows change places between the labels: what is left of a gain is not the label's
    oracle     s', r and terminal of generated (s, a) by the simulator: what no generator could better

Other controls are plain fields: more real rows (`mix.offline_share`, `mix.batch_size`), more updates (`online.utd`).
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.envs.locomotion import ROBOTS
from cfdg_jax.errors import require
from cfdg_jax.training.program import Program
from cfdg_jax.training.quality import rule_of, true_steps
from cfdg_jax.types import Array, Key


def check_control(program: Program) -> None:
    """Refuses a control that the run cannot have: `UserError` naming ``refresh.control``."""
    control, shares, task = program.config.refresh.control, program.augmenter.shares, program.config.env.task
    require(control == "none" or bool(shares), "refresh.control", f"is {control}, but no row is generated", "use none")
    one = f"is shuffled, but all generated rows have one label ({len(shares)})"
    require(control != "shuffled" or len(shares) > 1, "refresh.control", one, "use none, or a generator with labels")
    blind = f"is oracle, but {task or 'the environment'} cannot be put where an observation says"
    can = task in ROBOTS
    require(control != "oracle" or can, "refresh.control", blind, f"use none, or one of: {', '.join(ROBOTS)}")


def controlled(program: Program, keys: Key, rows: Mapping[str, Array]) -> dict[str, Array]:
    """The rows ``{str(source): [S, n, D]}`` of a refresh with keys `[S]`, as the run's control has them."""
    if program.config.refresh.control == "shuffled":
        return _shuffled(program, keys, rows)
    if program.config.refresh.control == "oracle":
        return {source: jnp.asarray(_oracle(program, int(source), np.asarray(made))) for source, made in rows.items()}
    return dict(rows)


def _shuffled(program: Program, keys: Key, rows: Mapping[str, Array]) -> dict[str, Array]:
    """All rows of a seed in random order, dealt to the labels in their numbers."""
    everything = jnp.concatenate(list(rows.values()), axis=1)
    mixed = jax.vmap(jax.random.permutation)(purpose_keys(keys, "control"), everything)
    ends = np.cumsum([made.shape[1] for made in rows.values()])[:-1]
    dealt = zip(rows, jnp.split(mixed, ends, axis=1), strict=True)
    return {source: part.at[..., program.spec.layout.source].set(float(source)) for source, part in dealt}


def _oracle(program: Program, source: int, rows: np.ndarray) -> np.ndarray:
    """Rows `[S, n, D]` whose s', r and terminal the simulator gave; NaN where it has left the finite numbers."""
    layout, flat = program.spec.layout, rows.reshape(-1, rows.shape[-1]).copy()
    step, ended = true_steps(program, [source])[source], rule_of(program)
    assert step is not None, "check_control lets no other task pass"
    next_obs, reward = step(flat[:, layout.obs], flat[:, layout.action])
    flat[:, layout.next_obs], flat[:, layout.reward] = next_obs, reward
    flat[:, layout.terminal] = 0.0 if ended is None else ended(next_obs)
    return flat.reshape(rows.shape)
