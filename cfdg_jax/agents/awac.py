"""AWAC, advantage-weighted actor-critic (Nair, Dalal, Gupta, Levine 2020, arXiv 2006.09359), offline and online.

One update on a minibatch (s, a, r, s', terminal)::

    a' ~ pi(s'),  y = r + gamma (1 - terminal) min_i targetQ_i(s', a')
    Q   : sum_i mean (Q_i(s, a) - y)^2
    a_pi ~ pi(s),  A = min_i Q_i(s, a) - min_i Q_i(s, a_pi)                  one sample stands for V(s)
    pi  : -mean w log pi(a | s),  w = B softmax(A / lambda) over the batch, or min(exp(A / lambda), limit)
    targetQ <- tau_polyak Q + (1 - tau_polyak) targetQ

Both phases are the same; online the batches are drawn from dataset and new rows as one pool. The weighted regression is
the whole policy loss, and there is no regulariser beside it that a row could be freed from: ``conserve`` changes
nothing. Formulas and sources: docs/algorithms.md#awac.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import (
    check_fields,
    descend,
    pretrained_sizes,
    restarted,
    scan_updates,
    smallest_target,
    switches_of,
    update_counts,
)
from cfdg_jax.core.distributions import Normal
from cfdg_jax.core.losses import awr_weight, td_loss, td_target, weighted
from cfdg_jax.core.networks import Init, Network, critics, mlp
from cfdg_jax.core.optim import Optimiser, adam, polyak
from cfdg_jax.core.packed import pack
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values, Variant, check_variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class AWACConfig:
    """Hyper-parameters; the defaults are the authors' for locomotion (docs/algorithms.md#awac)."""

    variant: str = "authors"  # the release whose behaviour is followed, see `VARIANTS`
    advantage_scale: float = 2.0  # lambda, divides the advantage; smaller follows the critics more
    discount: float = 0.99  # gamma of returns and targets
    tau: float = 0.005  # Polyak rate of the target critics, every update
    hidden: tuple[int, ...] = (256, 256, 256, 256)  # of the policy
    critic_hidden: tuple[int, ...] = (256, 256)  # of the critics
    critics: int = 2  # Q networks
    layer_norm: bool = False  # in the critics
    learning_rate: float = 3e-4  # Adam, all networks

    def __post_init__(self) -> None:
        check_variant("agent.variant", self.variant, VARIANTS)
        check_fields(self, positive=("advantage_scale",))


class Switches(NamedTuple):
    """What a release does otherwise; no field of the config."""

    weights: Literal["softmax", "limited"] = "softmax"  # over the batch, or exp(A / lambda) up to a limit
    limit: float = 100.0  # of limited weights
    seen: Literal["before", "after"] = "before"  # critics in the advantage: before or after their step
    squash_mean: bool = True  # tanh on the policy's mean
    log_std: Literal["sigmoid", "clip"] = "sigmoid"  # how the policy's spread keeps to its range
    log_std_range: tuple[float, float] = (-6.0, 0.0)
    clip_samples: bool = False  # sampled actions are clipped to the box before critics see them
    weight_decay: float = 1e-4  # of the policy: this much of a parameter is added to its gradient
    init: Init = "orthogonal"  # initial weights


_LATER = Switches("limited", 100.0, "after", False, "clip", (-20.0, 2.0), True, 0.0, "pytorch")
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=Switches()),
    "corl": Variant({"advantage_scale": 0.3333, "hidden": (256,) * 3, "critic_hidden": (256,) * 3}, _LATER),
    "jax_corl": Variant(
        {"advantage_scale": 1.0, "layer_norm": True},
        _LATER._replace(limit=math.inf, clip_samples=False, init="xavier"),
    ),
}
"""Releases by name (docs/algorithms.md#awac).

``authors``: rlkit's AWAC on locomotion, but for its initial weights.
``corl``: CORL's, offline and fine-tuning.
``jax_corl``: JAX-CORL; not its next actions, which it draws at s, nor its targets, which move once in eight updates.
"""


