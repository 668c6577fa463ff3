"""Implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv 2110.06169), offline and online.

One update on a minibatch (s, a, r, s', terminal, conserve)::

    q     = min_i targetQ_i(s, a)
    V     : expectile regression of q at level tau; rows with conserve = 0 regress max_i targetQ_i at a higher level
    order "jax"   : V step -> policy step, weight exp(beta (q - V_new(s))) -> Q step towards r + gamma V_new(s')
    order "torch" : the same with V_old in the weight and in the target
    targetQ <- tau_polyak Q + (1 - tau_polyak) targetQ

No critic ever evaluates an action outside the batch, with one exception: rows with conserve = 0 where `free_target` is
"sampled". They bootstrap with the best of a few sampled actions, ``max_j min_i targetQ_i(s', a'_j)``, a'_j ~ pi, in
place of V(s'). Online the same update continues on mixed batches. Formulas and sources: docs/algorithms.md#iql.
"""

from __future__ import annotations

import dataclasses
import functools
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
from cfdg_jax.core.losses import awr_weight, expectile, td_loss, td_target, weighted
from cfdg_jax.core.networks import Init, Network, critics, deterministic_policy, gaussian_policy, state_value
from cfdg_jax.core.optim import Anneal, Optimiser, adam, policy_rate, polyak
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values, Variant, check_variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class IQLConfig:
    """Hyper-parameters; the defaults are the authors' for locomotion (docs/algorithms.md#iql)."""

    variant: str = "authors"  # the release whose behaviour is followed, see `VARIANTS`
    expectile: float = 0.7  # tau of the value regression; AntMaze 0.9
    temperature: float = 3.0  # beta, multiplies the advantage; AntMaze 10
    advantage_limit: float = 100.0  # largest regression weight
    discount: float = 0.99  # gamma of returns and targets
    tau: float = 0.005  # Polyak rate of the target critics, every update
    hidden: tuple[int, ...] = (256, 256)  # of all networks
    critics: int = 2  # Q networks
    layer_norm: bool = False  # in critics and V
    learning_rate: float = 3e-4  # Adam, all networks
    anneal: Anneal = "offline"  # the policy's rate, by a half cosine
    policy: Literal["gaussian", "deterministic"] = "gaussian"  # deterministic: CORL on hopper-medium(-replay)
    free_expectile: float = 0.99  # tau of rows with conserve = 0; no effect while conserve is 1
    free_target: Literal["twin", "min", "sampled"] = "twin"  # their V regresses the max (twin) or the min over critics;
    # sampled: the min, and Q bootstraps with the best sampled action

    def __post_init__(self) -> None:
        check_variant("agent.variant", self.variant, VARIANTS)
        check_fields(
            self,
            inside=("expectile", "free_expectile"),
            not_negative=("temperature",),
            positive=("advantage_limit",),
        )


class Switches(NamedTuple):
    """What a release does otherwise; no field of the config."""

    order: Literal["jax", "torch"] = "jax"  # the policy's weight and Q's target see V after its step, or before it
    advantage: Literal["target", "online"] = "target"  # critics in the policy's weight
    q_loss: Literal["sum", "mean"] = "sum"  # over critics
    init: Init = "orthogonal"  # initial weights
    policy_init: Init | None = None  # of the policy; None: the same
    value_norm: bool = False  # layer normalisation in V alone
    log_std_range: tuple[float, float] = (-5.0, 2.0)  # of the policy
    explore_noise: float = 0.03  # standard deviation of a deterministic policy's exploration
    copy_to_target: bool = False  # the hand-over sets the targets to the critics
    reset_optimiser_online: bool = False  # the hand-over starts Adam afresh
    free_actions: int = 10  # actions sampled per state by `free_target` sampled


PEX_SWITCHES = Switches(
    order="torch",
    q_loss="mean",
    init="pytorch",
    policy_init="xavier",
    copy_to_target=True,
    reset_optimiser_online=True,
)
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=Switches()),
    "released": Variant(switches=Switches(init="orthogonal_all")),
    "pex": Variant({"expectile": 0.9, "temperature": 10.0}, PEX_SWITCHES),
    "corl": Variant(
        {"anneal": "wave"}, Switches(order="torch", q_loss="mean", init="pytorch", log_std_range=(-20.0, 2.0))
    ),
    "jax_corl": Variant(switches=Switches(advantage="online", init="orthogonal_all", value_norm=True)),
}
"""Releases by name (docs/algorithms.md#iql).

``authors``: the authors' update with a small gain in the output layers.
``released``: implicit_q_learning to its initial weights.
``pex``: the PEX repository's IQL, CFDG's base.
``corl``: CORL's fine-tuning; the policy's rate rises again online.
``jax_corl``: JAX-CORL, but for its unsquashed mean.
"""


