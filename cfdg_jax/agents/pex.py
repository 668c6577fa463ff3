"""Policy expansion (Zhang, Xu, Yu 2023, arXiv 2302.00935): a frozen offline policy and a growing one, chosen by value.

Offline it is IQL. Online, one update on a minibatch (s, a, r, s', terminal, conserve)::

    V, Q, targetQ : IQL's steps
    a_1 = mode of the offline policy at s,  a_2 ~ the online policy at s
    a_c = a_j with probability softmax_j(alpha min_i Q_i(s, a_j))           the composite policy
    pi  : regression of a_c, weight exp(beta (min_i targetQ_i(s, a_c) - V(s))), all with the critics just updated

The regression's target is the composite action, not the batch's: with the latter PEX would be IQL with a new policy.
Formulas and sources: docs/algorithms.md#pex.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents import iql as base
from cfdg_jax.agents.base import (
    check_fields,
    pretrained_sizes,
    restarted,
    scan_updates,
    switches_of,
    update_counts,
)
from cfdg_jax.agents.iql import IQLConfig, IQLState
from cfdg_jax.core.optim import Anneal
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values, Variant, check_variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class PEXConfig:
    """Hyper-parameters; the defaults are those of PEX's repository (docs/algorithms.md#pex)."""

    variant: str = "authors"  # the release whose behaviour is followed, see `VARIANTS`
    expectile: float = 0.9  # tau of the value regression, both domains
    temperature: float = 10.0  # beta, multiplies the advantage, both domains
    online_expectile: float | None = None  # tau from the hand-over on; none: the same (all sources)
    online_temperature: float | None = None  # beta from the hand-over on; none: the same (all sources)
    advantage_limit: float = 100.0  # largest regression weight
    discount: float = 0.99  # gamma of returns and targets
    tau: float = 0.005  # Polyak rate of the target critics, every update
    hidden: tuple[int, ...] = (256, 256)  # of all networks
    critics: int = 2  # Q networks
    layer_norm: bool = False  # in critics and V
    learning_rate: float = 3e-4  # Adam, all networks
    anneal: Anneal = "offline"  # the policies' rate, by a half cosine
    free_expectile: float = 0.99  # tau of rows with conserve = 0; no effect while conserve is 1
    free_target: Literal["twin", "min"] = "twin"  # their V regresses the max (twin) or the min over critics
    inverse_temperature: float = 10.0  # alpha of the softmax over proposals

    def __post_init__(self) -> None:
        check_variant("agent.variant", self.variant, VARIANTS)
        check_fields(
            self,
            inside=("expectile", "free_expectile", "online_expectile"),
            not_negative=("temperature", "online_temperature", "inverse_temperature"),
            positive=("advantage_limit",),
        )


class Switches(NamedTuple):
    """What a release does otherwise; no field of the config."""

    iql: base.Switches = base.PEX_SWITCHES._replace(copy_to_target=False)  # the targets carry over
    clip_proposals: bool = True  # samples are clipped to the box before they are scored and stored
    evaluation: Literal["argmax", "eps_greedy"] = "argmax"  # of mean actions
    epsilon: float = 0.1  # eps_greedy: chance of a sampled proposal, and of a drawn choice


VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=Switches()),
    "released": Variant(switches=Switches(clip_proposals=False, evaluation="eps_greedy")),
}
"""Releases by name (docs/algorithms.md#pex).

``authors``: the method, with proposals inside the box and a deterministic evaluation.
``released``: the repository, which neither clips proposals nor evaluates without chance.
"""


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
    """What the functions below share: config, IQL's parts with the network of both policies, and A."""

    config: PEXConfig
    switches: Switches
    iql: base.Parts
    act_dim: int


def iql_config(config: PEXConfig, phase: Literal["offline", "online"]) -> IQLConfig:
    """IQL's config of a phase: the shared fields, with the phase's expectile and temperature."""
    shared = {field.name for field in dataclasses.fields(IQLConfig)} & {f.name for f in dataclasses.fields(config)}
    own = IQLConfig(**{name: getattr(config, name) for name in shared - {"variant"}})
    tau, beta = (config.online_expectile, config.online_temperature) if phase == "online" else (None, None)
    return dataclasses.replace(
        own,
        expectile=own.expectile if tau is None else tau,
        temperature=own.temperature if beta is None else beta,
    )


def parts(
    config: PEXConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int,
    switches: Switches | None = None,
) -> Parts:
    """IQL's networks and optimisers in `phase`, and A."""
    own = switches_of(config, VARIANTS, switches)
    iql = base.parts(iql_config(config, phase), spec, phase, phase_updates, own.iql)
    return Parts(config, own, iql, spec.act_dim)


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
    return jnp.clip(proposals, -1.0, 1.0) if p.switches.clip_proposals else proposals


