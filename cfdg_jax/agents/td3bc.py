"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), plain TD3, and APL's GCTD3BC (Zheng et al. 2023, arXiv 2303.07693).

One update on a minibatch (s, a, r, s', terminal, conserve)::

    a'  = clip(target_pi(s') + clip(N(0, target_noise^2), -0.5, 0.5), -1, 1)
    y   = r + gamma (1 - terminal) min_i targetQ_i(s', a')
    Q   : sum_i mean (Q_i(s, a) - y)^2
    every `delay`-th update, with the new critics:
    pi  : -lambda mean Q_1(s, pi(s)) + bc_weight mean conserve (pi(s) - a)^2,   lambda = alpha / mean |Q_1(s, pi(s))|
    targets of critics and policy move, by tau

``conserve`` is the weight of a row's cloning term. APL sets it to 0 on online batches. TD3 has no cloning term, and its
lambda is 1. The authors of TD3+BC have no online phase. Fine-tuning lets go of the data by a cloning term that falls:
`online_bc_share`, `bc_decay`. Formulas and sources: docs/algorithms.md#td3bc and docs/algorithms.md#apl.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.agents import apl
from cfdg_jax.agents.base import (
    check_fields,
    descend,
    pretrained_sizes,
    restarted,
    scan_updates,
    sizes,
    smallest_target,
    switches_of,
    update_counts,
)
from cfdg_jax.core.losses import td_loss, td_target, weighted
from cfdg_jax.core.networks import Network, critics, deterministic_policy
from cfdg_jax.core.optim import Anneal, Optimiser, adam, at_every, policy_rate, polyak
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values, Variant, check_variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec

NOISE_CLIP = 0.5
"""Largest smoothing noise."""
INIT: Literal["pytorch"] = "pytorch"
"""Initial weights."""


@dataclasses.dataclass(frozen=True)
class TD3Config:
    """Hyper-parameters of TD3 (Fujimoto et al. 2018); nothing to conserve (docs/algorithms.md#td3bc)."""

    variant: str = "authors"  # the release whose behaviour is followed, see `variants_of`
    discount: float = 0.99  # gamma of returns and targets
    tau: float = 0.005  # Polyak rate of the targets, at every policy step
    delay: int = 2  # critic updates per policy update
    target_noise: float = 0.2  # standard deviation of the target policy's smoothing
    explore_noise: float = 0.1  # standard deviation of exploration, as a share of the box's half width
    hidden: tuple[int, ...] = (256, 256)  # of all networks
    learning_rate: float = 3e-4  # Adam, all networks
    layer_norm: bool = False  # in the critics
    anneal: Anneal = "never"  # the policy's rate, by a half cosine: late scores swing less

    def __post_init__(self) -> None:
        check_variant("agent.variant", self.variant, variants_of(self))
        check_fields(self, at_least_one=("delay",), not_negative=("target_noise", "explore_noise"))


@dataclasses.dataclass(frozen=True)
class TD3BCConfig(TD3Config):
    """Hyper-parameters of TD3+BC; the defaults are the authors' (docs/algorithms.md#td3bc)."""

    alpha: float = 2.5  # numerator of lambda; larger follows the critics more
    bc_weight: float = 1.0  # of the cloning term
    online_bc_share: float = 1.0  # share of the weight that is left once it has fallen, online
    bc_decay: int = 0  # online updates in which it falls, linearly; 0: at once

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, positive=("alpha",), not_negative=("bc_weight", "online_bc_share", "bc_decay"))


@dataclasses.dataclass(frozen=True)
class APLTD3BCConfig(TD3BCConfig):
    """APL's GCTD3BC: TD3+BC whose rows the stratifier `by_source` marks (docs/algorithms.md#apl)."""


class Switches(NamedTuple):
    """What a release does otherwise; no field of the config."""

    bc_loss: Literal["mean", "sum"] = "mean"  # of squared differences over the A action dimensions


VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=Switches()),
    "corl": Variant(switches=Switches()),
    "jax_corl": Variant({"learning_rate": 1e-3, "layer_norm": True}, Switches()),
    "paper": Variant(switches=Switches(bc_loss="sum")),
}
"""Releases of TD3+BC by name (docs/algorithms.md#td3bc).

``authors``: the authors' code. ``corl``: CORL's, which agrees with it to the last digit.
``jax_corl``: JAX-CORL, but for the update at which its policy first moves.
``paper``: the cloning term as the paper writes it, a squared norm: summed over action dimensions, not averaged.
"""
ONE_VARIANT: dict[str, Variant] = {"authors": Variant(switches=Switches())}
"""The authors' code, which TD3 and APL's agent follow."""


