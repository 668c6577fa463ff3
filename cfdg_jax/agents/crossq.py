"""CrossQ (Bhatt et al. 2024, arXiv 1902.05605): a soft actor-critic without target critics, batch-normalised.

One update on a minibatch (s, a, r, s', terminal)::

    a'        ~ pi(s')
    q, q'     = Q([s; s'], [a; a'])                  one forward pass: both halves share the batch's moments
    y         = r + gamma (1 - terminal) (min_i q'_i - alpha log pi(a' | s')),  no gradient
    Q         : sum_i mean (q_i - y)^2
    pi, alpha : see `soft`, at every `policy_delay`-th update, against the running averages

It learns the locomotion tasks from several times fewer steps than plain soft actor-critics at the same cost per update,
and makes this package's behaviour policies. It differs from the paper in its normalisation, which is plain (no
renormalisation) and in the critics alone, and by default in the critics' width. Formulas and sources:
docs/algorithms.md#crossq.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents import soft
from cfdg_jax.agents.base import check_fields, descend, scan_updates, sizes, update_counts
from cfdg_jax.agents.soft import Soft, act
from cfdg_jax.core.losses import td_loss, td_target, weighted
from cfdg_jax.core.networks import BatchNormNetwork, batch_norm_critics, tanh_gaussian_policy
from cfdg_jax.core.optim import Optimiser, adam, at_every
from cfdg_jax.methods import Agent, Entry, Variant, check_variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class CrossQConfig:
    """Hyper-parameters; the defaults are the paper's, but for narrower critics (docs/algorithms.md#crossq)."""

    variant: str = "authors"  # the release whose values are taken, see `VARIANTS`
    discount: float = 0.99  # gamma of returns and targets
    hidden: tuple[int, ...] = (256, 256)  # of the policy
    critic_hidden: tuple[int, ...] = (256, 256)  # the paper's 2 x 2048 costs fifty times as much
    critics: int = 2  # Q networks
    learning_rate: float = 1e-3  # Adam, all networks and the temperature
    b1: float = 0.5  # Adam's first decay
    policy_delay: int = 3  # critic updates per policy and temperature update
    momentum: float = 0.99  # of the running averages
    init_temperature: float = 1.0  # alpha at the start
    target_entropy_scale: float = 1.0  # the target entropy is -scale * A

    def __post_init__(self) -> None:
        check_variant("agent.variant", self.variant, VARIANTS)
        check_fields(self, below_one=("b1", "momentum"), at_least_one=("policy_delay",), positive=("init_temperature",))


VARIANTS: dict[str, Variant] = {
    "authors": Variant(),
    "wide": Variant({"critic_hidden": (2048, 2048)}),
}
"""Releases by name (docs/algorithms.md#crossq).

``authors``: the paper's update with critics as wide as the policy.
``wide``: its critics, too.
"""


class CrossQState(NamedTuple):
    """Parameters, running averages and optimiser states of one seed; critics lead with Q."""

    critic: Params
    averages: Params
    policy: Params
    log_alpha: Array
    critic_opt: Any
    policy_opt: Any
    log_alpha_opt: Any


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: CrossQConfig
    soft: Soft
    critic: BatchNormNetwork
    optimiser: Optimiser


def parts(config: CrossQConfig, spec: Spec) -> Parts:
    """Networks and optimisers."""
    optimiser = adam(config.learning_rate, b1=config.b1)
    actor = Soft(
        spec=spec,
        policy=tanh_gaussian_policy(spec, config.hidden),
        optimiser=optimiser,
        delay=config.policy_delay,
        target_entropy=-config.target_entropy_scale * spec.act_dim,
    )
    critic = batch_norm_critics(spec, config.critic_hidden, config.critics, config.momentum)
    return Parts(config, actor, critic, optimiser)


def init_state(p: Parts, key: Key) -> CrossQState:
    """Fresh parameters, averages of nothing seen, zero moments."""
    critic_key, policy_key = jax.random.split(key)
    (critic, averages), policy = p.critic.init(critic_key), p.soft.policy.init(policy_key)
    log_alpha = jnp.log(jnp.float32(p.config.init_temperature))
    moments = (p.optimiser.init(params) for params in (critic, policy, log_alpha))
    return CrossQState(critic, averages, policy, log_alpha, *moments)