class AWACState(NamedTuple):
    """Parameters, target critics and optimiser states of one seed; critics lead with Q."""

    critic: Params
    target: Params
    policy: Params
    critic_opt: Any
    policy_opt: Any


class Noise(NamedTuple):
    """All randomness of one update: standard normals `[B, A]` of a' ~ pi(s') and of a_pi ~ pi(s)."""

    next_action: Array
    action: Array


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: AWACConfig
    switches: Switches
    critic: Network
    policy: Network
    optimiser: Optimiser


def parts(config: AWACConfig, spec: Spec, switches: Switches | None = None) -> Parts:
    """Networks and optimiser."""
    own = switches_of(config, VARIANTS, switches)
    return Parts(
        config=config,
        switches=own,
        critic=critics(spec, config.critic_hidden, config.critics, config.layer_norm, own.init),
        policy=policy_network(spec, config.hidden, own),
        optimiser=adam(config.learning_rate),
    )


def policy_network(spec: Spec, hidden: tuple[int, ...], switches: Switches) -> Network:
    """A Gaussian with one free spread per dimension: ``apply(params, obs [..., O]) -> Normal`` over `[..., A]`."""
    network, (low, high) = mlp(spec.obs_dim, spec.act_dim, hidden, init=switches.init), switches.log_std_range

    def apply(params: Params, obs: Array) -> Normal:
        mean, raw = network.apply(params, obs), params["log_std"]
        log_std = (
            low + (high - low) * jax.nn.sigmoid(raw) if switches.log_std == "sigmoid" else jnp.clip(raw, low, high)
        )
        return Normal(jnp.tanh(mean) if switches.squash_mean else mean, jnp.broadcast_to(log_std, mean.shape))

    return Network(lambda key: pack({**network.init(key), "log_std": jnp.zeros((spec.act_dim,), jnp.float32)}), apply)


def init_state(p: Parts, key: Key) -> AWACState:
    """Fresh parameters, targets equal to their critics, zero moments."""
    critic_key, policy_key = jax.random.split(key)
    critic, policy = p.critic.init(critic_key), p.policy.init(policy_key)
    state = AWACState(critic, jax.tree.map(jnp.copy, critic), policy, None, None)
    return restarted(state, critic=p.optimiser, policy=p.optimiser)


def sampled_value(p: Parts, critic: Params, policy: Params, obs: Array, noise: Array) -> Array:
    """``min_i Q_i(s, a)`` `[B]` at one sampled action; `noise` `[B, A]` is standard normal."""
    action = p.policy.apply(policy, obs).sample(noise)
    action = jnp.clip(action, -1.0, 1.0) if p.switches.clip_samples else action
    return p.critic.apply(critic, obs, action).min(axis=0)


def critic_loss(p: Parts, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
    """Squared TD error `[B]` of all critics against `target` `[B]`, and Q(s, a) `[Q, B]`."""
    q = p.critic.apply(params, batch.obs, batch.action)
    return weighted(td_loss(q, target), batch.weight), q


def regression_weight(p: Parts, advantage: Array) -> tuple[Array, Array]:
    """The weight of each row's action `[B]`, and whether the limit binds `[B]`."""
    scale = p.config.advantage_scale
    if p.switches.weights == "softmax":
        weight = advantage.shape[0] * jax.nn.softmax(jax.lax.stop_gradient(advantage) / scale)
        return weight, jnp.zeros_like(weight)
    return awr_weight(advantage, 1.0 / scale, p.switches.limit)


def policy_loss(p: Parts, params: Params, batch: Batch, weight: Array) -> tuple[Array, Array]:
    """The weighted regression `[B]` of the batch's actions with the decay of weights, and without it."""
    loss = weighted(-p.policy.apply(params, batch.obs).log_prob(batch.action), weight)
    decay = p.switches.weight_decay
    squares = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params)) if decay else 0.0
    return loss + 0.5 * decay * squares, loss