def variants_of(config: TD3Config) -> dict[str, Variant]:
    """The releases that a config can choose from."""
    return VARIANTS if type(config) is TD3BCConfig else ONE_VARIANT


class TD3BCState(NamedTuple):
    """Parameters, targets and optimiser states of one seed; critics lead with Q."""

    critic: Params
    target: Params
    policy: Params
    target_policy: Params
    critic_opt: Any
    policy_opt: Any


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays.

    `alpha` is None where the policy's loss takes Q as it is. `bc_weight` is a function of the updates of the phase.
    """

    config: TD3Config
    switches: Switches
    alpha: float | None
    bc_weight: optax.Schedule
    critic: Network
    policy: Network
    optimiser: Optimiser
    policy_optimiser: Optimiser


def cloning_weight(config: TD3Config, phase: Literal["offline", "online"]) -> optax.Schedule:
    """The cloning term's weight by the number of updates made in the phase; 0 for TD3."""
    if not isinstance(config, TD3BCConfig):
        return optax.constant_schedule(0.0)
    first, last = config.bc_weight, config.bc_weight * config.online_bc_share
    if phase == "offline":
        return optax.constant_schedule(first)
    return optax.linear_schedule(first, last, config.bc_decay) if config.bc_decay else optax.constant_schedule(last)


