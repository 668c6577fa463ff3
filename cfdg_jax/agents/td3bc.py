"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), plain TD3, and APL's GCTD3BC (Zheng et al. 2023, arXiv 2303.07693).

One update on a minibatch (s, a, r, s', terminal, conserve)::

    a'  = clip(target_pi(s') + clip(N(0, target_noise^2), -noise_clip, noise_clip), -1, 1)
    y   = r + gamma (1 - terminal) min_i targetQ_i(s', a')
    Q   : sum_i mean (Q_i(s, a) - y)^2
    every `delay`-th update, with the new critics:
    pi  : -lambda mean Q_1(s, pi(s)) + bc_weight mean conserve (pi(s) - a)^2,   lambda = alpha / mean |Q_1(s, pi(s))|
    targets of critics and policy move, by tau

``conserve`` is the weight of a row's cloning term: APL sets it to 0 on online batches, and with `bc_weight` 0 or a
zero everywhere the agent is TD3 with a normalised policy loss. The authors have no online phase; fine-tuning lets go of
the data by a cloning term that falls (Beeson and Montana 2022, arXiv 2211.11802): `online_bc_share`,
`bc_decay`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.agents.base import apl_companions, apl_rhythm, pretrained_sizes, sizes
from cfdg_jax.core.losses import td_loss, td_target, weighted_mean
from cfdg_jax.core.networks import Init, Network, critics, deterministic_policy
from cfdg_jax.core.optim import Anneal, Optimiser, adam, at_every, policy_rate, polyak
from cfdg_jax.errors import require
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class TD3BCConfig:
    """Hyper-parameters; the defaults are the authors' (TD3_BC.py)."""

    alpha: float = 2.5  # numerator of lambda; larger follows the critics more
    bc_weight: float = 1.0  # of the cloning term; 0 is TD3
    online_bc_share: float = 1.0  # of it that is left at the end of its fall in the online phase
    bc_decay: int = 0  # online updates in which it falls, linearly; 0: at once
    bc_loss: Literal["mean", "sum"] = "mean"  # of squared differences over the A action dimensions (authors: mean)
    normalise_q: bool = True  # lambda = alpha / mean |Q|; False: lambda = 1, as TD3
    discount: float = 0.99  # all sources
    tau: float = 0.005  # Polyak rate of the targets, at every policy step (authors)
    delay: int = 2  # critic updates per policy update (TD3)
    target_noise: float = 0.2  # standard deviation of the target policy's smoothing (TD3)
    noise_clip: float = 0.5  # largest smoothing noise (TD3)
    explore_noise: float = 0.1  # standard deviation of exploration, as a share of the box's half width (TD3, APL)
    hidden: tuple[int, ...] = (256, 256)  # of all networks (all sources)
    critics: int = 2  # twin critics (TD3)
    q_loss: Literal["sum", "mean"] = "sum"  # over critics (authors: sum)
    learning_rate: float = 3e-4  # Adam, all networks (all sources)
    clip_norm: float | None = None  # largest gradient norm; no source clips
    anneal: Anneal = "never"  # the policy's rate, by a half cosine; no source
    layer_norm: bool = False  # in the critics (JAX-CORL True)
    init: Init = "pytorch"  # all sources
    reset_optimiser_online: bool = False  # start Adam afresh at the hand-over

    def __post_init__(self) -> None:
        require(0.0 <= self.discount <= 1.0, "agent.discount", f"is {self.discount}", "must lie in [0, 1]")
        require(0.0 < self.tau <= 1.0, "agent.tau", f"is {self.tau}", "must lie in (0, 1]")
        for name in ("alpha", "learning_rate"):
            value = getattr(self, name)
            require(value > 0.0, f"agent.{name}", f"is {value}", "must be positive")
        for name in ("bc_weight", "online_bc_share", "bc_decay", "target_noise", "noise_clip", "explore_noise"):
            value = getattr(self, name)
            require(value >= 0.0, f"agent.{name}", f"is {value}", "must not be negative")
        for name in ("delay", "critics"):
            value = getattr(self, name)
            require(value >= 1, f"agent.{name}", f"is {value}", "must be at least 1")
        require(all(w > 0 for w in self.hidden), "agent.hidden", f"is {self.hidden}", "must hold positive widths")
        clip = self.clip_norm
        require(clip is None or clip > 0.0, "agent.clip_norm", f"is {clip}", "must be positive or none")


