"""Policy expansion (Zhang, Xu, Yu 2023, arXiv 2302.00935): a frozen offline policy and a growing one, chosen by value.

Offline it is IQL. Online, one update on a minibatch (s, a, r, s', terminal, conserve)::

    V, Q, targetQ : IQL's steps
    a_1 = mode of the offline policy at s,  a_2 ~ the online policy at s
    a_c = a_j with probability softmax_j(alpha min_i Q_i(s, a_j))           the composite policy
    pi  : regression of a_c, weight exp(beta (min_i targetQ_i(s, a_c) - V(s))), all with the critics just updated

The regression's target is the composite action, not the batch's: with the latter PEX would be IQL with a new policy.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents import iql as base
from cfdg_jax.agents.base import pretrained_sizes
from cfdg_jax.agents.iql import IQLConfig, IQLState
from cfdg_jax.core.losses import awr_weight, td_target, weighted_mean
from cfdg_jax.core.networks import Init
from cfdg_jax.core.optim import polyak
from cfdg_jax.errors import require
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values, Variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class PEXConfig(IQLConfig):
    """IQL's hyper-parameters with the values of PEX's repository, and the composite policy's."""

    expectile: float = 0.9  # README commands, both domains
    temperature: float = 10.0  # beta, README commands, both domains
    online_expectile: float | None = None  # tau from the hand-over on; none: the same (all sources)
    online_temperature: float | None = None  # beta from the hand-over on; none: the same (all sources)
    order: Literal["jax", "torch"] = "torch"  # the target of Q uses V before its step (pex.py)
    q_loss: Literal["sum", "mean"] = "mean"  # pex/algorithms/iql.py
    init: Init = "pytorch"  # critics and V (nn.Linear's own, pex/utils/util.py)
    policy_init: Init | None = "xavier"  # the policies, offline and online (reference 3.2)
    reset_optimiser_online: bool = True  # main_online.py builds its optimisers anew
    inverse_temperature: float = 10.0  # alpha of the softmax over proposals (main_online.py)
    clip_proposals: bool = True  # samples clipped to the box before they are scored and stored; False: released code
    evaluation: Literal["argmax", "eps_greedy"] = "argmax"  # eps_greedy: released code
    epsilon: float = 0.1  # eps_greedy: chance of a sampled proposal, and of a drawn choice (util.py)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.policy == "gaussian", "agent.policy", f"is {self.policy}", "PEX proposes samples; use gaussian")
        require(self.free_target != "sampled", "agent.free_target", "is sampled", "PEX takes twin or min")
        tau, beta = self.online_expectile, self.online_temperature
        require(tau is None or 0.0 < tau < 1.0, "agent.online_expectile", f"is {tau}", "must lie strictly in (0, 1)")
        require(beta is None or beta >= 0.0, "agent.online_temperature", f"is {beta}", "must not be negative")
        alpha, epsilon = self.inverse_temperature, self.epsilon
        require(alpha >= 0.0, "agent.inverse_temperature", f"is {alpha}", "must not be negative")
        require(0.0 <= epsilon <= 1.0, "agent.epsilon", f"is {epsilon}", "must lie in [0, 1]")


class PEXState(NamedTuple):
    """The online phase's state of one seed; the offline phase has IQL's alone.

    Attributes:
      offline_policy: Frozen.
      iql: Critics, targets, value and the online policy, with their optimisers.
    """

    offline_policy: Params
    iql: IQLState


class Noise(NamedTuple):
    """All randomness of one composite action.

    Attributes:
      action: `[..., A]` standard normal, of the online policy's proposal.
      select: `[...]` uniform, of the choice.
      greedy: `[..., 2]` uniform: above epsilon the proposal is the mean, the choice the better one (eps_greedy).
    """

    action: Array
    select: Array
    greedy: Array


class Choice(NamedTuple):
    """The composite policy at some states.

    Attributes:
      action: `[..., A]`, the chosen proposal.
      proposals: `[2, ..., A]`, the offline and the online policy's.
      q: `[2, ...]`, the minimum of the online critics at them.
      probability: `[2, ...]`, of each being chosen.
    """

    action: Array
    proposals: Array
    q: Array
    probability: Array


class Parts(NamedTuple):
    """What the functions below share: the phase's config, IQL's parts, both policies' network among them, and A."""

    config: PEXConfig
    iql: base.Parts
    act_dim: int