def update_critic(
    p: Parts, state: AWACState, batch: Batch, noise: Array, step: Array | int
) -> tuple[AWACState, Metrics]:
    """The critics' step and their target average."""
    next_value = sampled_value(p, state.target, state.policy, batch.next_obs, noise)
    target = td_target(batch.reward, batch.terminal, next_value, p.config.discount)
    loss = lambda params: critic_loss(p, params, batch, target)
    critic, critic_opt, loss_q, q = descend(loss, p.optimiser, state.critic, state.critic_opt, step)
    new = state._replace(critic=critic, critic_opt=critic_opt, target=polyak(state.target, critic, p.config.tau))
    return new, {"critic_loss": loss_q, "q": q.mean(axis=0), "target_q": target}


def update_policy(
    p: Parts, state: AWACState, critic: Params, batch: Batch, noise: Array, step: Array | int
) -> tuple[AWACState, Metrics]:
    """The policy's step, weighted by the advantages that `critic` gives."""
    q = p.critic.apply(critic, batch.obs, batch.action).min(axis=0)
    advantage = q - sampled_value(p, critic, state.policy, batch.obs, noise)
    weight, limited = regression_weight(p, advantage)
    loss = lambda params: policy_loss(p, params, batch, weight)
    policy, policy_opt, _, loss_pi = descend(loss, p.optimiser, state.policy, state.policy_opt, step)
    metrics = {
        "policy_loss": loss_pi,
        "advantage": advantage,
        "weight": weight,
        "weight_limited": limited,
    }
    return state._replace(policy=policy, policy_opt=policy_opt), metrics


def update_once(p: Parts, state: AWACState, batch: Batch, noise: Noise, step: Array | int) -> tuple[AWACState, Metrics]:
    """One update on one minibatch; `step` `[]` counts the updates of the phase before it."""
    new, critic_metrics = update_critic(p, state, batch, noise.next_action, step)
    seen = state.critic if p.switches.seen == "before" else new.critic
    new, policy_metrics = update_policy(p, new, seen, batch, noise.action, step)
    return new, critic_metrics | policy_metrics


def update(p: Parts, state: AWACState, batches: Batch, key: Key, step: Array) -> tuple[AWACState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    noises = Noise(*(jax.random.normal(own, batches.action.shape) for own in jax.random.split(key)))
    return scan_updates(functools.partial(update_once, p), state, (batches, noises, update_counts(step, batches)))


def act(p: Parts, state: AWACState, obs: Array, key: Key, explore: bool) -> Array:
    """The mean action, exploring a sample; clipped to the box."""
    policy = p.policy.apply(state.policy, obs)
    action = policy.sample(jax.random.normal(key, policy.mean.shape)) if explore else policy.mode()
    return jnp.clip(action, -1.0, 1.0)


def awac(
    config: AWACConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Agent:
    """AWAC for one seed. Both phases are the same, so `phase` and `phase_updates` change nothing.

    `switches`: None for those of the config's variant.
    """
    del phase, phase_updates
    p = parts(config, spec, switches)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p),
        go_online=lambda state, key: state,
        value=smallest_target(p.critic),
    )


def _values(preset: Preset, task: Task) -> Values:
    """CORL's fine-tuning, whose curves are published."""
    values: dict[str, Any] = {"agent.variant": "corl"}
    if task.family in ("antmaze", "adroit"):
        values |= {"agent.advantage_scale": 0.1}
    if task.family != "toy":
        values |= {"transform.observation": "standardise"}
    return values if preset == "paper" else {**values, **pretrained_sizes(preset, task)}


def _companions(agent: type) -> Mapping[str, str]:
    """One pool of offline and online rows (all sources)."""
    del agent
    return {"mix": "uniform"}


ENTRY = Entry(
    AWACConfig,
    awac,
    about="advantage-weighted actor-critic (Nair et al. 2020)",
    values=_values,
    companions=_companions,
    variants=VARIANTS,
)
