"""Implicit Q-learning (Kostrikov, Nair, Levine 2021, arXiv 2110.06169), offline and online.

One update on a minibatch (s, a, r, s', terminal, conserve)::

    q     = min_i targetQ_i(s, a)
    V     : expectile regression of q at level tau; rows with conserve = 0 regress max_i targetQ_i at a higher level
    order "jax"   : V step -> policy step, weight exp(beta (q - V_new(s))) -> Q step towards r + gamma V_new(s')
    order "torch" : the same with V_old in the weight and in the target (CORL, PEX)
    targetQ <- tau_polyak Q + (1 - tau_polyak) targetQ

No action outside the batch is ever evaluated by a critic, but on rows with conserve = 0 where `free_target` is
"sampled": they bootstrap with the best of a few sampled actions, ``max_j min_i targetQ_i(s', a'_j)``, a'_j ~ pi, in
place of V(s'). Online the same update continues on mixed batches.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import pretrained_sizes
from cfdg_jax.core.losses import awr_weight, expectile, td_loss, td_target, weighted_mean
from cfdg_jax.core.networks import Init, Network, critics, deterministic_policy, gaussian_policy, state_value
from cfdg_jax.core.optim import Anneal, Optimiser, adam, policy_rate, polyak
from cfdg_jax.errors import require
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values, Variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class IQLConfig:
    """Hyper-parameters; the defaults are the authors' for locomotion (implicit_q_learning, mujoco_config.py)."""

    variant: str = "authors"  # published settings of a release, see `VARIANTS`
    expectile: float = 0.7  # tau of the value regression; AntMaze 0.9 (antmaze_config.py)
    temperature: float = 3.0  # beta, multiplies the advantage; AntMaze 10 (antmaze_config.py)
    advantage_limit: float = 100.0  # largest regression weight (actor.py)
    discount: float = 0.99  # all sources
    tau: float = 0.005  # Polyak rate of the target critics, every update (all sources)
    hidden: tuple[int, ...] = (256, 256)  # of all networks (all sources)
    critics: int = 2  # twin critics (all sources)
    layer_norm: bool = False  # in critics and V (JAX-CORL: in V)
    learning_rate: float = 3e-4  # Adam, all networks (all sources)
    anneal: Anneal = "offline"  # the policy's rate, by a half cosine; constant online (learner.py); CORL wave
    clip_norm: float | None = None  # largest gradient norm; no source clips
    policy: Literal["gaussian", "deterministic"] = "gaussian"  # deterministic: CORL on hopper-medium(-replay)
    log_std_min: float = -5.0  # policy.py, PEX; CORL -20
    log_std_max: float = 2.0  # policy.py, PEX, CORL
    explore_noise: float = 0.03  # standard deviation of a deterministic policy's exploration (CORL finetune/iql.py)
    order: Literal["jax", "torch"] = "jax"  # jax: authors (learner.py); torch: CORL, PEX (V before its own step)
    advantage: Literal["target", "online"] = "target"  # critics in the policy's weight; online: JAX-CORL
    q_loss: Literal["sum", "mean"] = "sum"  # over critics; sum: authors (critic.py); mean: CORL, PEX
    init: Init = "orthogonal"  # reference section 2; authors: orthogonal_all; CORL, PEX: pytorch
    policy_init: Init | None = None  # of the policy; none: the same; PEX xavier
    reset_optimiser_online: bool = False  # start Adam afresh at the hand-over; the authors carry its moments
    copy_to_target: bool = False  # the hand-over sets the targets to the critics (PEX's main_online.py, for its IQL)
    free_expectile: float = 0.99  # tau of rows with conserve = 0 (StratDiff); no effect while conserve is 1
    free_target: Literal["twin", "min", "sampled"] = "twin"  # their V regresses the max (twin) or min over critics;
    # sampled: the min, and Q bootstraps with the best sampled action (the two readings of StratDiff's max-Q target)
    free_actions: int = 10  # actions sampled per state by free_target sampled (Cal-QL's max-Q backup)

    def __post_init__(self) -> None:
        between = "must lie strictly between 0 and 1"
        require(0.0 < self.expectile < 1.0, "agent.expectile", f"is {self.expectile}", between)
        require(0.0 < self.free_expectile < 1.0, "agent.free_expectile", f"is {self.free_expectile}", between)
        require(self.temperature >= 0.0, "agent.temperature", f"is {self.temperature}", "must not be negative")
        require(self.advantage_limit > 0.0, "agent.advantage_limit", f"is {self.advantage_limit}", "must be positive")
        require(0.0 <= self.discount <= 1.0, "agent.discount", f"is {self.discount}", "must lie in [0, 1]")
        require(0.0 < self.tau <= 1.0, "agent.tau", f"is {self.tau}", "must lie in (0, 1]")
        require(self.learning_rate > 0.0, "agent.learning_rate", f"is {self.learning_rate}", "must be positive")
        require(all(w > 0 for w in self.hidden), "agent.hidden", f"is {self.hidden}", "must hold positive widths")
        require(self.critics >= 1, "agent.critics", f"is {self.critics}", "must be at least 1")
        require(self.free_actions >= 1, "agent.free_actions", f"is {self.free_actions}", "must be at least 1")
        clip = self.clip_norm
        require(clip is None or clip > 0.0, "agent.clip_norm", f"is {clip}", "must be positive or none")
        require(self.log_std_min < self.log_std_max, "agent.log_std_min", "is not below log_std_max", "lower it")
        require(self.explore_noise >= 0.0, "agent.explore_noise", f"is {self.explore_noise}", "must not be negative")


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
    critic: Network
    value: Network
    policy: Network
    optimiser: Optimiser
    policy_optimiser: Optimiser


