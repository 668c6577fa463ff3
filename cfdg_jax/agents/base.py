"""What all agents share: scanned updates, a descent step, the hand-over, checks of configs, sizes of presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from cfdg_jax.core.networks import Network
from cfdg_jax.core.optim import Optimiser
from cfdg_jax.methods import Preset, Task, Values, Variant
from cfdg_jax.types import Array, Batch, Metrics, Params
from cfdg_jax.values import COMMON, check_ranges, require_range

S = TypeVar("S")

# -- updates ---------------------------------------------------------------------------------------------------------


def scan_updates(update_once: Callable[..., tuple[S, Metrics]], state: S, inputs: Sequence[Any]) -> tuple[S, Metrics]:
    """K updates ``update_once(state, *inputs[k]) -> (state, metrics)``, scanned; the metrics are means over the K.

    The leaves of `inputs` lead with K.
    """
    state, metrics = jax.lax.scan(lambda carry, x: update_once(carry, *x), state, tuple(inputs))
    return state, jax.tree.map(lambda m: m.mean(axis=0), metrics)


def update_counts(step: Array, batches: Batch) -> Array:
    """``step, step + 1, ...`` `[K]` int32: the updates of the phase before each of the K of a `[K, B]` `Batch`."""
    return step + jnp.arange(batches.reward.shape[0], dtype=jnp.int32)


def descend(
    loss: Callable[[Params], tuple[Array, Any]], optimiser: Optimiser, params: Params, moments: Any, step: Array | int
) -> tuple[Params, Any, Array, Any]:
    """One step down ``loss(params) -> (value, aux)``: new parameters, new moments, value and aux."""
    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
    params, moments = optimiser.apply(params, grads, moments, step)
    return params, moments, value, aux


def restarted(state: Any, **optimisers: Optimiser) -> Any:
    """`state` with the moments of the named parts at zero: ``critic=optimiser`` renews ``critic_opt``."""
    fresh = {f"{name}_opt": optimiser.init(getattr(state, name)) for name, optimiser in optimisers.items()}
    return state._replace(**fresh)


def smallest_target(critic: Network) -> Callable[[Any, Array, Array], Array]:
    """``(state, obs, action) -> [...]``: the smallest of the critics ``state.target``, for `Agent.value`."""
    return lambda state, obs, action: critic.apply(state.target, obs, action).min(axis=0)


# -- configs ---------------------------------------------------------------------------------------------------------


def switches_of(config: Any, variants: Mapping[str, Variant], switches: Any = None) -> Any:
    """`switches`, or those of the config's variant where None is given."""
    return variants[config.variant].switches if switches is None else switches


def check_fields(config: Any, **names: tuple[str, ...]) -> None:
    """Refuses values of an agent's config outside their range, as `check_ranges` does.

    Fields that most agents have are checked wherever `config` has them: those of `COMMON`, hidden and critic_hidden.
    """
    common = {name: kind for name, kind in COMMON.items() if hasattr(config, name)}
    check_ranges(config, "agent", **names)
    for name, kind in common.items():
        require_range(getattr(config, name), kind, f"agent.{name}")


# -- presets ---------------------------------------------------------------------------------------------------------

SMALL: Values = {"agent.hidden": (32, 32), "agent.critic_hidden": (32, 32), "agent.actions": 4}
"""Sizes of preset ``smoke``; fields that an agent lacks are left out."""


def sizes(preset: Preset, task: Task) -> Values:
    """Network sizes of a preset."""
    return SMALL if preset == "smoke" else {}


def pretrained_sizes(preset: Preset, task: Task) -> Values:
    """`sizes`, and the target rate of agents that are made to be pre-trained.

    After n updates a target looks about n tau steps ahead. At 0.005 the short phases of preset ``reduced`` would give
    fewer than 1 / (1 - discount).
    """
    rate = {"agent.tau": 0.02} if preset != "paper" and task.family != "toy" else {}
    return {**rate, **sizes(preset, task)}


def apl_rhythm(preset: Preset) -> dict[str, Any]:
    """Steps and update blocks of APL's release (docs/algorithms.md#apl); CFDG pre-trains for 1M updates."""
    if preset == "paper":
        return {
            "online.start_steps": 1_000,
            "online.steps": 100_000,
            "online.update_every": 1_000,
            "online.utd": 10,
        } | {"refresh.every": 10_000}
    return {"online.update_every": 40 if preset == "smoke" else 1_000, "online.utd": 2}