@dataclasses.dataclass(frozen=True)
class TD3Config(TD3BCConfig):
    """TD3 (Fujimoto et al. 2018), which TD3+BC is without cloning and without the scale of Q; nothing to conserve."""

    bc_weight: float = 0.0
    normalise_q: bool = False


@dataclasses.dataclass(frozen=True)
class APLTD3BCConfig(TD3BCConfig):
    """APL's GCTD3BC (agents/td3_bc_gc.py): TD3+BC whose rows the stratifier `by_source` marks. The numbers agree."""


class TD3BCState(NamedTuple):
    """Parameters, targets and optimiser states of one seed; critics lead with Q."""

    critic: Params
    target: Params
    policy: Params
    target_policy: Params
    critic_opt: Any
    policy_opt: Any


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: TD3BCConfig
    critic: Network
    policy: Network
    optimiser: Optimiser
    policy_optimiser: Optimiser
    bc_weight: optax.Schedule


def parts(
    config: TD3BCConfig, spec: Spec, phase: Literal["offline", "online"] = "offline", phase_updates: int = 1_000_000
) -> Parts:
    """Networks, optimisers, and the cloning term's weight by the number of updates made in the phase."""
    first, last = config.bc_weight, config.bc_weight * config.online_bc_share
    if phase == "offline":
        bc_weight = optax.constant_schedule(first)
    elif config.bc_decay == 0:
        bc_weight = optax.constant_schedule(last)
    else:
        bc_weight = optax.linear_schedule(first, last, config.bc_decay)
    rate = policy_rate(config.learning_rate, config.anneal, phase, phase_updates)
    return Parts(
        config=config,
        critic=critics(spec, config.hidden, config.critics, config.layer_norm, config.init),
        policy=deterministic_policy(spec, config.hidden, config.init),
        optimiser=adam(config.learning_rate, clip_norm=config.clip_norm),
        policy_optimiser=adam(rate, config.clip_norm),
        bc_weight=bc_weight,
    )


def init_state(p: Parts, key: Key) -> TD3BCState:
    """Fresh parameters, targets equal to them, zero moments."""
    critic_key, policy_key = jax.random.split(key)
    critic, policy = p.critic.init(critic_key), p.policy.init(policy_key)
    target, target_policy = jax.tree.map(jnp.copy, (critic, policy))
    return TD3BCState(critic, target, policy, target_policy, p.optimiser.init(critic), p.policy_optimiser.init(policy))


def bootstrap(p: Parts, state: TD3BCState, batch: Batch, noise: Array) -> Array:
    """The critics' target `[B]`; `noise` `[B, A]` is standard normal."""
    config = p.config
    smoothing = jnp.clip(config.target_noise * noise, -config.noise_clip, config.noise_clip)
    next_action = jnp.clip(p.policy.apply(state.target_policy, batch.next_obs) + smoothing, -1.0, 1.0)
    next_q = p.critic.apply(state.target, batch.next_obs, next_action).min(axis=0)
    return td_target(batch.reward, batch.terminal, next_q, config.discount)


