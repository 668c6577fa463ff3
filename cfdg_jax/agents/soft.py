"""What soft actor-critics share: a squashed Gaussian policy, a learnt temperature, and the order of their steps.

One step of the actor on a minibatch (s, ...), with fresh actions a~ ~ pi(s)::

    pi    : alpha log pi(a~ | s) - Q(s, a~),  Q the minimum or the mean over critics
    alpha : raised while the policy's entropy is under its target

Critics and actor move on the same minibatch. `Order` says which critics and which alpha the policy's loss sees::

    critic_first   Q as stepped, alpha before its step
    alpha_first    both as stepped
    joint          both as before
    alpha_only     Q as before, alpha as stepped
    in_place       the same values, but Q's slope by the stepped weights at the activations of before
    in_place_joint likewise, alpha before its step
    actor_first    the values of alpha_only; policy and alpha move before Q does, so its target sees both as stepped

Formulas and sources: docs/algorithms.md#sac.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import check_fields, descend
from cfdg_jax.core.losses import log_temperature_loss, temperature_loss, weighted
from cfdg_jax.core.networks import Network, critics_in_place
from cfdg_jax.core.optim import Optimiser, at_every
from cfdg_jax.errors import require
from cfdg_jax.methods import Value
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec

Order = Literal["critic_first", "alpha_first", "joint", "alpha_only", "in_place", "in_place_joint", "actor_first"]
SEEN: dict[Order, tuple[Literal["before", "after", "in_place"], bool]] = {
    "critic_first": ("after", False),
    "alpha_first": ("after", True),
    "joint": ("before", False),
    "alpha_only": ("before", True),
    "in_place": ("in_place", True),
    "in_place_joint": ("in_place", False),
    "actor_first": ("before", True),
}
"""By order: which critics the policy's loss sees, and whether it sees alpha as stepped."""
S = TypeVar("S", bound=Any)


class Soft(NamedTuple):
    """The actor's networks and settings, no arrays.

    Attributes:
      spec: The task.
      policy: The squashed Gaussian.
      optimiser: Of policy and temperature.
      delay: Critic updates per step of policy and temperature.
      target_entropy: What alpha drives the policy's entropy to.
      order: What the policy's loss sees.
      policy_q: Over the critics in the policy's loss.
      temperature_loss: The factor before ``log pi + target entropy`` in alpha's loss.
      density_epsilon: In ``log(1 - a^2 + epsilon)``; 0 is exact and does not overflow.
      learn_temperature: Whether alpha moves.
    """

    spec: Spec
    policy: Network
    optimiser: Optimiser
    delay: int | None
    target_entropy: float
    order: Order = "critic_first"
    policy_q: Literal["min", "mean"] = "min"
    temperature_loss: Literal["log_alpha", "alpha"] = "alpha"
    density_epsilon: float = 0.0
    learn_temperature: bool = True


def fresh(p: Soft, critic: Network, temperature: float, key: Key) -> dict[str, Any]:
    """Fields of a first state: new parameters, targets equal to their critics, zero moments."""
    critic_key, policy_key = jax.random.split(key)
    params = {"critic": critic.init(critic_key), "policy": p.policy.init(policy_key)}
    params |= {"log_alpha": jnp.log(jnp.float32(temperature))}
    moments = {f"{name}_opt": p.optimiser.init(value) for name, value in params.items()}
    return params | moments | {"target": jax.tree.map(jnp.copy, params["critic"])}


# -- critics in the target -------------------------------------------------------------------------------------------


def draw_subset(subset: float, critics: int, key: Key) -> Array:
    """`[subset]` int32 critics of the target, distinct; all if `subset` is 0.

    Of a fractional number the last is with the complementary chance the first once more, which a minimum ignores.
    """
    chosen = jax.random.permutation(key, critics)[: math.ceil(subset) or critics]
    fraction = subset % 1
    if not fraction:
        return chosen
    more = jax.random.uniform(jax.random.fold_in(key, 1)) < fraction
    return chosen.at[-1].set(jnp.where(more, chosen[-1], chosen[0]))


def drawn_critics(target: Params, subset: float, critics: int, chosen: Array) -> Params:
    """Those of the `critics` target critics that `draw_subset` chose."""
    return jax.tree.map(lambda leaf: leaf[chosen], target) if 0 < subset < critics else target


# -- the actor -------------------------------------------------------------------------------------------------------


def policy_loss(p: Soft, params: Params, q: Value, log_alpha: Array, batch: Batch, noise: Array) -> tuple[Array, Array]:
    """``alpha log pi - Q`` `[B]` at fresh actions, and their log-probabilities `[B]`; `q` gives `[Q, B]`."""
    action, log_prob = p.policy.apply(params, batch.obs).sample(noise, p.density_epsilon)
    values = q(batch.obs, action)
    values = values.min(axis=0) if p.policy_q == "min" else values.mean(axis=0)
    return weighted(jnp.exp(log_alpha) * log_prob - values, batch.weight), log_prob