def compose(p: Parts, state: PEXState, obs: Array, proposals: Array, select: Array, greedy: Array | bool) -> Choice:
    """Chooses between `proposals` `[2, ..., A]`: the better one where `greedy`, else by `select` `[...]` uniform."""
    q = p.iql.critic.apply(state.iql.critic, jnp.stack([obs, obs]), proposals).min(axis=0)
    probability = jax.nn.softmax(p.config.inverse_temperature * q, axis=0)
    second = jnp.where(greedy, q[1] > q[0], select >= probability[0])
    return Choice(jnp.where(second[..., None], proposals[1], proposals[0]), proposals, q, probability)


def update_critics(p: Parts, state: PEXState, batch: Batch, step: Array | int) -> tuple[PEXState, Metrics]:
    """IQL's value and critic steps, and the target average."""
    iql, seen, value_metrics = base.update_value(p.iql, state.iql, batch, step)
    iql, critic_metrics = base.update_critic(p.iql, iql, batch, seen.next_v, step)
    return state._replace(iql=iql), value_metrics | critic_metrics


def update_policy(p: Parts, state: PEXState, batch: Batch, noise: Noise, step: Array | int) -> tuple[PEXState, Metrics]:
    """The online policy's step, everything evaluated anew with the current critics, targets and V."""
    proposals = propose(p, state, batch.obs, noise.action)
    choice = compose(p, state, batch.obs, proposals, noise.select, False)
    critic = state.iql.target if p.switches.iql.advantage == "target" else state.iql.critic
    q = p.iql.critic.apply(critic, batch.obs, choice.action).min(axis=0)
    advantage = q - p.iql.value.apply(state.iql.value, batch.obs)
    chosen = batch._replace(action=jax.lax.stop_gradient(choice.action))
    iql, metrics = base.update_policy(p.iql, state.iql, chosen, advantage, step)
    return state._replace(iql=iql), metrics | {"online_policy_share": choice.probability[1]}


def update_once(p: Parts, state: PEXState, batch: Batch, noise: Noise, step: Array | int) -> tuple[PEXState, Metrics]:
    """One update of the online phase on one minibatch."""
    state, critic_metrics = update_critics(p, state, batch, step)
    state, policy_metrics = update_policy(p, state, batch, noise, step)
    return state, critic_metrics | policy_metrics


def update(p: Parts, state: PEXState, batches: Batch, key: Key, step: Array) -> tuple[PEXState, Metrics]:
    """K updates of the online phase, scanned over a `[K, B]` `Batch`."""
    noises = draw_noise(p, batches.obs, key)
    return scan_updates(functools.partial(update_once, p), state, (batches, noises, update_counts(step, batches)))


def act_with(p: Parts, state: PEXState, obs: Array, noise: Noise, explore: bool) -> Choice:
    """The composite policy's choice: drawn when exploring, else as `evaluation` says."""
    if explore:
        greedy = jnp.zeros(noise.greedy.shape, bool)
    elif p.switches.evaluation == "argmax":
        greedy = jnp.ones(noise.greedy.shape, bool)
    else:
        greedy = noise.greedy > p.switches.epsilon
    proposals = propose(p, state, obs, jnp.where(greedy[..., :1], 0.0, noise.action))
    return compose(p, state, obs, proposals, noise.select, greedy[..., 1])


def act(p: Parts, state: PEXState, obs: Array, key: Key, explore: bool) -> Array:
    """The composite policy's action, clipped to the box; variant ``released`` gives it as proposed.

    Environments clip what they execute, and the replay then holds the proposal, as in the release.
    """
    action = act_with(p, state, obs, draw_noise(p, obs, key), explore).action
    return jnp.clip(action, -1.0, 1.0) if p.switches.clip_proposals else action


def expand(p: Parts, state: IQLState, key: Key) -> PEXState:
    """The hand-over: the policy is frozen and a fresh one takes its place; critics, targets and V carry over."""
    online = restarted(state._replace(policy=p.iql.policy.init(key)), policy=p.iql.policy_optimiser)
    if p.switches.iql.copy_to_target:
        online = online._replace(target=jax.tree.map(jnp.copy, state.critic))
    if p.switches.iql.reset_optimiser_online:
        online = restarted(online, critic=p.iql.optimiser, value=p.iql.optimiser)
    return PEXState(state.policy, online)


def pex(
    config: PEXConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Agent:
    """PEX for one seed: IQL offline, policy expansion online. `phase_updates` and `switches` as for `iql`."""
    p = parts(config, spec, phase, phase_updates, switches)
    offline = base.iql(p.iql.config, spec, phase, phase_updates, p.switches.iql)
    if phase == "offline":
        return offline._replace(go_online=functools.partial(expand, p))
    return Agent(
        init=functools.partial(init_online, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p),
        go_online=lambda state, key: state,
        value=lambda state, obs, action: offline.value(state.iql, obs, action),
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
    variants=VARIANTS,
    without=({"free_target": "min"}, {"free_target": "min", "expectile": 0.99}),
)