class IQLState(NamedTuple):
    """Parameters, target critics and optimiser states of one seed; critics lead with Q."""

    critic: Params
    target: Params
    value: Params
    policy: Params
    critic_opt: Any
    value_opt: Any
    policy_opt: Any


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: IQLConfig
    switches: Switches
    critic: Network
    value: Network
    policy: Network
    optimiser: Optimiser
    policy_optimiser: Optimiser


def parts(
    config: IQLConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int,
    switches: Switches | None = None,
) -> Parts:
    """Networks and optimisers; `phase_updates` is the length of the phase, for the policy's schedule."""
    own = switches_of(config, VARIANTS, switches)
    hidden, policy_init = config.hidden, own.policy_init or own.init
    if config.policy == "gaussian":
        policy = gaussian_policy(spec, hidden, own.log_std_range, policy_init)
    else:
        policy = deterministic_policy(spec, hidden, policy_init)
    return Parts(
        config=config,
        switches=own,
        critic=critics(spec, hidden, config.critics, config.layer_norm, own.init),
        value=state_value(spec, hidden, config.layer_norm or own.value_norm, own.init),
        policy=policy,
        optimiser=adam(config.learning_rate),
        policy_optimiser=adam(policy_rate(config.learning_rate, config.anneal, phase, phase_updates)),
    )


def init_state(p: Parts, key: Key) -> IQLState:
    """Fresh parameters, targets equal to their critics, zero moments."""
    critic_key, value_key, policy_key = jax.random.split(key, 3)
    critic, value, policy = p.critic.init(critic_key), p.value.init(value_key), p.policy.init(policy_key)
    return with_optimisers(p, IQLState(critic, jax.tree.map(jnp.copy, critic), value, policy, None, None, None))


def with_optimisers(p: Parts, state: IQLState) -> IQLState:
    """`state` with zero moments."""
    return restarted(state, critic=p.optimiser, value=p.optimiser, policy=p.policy_optimiser)


def value_loss(p: Parts, params: Params, batch: Batch, target_q: Array) -> tuple[Array, Array]:
    """Expectile loss `[B]` of V against target critics `target_q` `[Q, B]`, and V(s) `[B]`."""
    v = p.value.apply(params, batch.obs)
    free_q = target_q.max(axis=0) if p.config.free_target == "twin" else target_q.min(axis=0)
    conservative = expectile(target_q.min(axis=0) - v, p.config.expectile)
    free = expectile(free_q - v, p.config.free_expectile)
    return weighted(conservative, batch.conserve) + weighted(free, 1.0 - batch.conserve), v


def policy_loss(p: Parts, params: Params, batch: Batch, weight: Array) -> Array:
    """Weighted regression `[B]` of the batch's actions: log-likelihood, or squared distance if deterministic."""
    if p.config.policy == "gaussian":
        return weighted(-p.policy.apply(params, batch.obs).log_prob(batch.action), weight)
    return weighted(jnp.sum(jnp.square(p.policy.apply(params, batch.obs) - batch.action), axis=-1), weight)