def update_actor(p: Soft, state: S, q: Value, batch: Batch, noise: Array, step: Array | int) -> tuple[S, Metrics]:
    """The steps of policy and temperature, the policy's against the critics `q`.

    `state` has the fields policy, log_alpha, policy_opt and log_alpha_opt.
    """
    log_alpha, log_alpha_opt = state.log_alpha, state.log_alpha_opt
    if p.learn_temperature:
        _, log_prob = p.policy.apply(state.policy, batch.obs).sample(noise, p.density_epsilon)
        per_row = log_temperature_loss if p.temperature_loss == "log_alpha" else temperature_loss
        loss = lambda log_alpha: (weighted(per_row(log_alpha, log_prob, p.target_entropy)), ())
        log_alpha, log_alpha_opt, _, _ = descend(loss, p.optimiser, log_alpha, log_alpha_opt, step)
    seen = log_alpha if SEEN[p.order][1] else state.log_alpha
    of_policy = lambda params: policy_loss(p, params, q, seen, batch, noise)
    policy, policy_opt, value, log_prob = descend(of_policy, p.optimiser, state.policy, state.policy_opt, step)
    metrics = {"policy_loss": value, "entropy": -log_prob, "temperature": jnp.exp(state.log_alpha)}
    moved = {"policy": policy, "policy_opt": policy_opt, "log_alpha": log_alpha, "log_alpha_opt": log_alpha_opt}
    return state._replace(**moved), metrics


def policy_critics(order: Order, critic: Network, before: Params, after: Params) -> Value:
    """The critics in the policy's loss, of those before and after their step on the same minibatch."""
    kind = SEEN[order][0]
    if kind == "in_place":
        return functools.partial(critics_in_place, before, after)
    return functools.partial(critic.apply, before if kind == "before" else after)


def in_order(
    p: Soft,
    critic: Network,
    update_critic: Callable[[S], tuple[S, Metrics]],
    state: S,
    batch: Batch,
    noise: Array,
    step: Array | int,
) -> tuple[S, Metrics]:
    """One critic step and, at every `delay`-th update, one step of the actor on the same minibatch.

    Args:
      p: The actor.
      critic: The network of ``state.critic``.
      update_critic: The critic step.
      state: Parameters and moments.
      batch: One minibatch.
      noise: `[B, A]` standard normal, for the actor.
      step: Updates of the phase before this one.
    """
    assert p.delay is not None, "resolved when the program is built"
    act = lambda q: functools.partial(update_actor, p, q=q, batch=batch, noise=noise, step=step)
    if p.order == "actor_first":
        q: Value = functools.partial(critic.apply, state.critic)
        state, actor_metrics = at_every(p.delay, step, act(q), state)
        state, critic_metrics = update_critic(state)
        return state, critic_metrics | actor_metrics
    new, critic_metrics = update_critic(state)
    q = policy_critics(p.order, critic, state.critic, new.critic)
    new, actor_metrics = at_every(p.delay, step, act(q), new)
    return new, critic_metrics | actor_metrics


def act(p: Soft, state: Any, obs: Array, key: Key, explore: bool) -> Array:
    """The squashed mean; exploring, a sample."""
    policy = p.policy.apply(state.policy, obs)
    return policy.sample(jax.random.normal(key, policy.mean.shape))[0] if explore else policy.mode()


# -- configs ---------------------------------------------------------------------------------------------------------


def check_soft(config: Any, order: Order) -> None:
    """Refuses bad values of the fields that these agents share, and networks that their `order` cannot step."""
    check_fields(
        config,
        positive=("init_temperature",),
        at_least_one=("policy_delay",) if hasattr(config, "policy_delay") else (),
    )
    within = f"must be 0 (all) or lie between 1 and agent.critics = {config.critics}"
    fits = config.subset == 0 or 1 <= config.subset <= config.critics
    require(fits, "agent.subset", f"is {config.subset:g}", within)
    plain = SEEN[order][0] != "in_place" or not config.layer_norm
    found = f"is True under agent.variant {config.variant}"
    require(plain, "agent.layer_norm", found, "must be False there: its in-place gradient is of plain networks")


def resolve_delay(config: Any) -> Any:
    """An agent's config with one policy step per environment step, unless its `policy_delay` says otherwise."""
    delay = config.agent.policy_delay
    return dataclasses.replace(config.agent, policy_delay=config.online.utd if delay is None else delay)