def parts(config: IQLConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int) -> Parts:
    """Networks and optimisers; `phase_updates` is the length of the phase, for the policy's schedule."""
    hidden, init = config.hidden, config.init
    policy_init = config.policy_init or init
    if config.policy == "gaussian":
        policy = gaussian_policy(spec, hidden, (config.log_std_min, config.log_std_max), policy_init)
    else:
        policy = deterministic_policy(spec, hidden, policy_init)
    rate = policy_rate(config.learning_rate, config.anneal, phase, phase_updates)
    return Parts(
        config=config,
        critic=critics(spec, hidden, config.critics, config.layer_norm, init),
        value=state_value(spec, hidden, config.layer_norm, init),
        policy=policy,
        optimiser=adam(config.learning_rate, clip_norm=config.clip_norm),
        policy_optimiser=adam(rate, config.clip_norm),
    )


def init_state(p: Parts, key: Key) -> IQLState:
    """Fresh parameters, targets equal to their critics, zero moments."""
    critic_key, value_key, policy_key = jax.random.split(key, 3)
    critic, value, policy = p.critic.init(critic_key), p.value.init(value_key), p.policy.init(policy_key)
    target = jax.tree.map(jnp.copy, critic)
    return IQLState(critic, target, value, policy, *init_optimisers(p, critic, value, policy))


def init_optimisers(p: Parts, critic: Params, value: Params, policy: Params) -> tuple[Any, Any, Any]:
    """Zero moments for the three sets of parameters."""
    return p.optimiser.init(critic), p.optimiser.init(value), p.policy_optimiser.init(policy)


def value_loss(p: Parts, params: Params, batch: Batch, target_q: Array) -> tuple[Array, Array]:
    """Expectile loss of V against target critics `target_q` `[Q, B]`, and V(s) `[B]`."""
    v = p.value.apply(params, batch.obs)
    free_q = target_q.max(axis=0) if p.config.free_target == "twin" else target_q.min(axis=0)
    conservative = expectile(target_q.min(axis=0) - v, p.config.expectile)
    free = expectile(free_q - v, p.config.free_expectile)
    return weighted_mean(conservative, batch.conserve) + weighted_mean(free, 1.0 - batch.conserve), v