def critic_loss(p: Parts, params: Params, state: CrossQState, batch: Batch, noise: Array):
    """Squared TD error `[B]` summed over critics; also Q(s, a) `[Q, B]`, its target `[B]` and new running averages."""
    next_action, log_prob = p.soft.policy.apply(state.policy, batch.next_obs).sample(noise)
    obs = jnp.concatenate([batch.obs, batch.next_obs])
    action = jnp.concatenate([batch.action, next_action])
    values, averages = p.critic.train(params, state.averages, obs, action)
    q, next_q = jnp.split(values, 2, axis=-1)
    next_value = next_q.min(axis=0) - jnp.exp(state.log_alpha) * log_prob
    target = jax.lax.stop_gradient(td_target(batch.reward, batch.terminal, next_value, p.config.discount))
    return weighted(td_loss(q, target), batch.weight), (q, target, averages)


def averaged(p: Parts, state: CrossQState, obs: Array, action: Array) -> Array:
    """Q(s, a) `[Q, B]` by the running averages."""
    return p.critic.apply(state.critic, state.averages, obs, action)


def policy_loss(p: Parts, params: Params, state: CrossQState, batch: Batch, noise: Array) -> tuple[Array, Array]:
    """``alpha log pi - min Q`` `[B]` at fresh actions, and their log-probabilities `[B]`."""
    return soft.policy_loss(p.soft, params, functools.partial(averaged, p, state), state.log_alpha, batch, noise)


def update_critic(
    p: Parts, state: CrossQState, batch: Batch, noise: Array, step: Array | int
) -> tuple[CrossQState, Metrics]:
    """The critic step and that of the running averages."""
    loss = lambda params: critic_loss(p, params, state, batch, noise)
    critic, critic_opt, value, aux = descend(loss, p.optimiser, state.critic, state.critic_opt, step)
    q, target, averages = aux
    state = state._replace(critic=critic, averages=averages, critic_opt=critic_opt)
    return state, {"critic_loss": value, "q": q.mean(axis=0), "target_q": target}


def update_actor(
    p: Parts, state: CrossQState, batch: Batch, noise: Array, step: Array | int
) -> tuple[CrossQState, Metrics]:
    """The steps of policy and temperature, the policy's against the current critics."""
    return soft.update_actor(p.soft, state, functools.partial(averaged, p, state), batch, noise, step)


def update_once(
    p: Parts, state: CrossQState, batch: Batch, noise: Array, step: Array | int
) -> tuple[CrossQState, Metrics]:
    """One critic step and, at every `policy_delay`-th update, one step of policy and temperature.

    `noise` `[2, B, A]` is standard normal, for the target's and the actor's actions.
    """
    state, critic_metrics = update_critic(p, state, batch, noise[0], step)
    move = functools.partial(update_actor, p, batch=batch, noise=noise[1], step=step)
    state, actor_metrics = at_every(p.config.policy_delay, step, move, state)
    return state, critic_metrics | actor_metrics


def update(p: Parts, state: CrossQState, batches: Batch, key: Key, step: Array) -> tuple[CrossQState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    count, *shape = batches.action.shape
    noises = jax.random.normal(key, (count, 2, *shape))
    return scan_updates(functools.partial(update_once, p), state, (batches, noises, update_counts(step, batches)))


def crossq(
    config: CrossQConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int = 1_000_000
) -> Agent:
    """The agent for one seed. Both phases are the same, so `phase` and `phase_updates` change nothing."""
    del phase, phase_updates
    p = parts(config, spec)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p.soft),
        go_online=lambda state, key: state,
        value=lambda state, obs, action: averaged(p, state, obs, action).min(axis=0),
    )


ENTRY = Entry(
    CrossQConfig,
    crossq,
    about="batch-normalised soft actor-critic without targets (Bhatt et al. 2024)",
    values=sizes,
    variants=VARIANTS,
    pretrains=False,
)