def parts(config: PEXConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int) -> Parts:
    """IQL's networks and optimisers, and A; online with the expectile and the temperature of that phase."""
    if phase == "online":
        tau, beta = config.online_expectile, config.online_temperature
        config = dataclasses.replace(
            config,
            expectile=config.expectile if tau is None else tau,
            temperature=config.temperature if beta is None else beta,
        )
    return Parts(config, base.parts(config, spec, phase, phase_updates), spec.act_dim)


def expand(p: Parts, state: IQLState, key: Key) -> PEXState:
    """The hand-over: the policy is frozen and a fresh one takes its place; critics, targets and V carry over."""
    policy = p.iql.policy.init(key)
    critic_opt, value_opt, policy_opt = base.init_optimisers(p.iql, state.critic, state.value, policy)
    if not p.config.reset_optimiser_online:
        critic_opt, value_opt = state.critic_opt, state.value_opt
    target = jax.tree.map(jnp.copy, state.critic) if p.config.copy_to_target else state.target
    online = IQLState(state.critic, target, state.value, policy, critic_opt, value_opt, policy_opt)
    return PEXState(state.policy, online)


def init_online(p: Parts, key: Key) -> PEXState:
    """A fresh state of the online phase, as without pre-training."""
    iql_key, policy_key = jax.random.split(key)
    return expand(p, base.init_state(p.iql, iql_key), policy_key)


def draw_noise(p: Parts, obs: Array, key: Key) -> Noise:
    """Noise for states `[..., O]`."""
    action_key, select_key, greedy_key = jax.random.split(key, 3)
    shape = obs.shape[:-1]
    return Noise(
        action=jax.random.normal(action_key, (*shape, p.act_dim)),
        select=jax.random.uniform(select_key, shape),
        greedy=jax.random.uniform(greedy_key, (*shape, 2)),
    )


def propose(p: Parts, state: PEXState, obs: Array, noise: Array) -> Array:
    """The two proposals `[2, ..., A]`; `noise` 0 gives the online policy's mean."""
    offline = p.iql.policy.apply(state.offline_policy, obs).mode()
    online = p.iql.policy.apply(state.iql.policy, obs).sample(noise)
    proposals = jnp.stack([offline, online])
    return jnp.clip(proposals, -1.0, 1.0) if p.config.clip_proposals else proposals


def compose(p: Parts, state: PEXState, obs: Array, proposals: Array, select: Array, greedy: Array | bool) -> Choice:
    """Chooses between `proposals` `[2, ..., A]`: the better one where `greedy`, else by `select` `[...]` uniform."""
    q = p.iql.critic.apply(state.iql.critic, jnp.stack([obs, obs]), proposals).min(axis=0)
    probability = jax.nn.softmax(p.config.inverse_temperature * q, axis=0)
    second = jnp.where(greedy, q[1] > q[0], select >= probability[0])
    return Choice(jnp.where(second[..., None], proposals[1], proposals[0]), proposals, q, probability)


def update_policy(p: Parts, state: PEXState, batch: Batch, noise: Noise, step) -> tuple[PEXState, Metrics]:
    """The online policy's step, everything evaluated anew with the current critics, targets and V."""
    proposals = propose(p, state, batch.obs, noise.action)
    choice = compose(p, state, batch.obs, proposals, noise.select, False)
    critic = state.iql.target if p.config.advantage == "target" else state.iql.critic
    q = p.iql.critic.apply(critic, batch.obs, choice.action).min(axis=0)
    advantage = q - p.iql.value.apply(state.iql.value, batch.obs)
    weight, limited = awr_weight(advantage, p.config.temperature, p.config.advantage_limit)
    action = jax.lax.stop_gradient(choice.action)

    def loss(params: Params) -> Array:
        return weighted_mean(-p.iql.policy.apply(params, batch.obs).log_prob(action), weight)

    value, grads = jax.value_and_grad(loss)(state.iql.policy)
    policy, policy_opt = p.iql.policy_optimiser.apply(state.iql.policy, grads, state.iql.policy_opt, step)
    metrics = {
        "policy_loss": value,
        "advantage": advantage.mean(),
        "weight": weight.mean(),
        "weight_limited": limited.mean(),
        "online_policy_share": choice.probability[1].mean(),
    }
    return state._replace(iql=state.iql._replace(policy=policy, policy_opt=policy_opt)), metrics