def critic_loss(p: Parts, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
    """Squared TD error of all critics against `target` `[B]`, and Q(s, a) `[Q, B]`."""
    q = p.critic.apply(params, batch.obs, batch.action)
    return weighted_mean(td_loss(q, target, p.config.q_loss), batch.weight), q


def policy_loss(p: Parts, params: Params, batch: Batch, weight: Array) -> Array:
    """Weighted regression of the batch's actions: log-likelihood, or squared distance if deterministic."""
    if p.config.policy == "gaussian":
        return weighted_mean(-p.policy.apply(params, batch.obs).log_prob(batch.action), weight)
    return weighted_mean(jnp.sum(jnp.square(p.policy.apply(params, batch.obs) - batch.action), axis=-1), weight)


def sampled_value(p: Parts, state: IQLState, obs: Array, key: Key) -> Array:
    """``max_j min_i targetQ_i(s, a_j)`` `[B]` over `free_actions` sampled actions: one call of the policy, one of Q."""
    obs = jnp.broadcast_to(obs, (p.config.free_actions, *obs.shape))
    q = p.critic.apply(state.target, obs, act(p, state, obs, key, True))
    return q.min(axis=0).max(axis=0)


def update_once(
    p: Parts, state: IQLState, batch: Batch, step: Array | int, key: Key | None = None
) -> tuple[IQLState, Metrics]:
    """One update on one minibatch; `step` `[]` counts the updates of the phase before it.

    Only `free_target` "sampled" draws anything, and needs a `key`.
    """
    target_q = p.critic.apply(state.target, batch.obs, batch.action)
    grad_value = jax.value_and_grad(functools.partial(value_loss, p), has_aux=True)
    (loss_v, v), grads = grad_value(state.value, batch, target_q)
    value, value_opt = p.optimiser.apply(state.value, grads, state.value_opt, step)
    if p.config.order == "torch":
        next_v = p.value.apply(state.value, batch.next_obs)
    else:
        v, next_v = p.value.apply(value, jnp.stack([batch.obs, batch.next_obs]))

    q = target_q if p.config.advantage == "target" else p.critic.apply(state.critic, batch.obs, batch.action)
    advantage = q.min(axis=0) - v
    weight, limited = awr_weight(advantage, p.config.temperature, p.config.advantage_limit)
    loss_pi, grads = jax.value_and_grad(functools.partial(policy_loss, p))(state.policy, batch, weight)
    policy, policy_opt = p.policy_optimiser.apply(state.policy, grads, state.policy_opt, step)

    if p.config.free_target == "sampled":
        assert key is not None, "sampled targets draw actions"
        best = sampled_value(p, state, batch.next_obs, key)
        next_v = batch.conserve * next_v + (1.0 - batch.conserve) * best
    target = td_target(batch.reward, batch.terminal, next_v, p.config.discount)
    grad_critic = jax.value_and_grad(functools.partial(critic_loss, p), has_aux=True)
    (loss_q, q), grads = grad_critic(state.critic, batch, target)
    critic, critic_opt = p.optimiser.apply(state.critic, grads, state.critic_opt, step)
    metrics = {
        "critic_loss": loss_q,
        "value_loss": loss_v,
        "policy_loss": loss_pi,
        "q": q.mean(),
        "target_q": target.mean(),
        "v": v.mean(),
        "advantage": advantage.mean(),
        "weight": weight.mean(),
        "weight_limited": limited.mean(),
    }
    new = IQLState(critic, polyak(state.target, critic, p.config.tau), value, policy, critic_opt, value_opt, policy_opt)
    return new, metrics


def update(p: Parts, state: IQLState, batches: Batch, key: Key, step: Array) -> tuple[IQLState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    updates = batches.reward.shape[0]
    counts = step + jnp.arange(updates, dtype=jnp.int32)
    inputs = (batches, counts, jax.random.split(key, updates))
    state, metrics = jax.lax.scan(lambda carry, x: update_once(p, carry, *x), state, inputs)
    return state, jax.tree.map(lambda m: m.mean(axis=0), metrics)


def act(p: Parts, state: IQLState, obs: Array, key: Key, explore: bool) -> Array:
    """The mean action; exploring, a sample of the policy, clipped to the box."""
    policy = p.policy.apply(state.policy, obs)
    stochastic = p.config.policy == "gaussian"
    mode = policy.mode() if stochastic else policy
    if not explore:
        return mode
    scale = jnp.exp(policy.log_std) if stochastic else p.config.explore_noise
    return jnp.clip(mode + scale * jax.random.normal(key, mode.shape), -1.0, 1.0)


def go_online(p: Parts, state: IQLState, key: Key) -> IQLState:
    """Everything carries over, but for the targets and the optimisers where so configured."""
    del key
    if p.config.copy_to_target:
        state = state._replace(target=jax.tree.map(jnp.copy, state.critic))
    if not p.config.reset_optimiser_online:
        return state
    critic_opt, value_opt, policy_opt = init_optimisers(p, state.critic, state.value, state.policy)
    return state._replace(critic_opt=critic_opt, value_opt=value_opt, policy_opt=policy_opt)


def iql(config: IQLConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int = 1_000_000) -> Agent:
    """IQL for one seed. `phase_updates`: length of the whole phase, over which the policy's rate may anneal."""
    p = parts(config, spec, phase, phase_updates)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p),
        go_online=functools.partial(go_online, p),
        value=lambda state, obs, action: p.critic.apply(state.target, obs, action).min(axis=0),
    )


VARIANTS: dict[str, Variant] = {
    "authors": Variant(),
    "pex": Variant(
        {
            "expectile": 0.9,
            "temperature": 10.0,
            "order": "torch",
            "q_loss": "mean",
            "init": "pytorch",
            "policy_init": "xavier",
            "copy_to_target": True,
            "reset_optimiser_online": True,
        }
    ),
}
"""Releases by name; ``pex`` is the PEX repository's IQL, CFDG's base (docs/algorithms.md#iql)."""


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