def parts(
    config: TD3Config,
    spec: Spec,
    phase: Literal["offline", "online"] = "offline",
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Parts:
    """Networks, optimisers and the cloning term's weight."""
    own = switches_of(config, variants_of(config), switches)
    return Parts(
        config=config,
        switches=own,
        alpha=config.alpha if isinstance(config, TD3BCConfig) else None,
        bc_weight=cloning_weight(config, phase),
        critic=critics(spec, config.hidden, 2, config.layer_norm, INIT),
        policy=deterministic_policy(spec, config.hidden, INIT),
        optimiser=adam(config.learning_rate),
        policy_optimiser=adam(policy_rate(config.learning_rate, config.anneal, phase, phase_updates)),
    )


def init_state(p: Parts, key: Key) -> TD3BCState:
    """Fresh parameters, targets equal to them, zero moments."""
    critic_key, policy_key = jax.random.split(key)
    critic, policy = p.critic.init(critic_key), p.policy.init(policy_key)
    target, target_policy = jax.tree.map(jnp.copy, (critic, policy))
    state = TD3BCState(critic, target, policy, target_policy, None, None)
    return restarted(state, critic=p.optimiser, policy=p.policy_optimiser)


def bootstrap(p: Parts, state: TD3BCState, batch: Batch, noise: Array) -> Array:
    """The critics' target `[B]`; `noise` `[B, A]` is standard normal."""
    smoothing = jnp.clip(p.config.target_noise * noise, -NOISE_CLIP, NOISE_CLIP)
    next_action = jnp.clip(p.policy.apply(state.target_policy, batch.next_obs) + smoothing, -1.0, 1.0)
    next_q = p.critic.apply(state.target, batch.next_obs, next_action).min(axis=0)
    return td_target(batch.reward, batch.terminal, next_q, p.config.discount)


def critic_loss(p: Parts, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
    """Squared TD error `[B]` of all critics against `target` `[B]`, and Q(s, a) `[Q, B]`."""
    q = p.critic.apply(params, batch.obs, batch.action)
    return weighted(td_loss(q, target), batch.weight), q


def policy_loss(p: Parts, params: Params, critic: Params, batch: Batch, step: Array | int) -> tuple[Array, Metrics]:
    """The policy's loss `[B]`, and its two terms with lambda; `step` `[]` counts the updates of the phase."""
    bc_weight = p.bc_weight(step)
    action = p.policy.apply(params, batch.obs)
    first = jax.tree.map(lambda leaf: leaf[:1], critic)
    q = p.critic.apply(first, batch.obs, action)[0]
    scale = jnp.ones(()) if p.alpha is None else p.alpha / jax.lax.stop_gradient(jnp.abs(q).mean())
    square = jnp.square(action - batch.action)
    cloning = square.mean(axis=-1) if p.switches.bc_loss == "mean" else square.sum(axis=-1)
    loss = -scale * q + bc_weight * weighted(cloning, batch.conserve)
    return loss, {"policy_loss": loss, "bc_loss": cloning, "bc_weight": jnp.asarray(bc_weight), "q_scale": scale}


def update_critic(
    p: Parts, state: TD3BCState, batch: Batch, noise: Array, step: Array | int
) -> tuple[TD3BCState, Metrics]:
    """The critic step."""
    target = bootstrap(p, state, batch, noise)
    loss = lambda params: critic_loss(p, params, batch, target)
    critic, critic_opt, loss_q, q = descend(loss, p.optimiser, state.critic, state.critic_opt, step)
    metrics = {"critic_loss": loss_q, "q": q.mean(axis=0), "target_q": target}
    return state._replace(critic=critic, critic_opt=critic_opt), metrics


def update_policy(p: Parts, state: TD3BCState, batch: Batch, step: Array | int) -> tuple[TD3BCState, Metrics]:
    """The policy step against the current critics, then all targets."""
    loss = lambda params: policy_loss(p, params, state.critic, batch, step)
    policy, policy_opt, _, metrics = descend(loss, p.policy_optimiser, state.policy, state.policy_opt, step)
    state = state._replace(
        policy=policy,
        policy_opt=policy_opt,
        target=polyak(state.target, state.critic, p.config.tau),
        target_policy=polyak(state.target_policy, policy, p.config.tau),
    )
    return state, metrics


def update_once(p: Parts, state: TD3BCState, batch: Batch, noise: Array, step: Array) -> tuple[TD3BCState, Metrics]:
    """One critic step and, at every `delay`-th update of the phase, one policy step."""
    state, critic_metrics = update_critic(p, state, batch, noise, step)
    state, policy_metrics = at_every(p.config.delay, step, lambda s: update_policy(p, s, batch, step), state)
    return state, critic_metrics | policy_metrics


def update(p: Parts, state: TD3BCState, batches: Batch, key: Key, step: Array) -> tuple[TD3BCState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    noises = jax.random.normal(key, batches.action.shape)
    return scan_updates(functools.partial(update_once, p), state, (batches, noises, update_counts(step, batches)))


def act(p: Parts, state: TD3BCState, obs: Array, key: Key, explore: bool) -> Array:
    """The policy's action; exploring, with Gaussian noise, clipped to the box."""
    action = p.policy.apply(state.policy, obs)
    if not explore:
        return action
    return jnp.clip(action + p.config.explore_noise * jax.random.normal(key, action.shape), -1.0, 1.0)


def go_online(p: Parts, state: TD3BCState, key: Key) -> TD3BCState:
    """Everything carries over."""
    del p, key
    return state


def td3bc(
    config: TD3Config,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Agent:
    """TD3+BC, or TD3 with its config, for one seed.

    `phase_updates`: length of the whole phase, over which the policy's rate may anneal. `switches`: None for those of
    the config's variant.
    """
    p = parts(config, spec, phase, phase_updates, switches)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p),
        go_online=functools.partial(go_online, p),
        value=smallest_target(p.critic),
    )


def _td3bc_values(preset: Preset, task: Task) -> Values:
    values: dict[str, Any] = {} if task.family == "toy" else {"transform.observation": "standardise"}  # sfujim/TD3_BC
    if preset != "paper":  # without layer_norm alpha 2.5 diverges at that rate on 200,000 rows
        values |= {"agent.layer_norm": True} | dict(pretrained_sizes(preset, task))
        # without cloning online the policy collapses, with all of it it stays where it is
        values |= {"agent.online_bc_share": 0.1, "agent.bc_decay": 10_000}
    return values


def _apl_values(preset: Preset, task: Task) -> Values:
    values = apl.rhythm(preset) | {"mix.p_online": 0.1}
    if preset != "paper":
        values |= {"agent.layer_norm": True} | dict(pretrained_sizes(preset, task))
        if task.family != "toy":  # TD3+BC's; the release has none
            values |= {"transform.observation": "standardise"}
    return values


_WITHOUT: tuple[dict[str, Any], dict[str, Any]] = ({}, {"bc_weight": 0.0})
TD3BC = Entry(
    TD3BCConfig,
    td3bc,
    about="TD3 with behaviour cloning (Fujimoto and Gu 2021)",
    values=_td3bc_values,
    variants=VARIANTS,
    without=_WITHOUT,
)
APL_TD3BC = Entry(
    APLTD3BCConfig,
    td3bc,
    about="adaptive policy learning on TD3+BC (Zheng et al. 2023)",
    values=_apl_values,
    companions=lambda agent: {"mix": "oorb", "stratify": "by_source"},
    variants=ONE_VARIANT,
    without=_WITHOUT,
)
TD3 = Entry(
    TD3Config,
    td3bc,
    about="twin delayed DDPG (Fujimoto et al. 2018)",
    values=sizes,
    variants=ONE_VARIANT,
    pretrains=False,
)