def update_critics(p: Parts, state: PEXState, batch: Batch, step) -> tuple[PEXState, Metrics]:
    """IQL's value and critic steps, and the target average."""
    iql, config = state.iql, p.config
    target_q = p.iql.critic.apply(iql.target, batch.obs, batch.action)
    grad_value = jax.value_and_grad(functools.partial(base.value_loss, p.iql), has_aux=True)
    (loss_v, v), grads = grad_value(iql.value, batch, target_q)
    value, value_opt = p.iql.optimiser.apply(iql.value, grads, iql.value_opt, step)
    next_v = p.iql.value.apply(iql.value if config.order == "torch" else value, batch.next_obs)
    target = td_target(batch.reward, batch.terminal, next_v, config.discount)
    grad_critic = jax.value_and_grad(functools.partial(base.critic_loss, p.iql), has_aux=True)
    (loss_q, q), grads = grad_critic(iql.critic, batch, target)
    critic, critic_opt = p.iql.optimiser.apply(iql.critic, grads, iql.critic_opt, step)
    iql = iql._replace(
        critic=critic,
        target=polyak(iql.target, critic, config.tau),
        value=value,
        critic_opt=critic_opt,
        value_opt=value_opt,
    )
    metrics = {"critic_loss": loss_q, "value_loss": loss_v, "q": q.mean(), "target_q": target.mean(), "v": v.mean()}
    return state._replace(iql=iql), metrics


def update_once(p: Parts, state: PEXState, batch: Batch, noise: Noise, step) -> tuple[PEXState, Metrics]:
    """One update of the online phase on one minibatch."""
    state, critic_metrics = update_critics(p, state, batch, step)
    state, policy_metrics = update_policy(p, state, batch, noise, step)
    return state, critic_metrics | policy_metrics


def update(p: Parts, state: PEXState, batches: Batch, key: Key, step: Array) -> tuple[PEXState, Metrics]:
    """K updates of the online phase, scanned over a `[K, B]` `Batch`."""
    counts = step + jnp.arange(batches.reward.shape[0], dtype=jnp.int32)
    noises = draw_noise(p, batches.obs, key)
    state, metrics = jax.lax.scan(lambda carry, x: update_once(p, carry, *x), state, (batches, noises, counts))
    return state, jax.tree.map(lambda m: m.mean(axis=0), metrics)


def act_with(p: Parts, state: PEXState, obs: Array, noise: Noise, explore: bool) -> Choice:
    """The composite policy's choice: drawn when exploring, as `evaluation` says otherwise."""
    if explore:
        greedy = jnp.zeros(noise.greedy.shape, bool)
    elif p.config.evaluation == "argmax":
        greedy = jnp.ones(noise.greedy.shape, bool)
    else:
        greedy = noise.greedy > p.config.epsilon
    proposals = propose(p, state, obs, jnp.where(greedy[..., :1], 0.0, noise.action))
    return compose(p, state, obs, proposals, noise.select, greedy[..., 1])


def act(p: Parts, state: PEXState, obs: Array, key: Key, explore: bool) -> Array:
    """The composite policy's action, clipped to the box; in the released form as proposed.

    Environments clip what they execute, so that form leaves the proposal in the replay, as the release does.
    """
    action = act_with(p, state, obs, draw_noise(p, obs, key), explore).action
    return jnp.clip(action, -1.0, 1.0) if p.config.clip_proposals else action


def pex(config: PEXConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int = 1_000_000) -> Agent:
    """PEX for one seed: IQL offline, policy expansion online. `phase_updates` as for `iql`."""
    p = parts(config, spec, phase, phase_updates)
    if phase == "offline":
        plain = base.iql(config, spec, phase, phase_updates)
        return plain._replace(init=functools.partial(base.init_state, p.iql), go_online=functools.partial(expand, p))
    return Agent(
        init=functools.partial(init_online, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p),
        go_online=lambda state, key: state,
        value=lambda state, obs, action: p.iql.critic.apply(state.iql.target, obs, action).min(axis=0),
    )


def _values(preset: Preset, task: Task) -> Values:
    return {} if preset == "paper" else {**base.reduced_regression(task), **pretrained_sizes(preset, task)}


def _check(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    if config.offline.steps == 0:
        yield "without pre-training the offline policy is a random one; set offline.steps"


ENTRY = Entry(
    PEXConfig,
    pex,
    about="policy expansion: a frozen offline policy and a growing one (Zhang, Xu, Yu 2023)",
    values=_values,
    check=_check,
    variants={"authors": Variant()},
    without=({"free_target": "min"}, {"free_target": "min", "expectile": 0.99}),
)
