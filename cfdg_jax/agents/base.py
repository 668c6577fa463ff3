"""What all agents share: scanned updates, a descent step, the hand-over, checks of configs, sizes of presets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from cfdg_jax.core.networks import Network
from cfdg_jax.core.optim import Optimiser
from cfdg_jax.core.packed import gradient_of, unpack
from cfdg_jax.methods import Preset, Task, Values, Variant
from cfdg_jax.types import Array, Batch, Metrics, Params
from cfdg_jax.values import COMMON, check_ranges, require_range

S = TypeVar("S")
JOINED = 8
"""Metrics in one array. XLA on CPU computes up to eight in the kernel that writes them; each more is a kernel."""

# -- updates ---------------------------------------------------------------------------------------------------------


def scan_updates(update_once: Callable[..., tuple[S, Metrics]], state: S, inputs: Sequence[Any]) -> tuple[S, Metrics]:
    """K updates ``update_once(state, *inputs[k]) -> (state, metrics)``, scanned; the metrics are means over the K.

    The leaves of `inputs` lead with K. A metric of one update may have any shape, such as the rows', and is averaged
    over that too. Metrics of a shape leave the scan as one array, or as one for each `JOINED` of them, and all means
    are taken once, behind it.
    """

    def step(state: S, x: tuple) -> tuple[S, dict[tuple[str, ...], Array]]:
        state, metrics = update_once(state, *x)
        shapes = {jnp.shape(value) for value in metrics.values()}
        alike = [tuple(name for name in metrics if jnp.shape(metrics[name]) == shape) for shape in shapes]
        groups = [names[i : i + JOINED] for names in alike for i in range(0, len(names), JOINED)]
        with jax.named_scope("metrics"):
            return state, {names: jnp.stack([metrics[name] for name in names]) for names in groups}

    state, stacked = jax.lax.scan(step, state, tuple(inputs))
    means = {names: values.mean(axis=(0, *range(2, values.ndim))) for names, values in stacked.items()}
    return state, {name: mean[i] for names, mean in means.items() for i, name in enumerate(names)}


def update_counts(step: Array, batches: Batch) -> Array:
    """``step, step + 1, ...`` `[K]` int32: the updates of the phase before each of the K of a `[K, B]` `Batch`."""
    return step + jnp.arange(batches.reward.shape[0], dtype=jnp.int32)


def descend(
    loss: Callable[[Params], tuple[Array, Any]], optimiser: Optimiser, params: Params, moments: Any, step: Array | int
) -> tuple[Params, Any, Array, Any]:
    """One step down the mean of ``loss(params) -> (value, aux)``: new parameters, new moments, value and aux.

    `value` may be of any shape, such as the rows', and is given as it is: as a metric it is averaged with the others.
    """

    def mean(tree: Params) -> tuple[Array, tuple[Array, Any]]:
        value, aux = loss(tree)
        return value.mean(), (value, aux)

    grads, (value, aux) = jax.grad(mean, has_aux=True)(unpack(params))
    params, moments = optimiser.apply(params, gradient_of(params, grads), moments, step)
    return params, moments, value, aux


def descend_in_parts(
    loss: Callable[[Params, Any], tuple[Array, Any]],
    optimiser: Optimiser,
    params: Params,
    moments: Any,
    step: Array | int,
    parts: Any,
) -> tuple[Params, Any, Array, Any]:
    """`descend` on the mean of ``loss(params, part)`` over `parts`, whose leaves lead with their number C.

    The activations of one part are held at a time: memory is a part's, and on a CPU a part may fit its cache. Nothing
    is computed twice. The aux values lead with C.
    """
    tree = unpack(params)

    def add(total: Params, part: Any) -> tuple[Params, tuple[Array, Any]]:
        value_and_aux, grads = jax.value_and_grad(loss, has_aux=True)(tree, part)
        return jax.tree.map(jnp.add, total, gradient_of(params, grads)), value_and_aux

    total, (values, aux) = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
    mean = jax.tree.map(lambda gradient: gradient / values.shape[0], total)
    params, moments = optimiser.apply(params, mean, moments, step)
    return params, moments, values.mean(), aux


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