def critic_loss(p: Parts, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
    """Squared TD error of all critics against `target` `[B]`, and Q(s, a) `[Q, B]`."""
    q = p.critic.apply(params, batch.obs, batch.action)
    return weighted_mean(td_loss(q, target, p.config.q_loss), batch.weight), q


def policy_loss(p: Parts, params: Params, critic: Params, batch: Batch, step: Array | int) -> tuple[Array, Metrics]:
    """The policy's loss, and its two terms with lambda; `step` `[]` counts the updates of the phase."""
    config, bc_weight = p.config, p.bc_weight(step)
    action = p.policy.apply(params, batch.obs)
    first = jax.tree.map(lambda leaf: leaf[:1], critic)
    q = p.critic.apply(first, batch.obs, action)[0]
    scale = config.alpha / jax.lax.stop_gradient(jnp.abs(q).mean()) if config.normalise_q else jnp.ones(())
    square = jnp.square(action - batch.action)
    cloning = square.mean(axis=-1) if config.bc_loss == "mean" else square.sum(axis=-1)
    loss = -scale * q.mean() + bc_weight * weighted_mean(cloning, batch.conserve)
    return loss, {"policy_loss": loss, "bc_loss": cloning.mean(), "bc_weight": jnp.asarray(bc_weight), "q_scale": scale}


def update_critic(p: Parts, state: TD3BCState, batch: Batch, noise: Array, step) -> tuple[TD3BCState, Metrics]:
    """The critic step."""
    target = bootstrap(p, state, batch, noise)
    grad = jax.value_and_grad(functools.partial(critic_loss, p), has_aux=True)
    (loss, q), grads = grad(state.critic, batch, target)
    critic, critic_opt = p.optimiser.apply(state.critic, grads, state.critic_opt, step)
    metrics = {"critic_loss": loss, "q": q.mean(), "target_q": target.mean()}
    return state._replace(critic=critic, critic_opt=critic_opt), metrics


def update_policy(p: Parts, state: TD3BCState, batch: Batch, step) -> tuple[TD3BCState, Metrics]:
    """The policy step against the current critics, then all targets."""
    grad = jax.grad(functools.partial(policy_loss, p), has_aux=True)
    grads, metrics = grad(state.policy, state.critic, batch, step)
    policy, policy_opt = p.policy_optimiser.apply(state.policy, grads, state.policy_opt, step)
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
    counts = step + jnp.arange(batches.reward.shape[0], dtype=jnp.int32)
    state, metrics = jax.lax.scan(lambda carry, x: update_once(p, carry, *x), state, (batches, noises, counts))
    return state, jax.tree.map(lambda m: m.mean(axis=0), metrics)


def act(p: Parts, state: TD3BCState, obs: Array, key: Key, explore: bool) -> Array:
    """The policy's action; exploring, with Gaussian noise, clipped to the box."""
    action = p.policy.apply(state.policy, obs)
    if not explore:
        return action
    return jnp.clip(action + p.config.explore_noise * jax.random.normal(key, action.shape), -1.0, 1.0)


def go_online(p: Parts, state: TD3BCState, key: Key) -> TD3BCState:
    """Everything carries over; the optimisers start afresh if so configured."""
    del key
    if not p.config.reset_optimiser_online:
        return state
    return state._replace(critic_opt=p.optimiser.init(state.critic), policy_opt=p.policy_optimiser.init(state.policy))


def td3bc(
    config: TD3BCConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int = 1_000_000
) -> Agent:
    """TD3+BC for one seed. `phase_updates`: length of the whole phase, over which the policy's rate may anneal."""
    p = parts(config, spec, phase, phase_updates)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p),
        go_online=functools.partial(go_online, p),
        value=lambda state, obs, action: p.critic.apply(state.target, obs, action).min(axis=0),
    )


def _td3bc_values(preset: Preset, task: Task) -> Values:
    values: dict[str, Any] = {} if task.family == "toy" else {"transform.observation": "standardise"}  # TD3_BC.py
    if preset != "paper":  # without layer_norm alpha 2.5 diverges at that rate on 200,000 rows
        values |= {"agent.layer_norm": True} | dict(pretrained_sizes(preset, task))
        # without cloning online the policy collapses, with all of it it stays where it is
        values |= {"agent.online_bc_share": 0.1, "agent.bc_decay": 10_000}
    return values


def _apl_values(preset: Preset, task: Task) -> Values:
    values = apl_rhythm(preset) | {"mix.p_online": 0.1}
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
    without=_WITHOUT,
)
APL_TD3BC = Entry(
    APLTD3BCConfig,
    td3bc,
    about="adaptive policy learning on TD3+BC (Zheng et al. 2023)",
    values=_apl_values,
    companions=apl_companions,
    without=_WITHOUT,
)
TD3 = Entry(TD3Config, td3bc, about="twin delayed DDPG (Fujimoto et al. 2018)", values=sizes, pretrains=False)