def critic_loss(p: Parts, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
    """Squared TD error `[B]` of all critics against `target` `[B]`, and Q(s, a) `[Q, B]`."""
    q = p.critic.apply(params, batch.obs, batch.action)
    return weighted(td_loss(q, target, p.switches.q_loss), batch.weight), q


def sampled_value(p: Parts, state: IQLState, obs: Array, key: Key) -> Array:
    """``max_j min_i targetQ_i(s, a_j)`` `[B]` over `free_actions` sampled actions: one call of the policy, one of Q."""
    obs = jnp.broadcast_to(obs, (p.switches.free_actions, *obs.shape))
    q = p.critic.apply(state.target, obs, act(p, state, obs, key, True))
    return q.min(axis=0).max(axis=0)


class Seen(NamedTuple):
    """What the steps of policy and critics see of targets and V.

    Attributes:
      target_q: `[Q, B]`, the target critics at (s, a).
      v: `[B]`, V(s), after V's step or before it.
      next_v: `[B]`, V(s'), of the same V.
    """

    target_q: Array
    v: Array
    next_v: Array


def update_value(p: Parts, state: IQLState, batch: Batch, step: Array | int) -> tuple[IQLState, Seen, Metrics]:
    """V's step."""
    target_q = p.critic.apply(state.target, batch.obs, batch.action)
    loss = lambda params: value_loss(p, params, batch, target_q)
    value, value_opt, loss_v, v = descend(loss, p.optimiser, state.value, state.value_opt, step)
    if p.switches.order == "torch":
        next_v = p.value.apply(state.value, batch.next_obs)
    else:
        v, next_v = p.value.apply(value, jnp.stack([batch.obs, batch.next_obs]))
    new = state._replace(value=value, value_opt=value_opt)
    return new, Seen(target_q, v, next_v), {"value_loss": loss_v, "v": v}


def update_policy(
    p: Parts, state: IQLState, batch: Batch, advantage: Array, step: Array | int
) -> tuple[IQLState, Metrics]:
    """The policy's step: regression of the batch's actions, weighted by their `advantage` `[B]`."""
    weight, limited = awr_weight(advantage, p.config.temperature, p.config.advantage_limit)
    loss = lambda params: (policy_loss(p, params, batch, weight), ())
    policy, policy_opt, loss_pi, _ = descend(loss, p.policy_optimiser, state.policy, state.policy_opt, step)
    metrics = {
        "policy_loss": loss_pi,
        "advantage": advantage,
        "weight": weight,
        "weight_limited": limited,
    }
    return state._replace(policy=policy, policy_opt=policy_opt), metrics


def update_critic(
    p: Parts, state: IQLState, batch: Batch, next_value: Array, step: Array | int
) -> tuple[IQLState, Metrics]:
    """The critics' step towards ``r + gamma next_value``, then the target average."""
    target = td_target(batch.reward, batch.terminal, next_value, p.config.discount)
    loss = lambda params: critic_loss(p, params, batch, target)
    critic, critic_opt, loss_q, q = descend(loss, p.optimiser, state.critic, state.critic_opt, step)
    new = state._replace(critic=critic, critic_opt=critic_opt, target=polyak(state.target, critic, p.config.tau))
    return new, {"critic_loss": loss_q, "q": q.mean(axis=0), "target_q": target}


def update_once(
    p: Parts, state: IQLState, batch: Batch, step: Array | int, key: Key | None = None
) -> tuple[IQLState, Metrics]:
    """One update on one minibatch; `step` `[]` counts the updates of the phase before it.

    Only `free_target` "sampled" draws anything, and needs a `key`.
    """
    new, seen, value_metrics = update_value(p, state, batch, step)
    online = p.switches.advantage == "online"
    q = p.critic.apply(state.critic, batch.obs, batch.action) if online else seen.target_q
    new, policy_metrics = update_policy(p, new, batch, q.min(axis=0) - seen.v, step)
    next_value = seen.next_v
    if p.config.free_target == "sampled":
        assert key is not None, "sampled targets draw actions"
        best = sampled_value(p, state, batch.next_obs, key)
        next_value = batch.conserve * next_value + (1.0 - batch.conserve) * best
    new, critic_metrics = update_critic(p, new, batch, next_value, step)
    return new, value_metrics | policy_metrics | critic_metrics


def update(p: Parts, state: IQLState, batches: Batch, key: Key, step: Array) -> tuple[IQLState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    keys = jax.random.split(key, batches.reward.shape[0])
    return scan_updates(functools.partial(update_once, p), state, (batches, update_counts(step, batches), keys))


def act(p: Parts, state: IQLState, obs: Array, key: Key, explore: bool) -> Array:
    """The mean action; exploring, a sample of the policy, clipped to the box."""
    policy = p.policy.apply(state.policy, obs)
    stochastic = p.config.policy == "gaussian"
    mode = policy.mode() if stochastic else policy
    if not explore:
        return mode
    scale = jnp.exp(policy.log_std) if stochastic else p.switches.explore_noise
    return jnp.clip(mode + scale * jax.random.normal(key, mode.shape), -1.0, 1.0)


def go_online(p: Parts, state: IQLState, key: Key) -> IQLState:
    """Everything carries over, but for targets and optimisers where the variant says otherwise."""
    del key
    if p.switches.copy_to_target:
        state = state._replace(target=jax.tree.map(jnp.copy, state.critic))
    return with_optimisers(p, state) if p.switches.reset_optimiser_online else state


def iql(
    config: IQLConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Agent:
    """IQL for one seed.

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


def _values(preset: Preset, task: Task) -> Values:
    if preset == "paper":
        return {"agent.variant": "pex"}
    return {**reduced_regression(task), **pretrained_sizes(preset, task)}


def reduced_regression(task: Task) -> Values:
    """The IQL paper's expectile and temperature for AntMaze or locomotion, with its rewards over the return range."""
    antmaze = task.family == "antmaze"
    values = {"agent.expectile": 0.9 if antmaze else 0.7, "agent.temperature": 10.0 if antmaze else 3.0}
    return values | ({} if task.family in ("antmaze", "toy") else {"transform.reward": "return_range"})


ENTRY = Entry(
    IQLConfig,
    iql,
    about="implicit Q-learning (Kostrikov, Nair, Levine 2021)",
    values=_values,
    variants=VARIANTS,
    without=({"free_target": "min"}, {"free_target": "min", "expectile": 0.99}),
)
