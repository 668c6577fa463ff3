"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779) on SAC, calibrated Q-learning (Nakamoto et al. 2023,
arXiv 2303.05479) and APL's GCQL (Zheng et al. 2023, arXiv 2303.07693), which differ in numbers alone.

One update on a minibatch (s, a, r, s', terminal, mc_return, conserve)::

    a'  ~ pi(s'),  one sample, or of several the one that the target critics' minimum likes best
    y   = r + gamma (1 - terminal) (min_{j in J} targetQ_j(s', a') - [alpha log pi(a' | s')])
    a_k : n uniform actions, n from pi(s), n from pi(s');  mu(a_k | s) their densities
    R_i = T log sum_k exp((Q_i(s, a_k) - log mu(a_k | s)) / T) - Q_i(s, a)             per row
    Q   : sum_i mean (Q_i(s, a) - y)^2 + weight sum_i mean conserve R_i
    pi, alpha : SAC's

Cal-QL replaces Q_i at the 2 n actions of the policy by max(Q_i, mc_return), so that a value already under the return of
the behaviour is pushed no further; mc_return = -inf is no bound. Lagrange's form multiplies the weight by alpha', which
rises while the mean of R exceeds a gap. ``conserve`` is the weight of a row's R: where it is 0 the row is SAC's.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import apl_companions, apl_rhythm, pretrained_sizes
from cfdg_jax.agents.sac import (
    Order,
    SACConfig,
    SACState,
    act,
    draw_subset,
    init_state,
    policy_critics,
    resolve_delay,
    update_actor,
)
from cfdg_jax.agents.sac import Parts as SACParts
from cfdg_jax.core.losses import td_loss, td_target, weighted_mean
from cfdg_jax.core.networks import critics, tanh_gaussian_policy
from cfdg_jax.core.optim import Anneal, Optimiser, adam, at_every, policy_rate, polyak
from cfdg_jax.errors import require
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Source, Spec

MAX_MULTIPLIER = 1e6
"""Largest Lagrange multiplier (Cal-QL, CORL)."""


@dataclasses.dataclass(frozen=True)
class CQLConfig(SACConfig):
    """SAC's hyper-parameters and the regulariser's; the defaults are CORL's for locomotion (finetune/cql.py)."""

    hidden: tuple[int, ...] = (256, 256, 256)  # policy: CORL, APL 3 x 256; Cal-QL 2 x 256
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # CORL locomotion, APL 3 x 256; CORL AntMaze 5; Cal-QL 4
    learning_rate: float = 3e-4  # Adam, critics and Lagrange multiplier (all sources)
    policy_learning_rate: float = 3e-5  # policy and temperature: CORL locomotion; AntMaze, Cal-QL, APL 1e-4
    entropy_backup: bool = False  # CORL, Cal-QL, APL; EDIS True
    log_std_min: float = -20.0  # CORL, Cal-QL; APL -5
    log_std_affine: bool = True  # log_std = m raw + o, m and o trained from 1 and -1 (CORL, Cal-QL); APL False
    temperature_loss: Literal["log_alpha", "alpha"] = "log_alpha"  # factor before log pi + target entropy (all sources)
    order: Order = "joint"  # what the policy's loss sees, as in SAC; joint CORL, Cal-QL
    actions: int = 10  # n, of each of the three kinds (all sources)
    importance_weights: bool = True  # False: no densities, the data action among the a_k (CORL, Cal-QL)
    softmax_temperature: float = 1.0  # T (all sources)
    penalty_weight: float = 10.0  # CORL locomotion; AntMaze, Cal-QL, APL 5
    online_penalty_share: float = 1.0  # of it, in the online phase; EDIS 0 to 1 by task
    lagrange_gap: float | None = None  # of Lagrange's form; none: fixed weight (CORL locomotion); AntMaze 0.8
    init_log_multiplier: float = 1.0  # log alpha' at the start (Cal-QL, CORL)
    penalty_min: float | None = None  # clips R per row from below; CORL AntMaze -200
    penalty_max: float | None = None  # and from above; no source
    calibrate: Literal["never", "offline", "always"] = "never"  # Cal-QL's bound: always Cal-QL; offline CORL's Cal-QL
    online_bound: Literal["return", "zero"] = "return"  # Cal-QL's of rows not the dataset's; EDIS, CORL zero
    backup: Literal["sample", "max", "max_each"] = "sample"  # a' one sample, or the best of n (AntMaze: CORL, Cal-QL);
    # max_each: each critic's best, of which the smallest counts (rlkit's CQL)
    anneal: Anneal = "never"  # the rate of policy and temperature, by a half cosine; no source
    reset_optimiser_online: bool = False  # start Adam afresh at the hand-over; the authors carry its moments
    copied_targets: bool = True  # targets start as the critics; False: as other random networks (APL's release)

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = self.target_rule
        require(rule == "min", "agent.target_rule", f"is {rule}", "must be min for CQL, Cal-QL and APL's CQL")
        plain = self.backup != "max_each" or not self.entropy_backup
        require(plain, "agent.backup", "is max_each with agent.entropy_backup", "choose one; its a' are several")
        widths, rate = self.critic_hidden, self.policy_learning_rate
        require(all(w > 0 for w in widths), "agent.critic_hidden", f"is {widths}", "must hold positive widths")
        require(rate > 0.0, "agent.policy_learning_rate", f"is {rate}", "must be positive")
        require(self.actions >= 1, "agent.actions", f"is {self.actions}", "must be at least 1")
        softness = self.softmax_temperature
        require(softness > 0.0, "agent.softmax_temperature", f"is {softness}", "must be positive")
        for name in ("penalty_weight", "online_penalty_share"):
            weight = getattr(self, name)
            require(weight >= 0.0, f"agent.{name}", f"is {weight}", "must not be negative")
        low, high = self.penalty_min, self.penalty_max
        ordered = low is None or high is None or low < high
        require(ordered, "agent.penalty_min", f"is {low}", f"must lie below agent.penalty_max = {high}")


@dataclasses.dataclass(frozen=True)
class CalQLConfig(CQLConfig):
    """Cal-QL with its authors' values for AntMaze (run_antmaze.sh, conservative_sac.py)."""

    hidden: tuple[int, ...] = (256, 256)
    critic_hidden: tuple[int, ...] = (256, 256, 256, 256)
    policy_learning_rate: float = 1e-4
    penalty_weight: float = 5.0  # cql_min_q_weight; CORL without Lagrange 10
    lagrange_gap: float | None = 0.8  # cql_target_action_gap
    calibrate: Literal["never", "offline", "always"] = "always"
    backup: Literal["sample", "max", "max_each"] = "max"


@dataclasses.dataclass(frozen=True)
class APLCQLConfig(CQLConfig):
    """APL's GCQL (agents/GCQL.py); that only offline rows are conservative is the stratifier `by_source`."""

    critics: int = 5
    subset: float = 2.0
    policy_q: Literal["min", "mean"] = "mean"
    policy_learning_rate: float = 1e-4
    penalty_weight: float = 5.0
    log_std_min: float = -5.0
    log_std_affine: bool = False
    order: Order = "alpha_first"


class CQLState(NamedTuple):
    """SAC's state of one seed and Lagrange's multiplier, which stays where it is while the weight is fixed."""

    sac: SACState
    log_multiplier: Array
    multiplier_opt: Any


class Noise(NamedTuple):
    """All randomness of one update; n is `actions`.

    Attributes:
      next_action: `[1, B, A]` standard normal, for a' ~ pi(s'); `[n, B, A]` for the best of n, or each critic's.
      action: `[B, A]` standard normal, for the losses of the policy and the temperature.
      uniform: `[n, B, A]` uniform actions in [-1, 1).
      policy: `[n, 2, B, A]` standard normal, for the regulariser's actions from pi(s) and pi(s').
      subset: `[subset]` int32 critics in the target's minimum, as in `sac.Noise`.
    """

    next_action: Array
    action: Array
    uniform: Array
    policy: Array
    subset: Array


class Proposals(NamedTuple):
    """Where the regulariser asks the critics: the data's action and 3 n others per state, M = 1 + 3 n in all.

    Attributes:
      action: `[M, B, A]`, the data's first.
      log_density: `[M, B]` log mu(a_k | s); zeros without importance weights.
      bound: `[M, B]`, under which no Q is pushed; -inf for none.
    """

    action: Array
    log_density: Array
    bound: Array


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes in one phase, no arrays.

    Attributes:
      config: The hyper-parameters.
      sac: The networks, and the optimiser of policy and temperature.
      optimiser: Of critics and multiplier.
      weight: Of the regulariser, in this phase.
      calibrate: Whether Cal-QL's bound holds in this phase.
    """

    config: CQLConfig
    sac: SACParts
    optimiser: Optimiser
    weight: float
    calibrate: bool


def parts(config: CQLConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int = 1_000_000) -> Parts:
    """Networks, optimisers and what the phase decides; `phase_updates` is its length."""
    offline = phase == "offline"
    affine = (1.0, -1.0) if config.log_std_affine else None
    log_std_range = (config.log_std_min, config.log_std_max)
    rate = policy_rate(config.policy_learning_rate, config.anneal, phase, phase_updates)
    return Parts(
        config=config,
        sac=SACParts(
            config=config,
            spec=spec,
            critic=critics(spec, config.critic_hidden, config.critics, config.layer_norm, config.init),
            policy=tanh_gaussian_policy(spec, config.hidden, log_std_range, config.init, affine),
            optimiser=adam(rate, config.clip_norm),
        ),
        optimiser=adam(config.learning_rate, clip_norm=config.clip_norm),
        weight=config.penalty_weight * (1.0 if offline else config.online_penalty_share),
        calibrate=config.calibrate == "always" or (offline and config.calibrate == "offline"),
    )


def init(p: Parts, key: Key) -> CQLState:
    """Fresh parameters, targets equal to their critics or of their own, zero moments."""
    log_multiplier = jnp.float32(p.config.init_log_multiplier)
    sac = init_state(p.sac, key)
    if not p.config.copied_targets:
        sac = sac._replace(target=p.sac.critic.init(jax.random.fold_in(key, 1)))
    return CQLState(sac, log_multiplier, p.optimiser.init(log_multiplier))


def draw_noise(p: Parts, key: Key, rows: int) -> Noise:
    """The randomness of one update on `rows` rows."""
    next_key, action_key, uniform_key, policy_key, subset_key = jax.random.split(key, 5)
    c, n, each = p.config, p.config.actions, (rows, p.sac.spec.act_dim)
    return Noise(
        next_action=jax.random.normal(next_key, (1 if c.backup == "sample" else n, *each)),
        action=jax.random.normal(action_key, each),
        uniform=jax.random.uniform(uniform_key, (n, *each), minval=-1.0, maxval=1.0),
        policy=jax.random.normal(policy_key, (n, 2, *each)),
        subset=draw_subset(c, subset_key),
    )


def at_each(x: Array, count: int) -> Array:
    """`x` `[B, ...]` repeated to `[count, B, ...]`."""
    return jnp.broadcast_to(x, (count, *x.shape))


def bootstrap(p: Parts, state: SACState, batch: Batch, noise: Noise) -> Array:
    """The critics' target `[B]`."""
    next_action, log_prob = p.sac.policy.apply(state.policy, batch.next_obs).sample(
        noise.next_action, p.config.density_epsilon
    )
    target = state.target
    if 0 < p.config.subset < p.config.critics:
        target = jax.tree.map(lambda leaf: leaf[noise.subset], target)
    next_obs = at_each(batch.next_obs, next_action.shape[0])
    q = p.sac.critic.apply(target, next_obs, next_action)
    values = q.min(axis=0)
    next_value = q.max(axis=1).min(axis=0) if p.config.backup == "max_each" else values.max(axis=0)
    if p.config.entropy_backup:
        best = jnp.take_along_axis(log_prob, values.argmax(axis=0)[None], axis=0)[0]
        next_value = next_value - jnp.exp(state.log_alpha) * best
    return td_target(batch.reward, batch.terminal, next_value, p.config.discount)


def propose(p: Parts, policy: Params, batch: Batch, noise: Noise) -> Proposals:
    """The regulariser's actions. Nothing here depends on a critic, so its gradient reaches critics alone."""
    n, rows = noise.uniform.shape[:2]
    both = p.sac.policy.apply(policy, jnp.stack([batch.obs, batch.next_obs]))
    sampled, log_prob = (x.reshape(2 * n, *x.shape[2:]) for x in both.sample(noise.policy, p.config.density_epsilon))
    dtype = log_prob.dtype
    constant = lambda count, value: jnp.full((count, rows), value, dtype)
    if p.config.importance_weights:
        uniform = constant(n, -p.sac.spec.act_dim * math.log(2.0))
        log_density = jnp.concatenate([constant(1, 0.0), uniform, log_prob])
    else:
        log_density = constant(1 + 3 * n, 0.0)
    known = batch.mc_return.astype(dtype)
    if p.config.online_bound == "zero":
        known = jnp.where(batch.source == Source.OFFLINE, known, 0.0)
    bound = at_each(known, 2 * n) if p.calibrate else constant(2 * n, -jnp.inf)
    return Proposals(
        action=jnp.concatenate([batch.action[None], noise.uniform, sampled]),
        log_density=log_density,
        bound=jnp.concatenate([constant(1 + n, -jnp.inf), bound]),
    )


def regulariser(p: Parts, q: Array, proposals: Proposals) -> Array:
    """R `[Q, B]`, clipped, from critics at the proposals, `[Q, M, B]`."""
    scores = jnp.maximum(q, proposals.bound) - proposals.log_density
    if p.config.importance_weights:
        scores = scores[:, 1:]  # the data's action has no density to weigh it by
    soft_maximum = p.config.softmax_temperature * jax.nn.logsumexp(scores / p.config.softmax_temperature, axis=1)
    return jnp.clip(soft_maximum - q[:, 0], p.config.penalty_min, p.config.penalty_max)


def critic_loss(p: Parts, params: Params, log_multiplier: Array, batch: Batch, proposals: Proposals, target: Array):
    """TD errors and weighted regularisers, summed over critics, and what is worth knowing of them.

    All actions of all states are one call of the critics. ``excess`` `[Q]` is the mean of R over conservative rows,
    less the gap.
    """
    q = p.sac.critic.apply(params, at_each(batch.obs, proposals.action.shape[0]), proposals.action)
    share, gap, weight = batch.conserve.mean(), p.config.lagrange_gap, jnp.float32(p.weight)
    penalty = jnp.mean(batch.conserve * regulariser(p, q, proposals), axis=1)
    if gap is not None:
        penalty = penalty - share * gap
        weight = weight * jnp.exp(log_multiplier)
    td = weighted_mean(td_loss(q[:, 0], target, p.config.q_loss), batch.weight)
    cql = weight * jnp.sum(penalty)
    aux = {"q": q[:, 0], "excess": penalty / jnp.maximum(share, 1e-12), "td_loss": td, "cql_loss": cql}
    return td + cql, aux


def update_multiplier(p: Parts, state: CQLState, excess: Array, step) -> CQLState:
    """Lagrange's step: alpha' rises where the mean regulariser exceeds its gap by `excess` `[Q]`."""
    loss = lambda log_multiplier: -jnp.exp(log_multiplier) * p.weight * excess.mean()
    grads = jax.grad(loss)(state.log_multiplier)
    log_multiplier, opt = p.optimiser.apply(state.log_multiplier, grads, state.multiplier_opt, step)
    return state._replace(log_multiplier=jnp.minimum(log_multiplier, math.log(MAX_MULTIPLIER)), multiplier_opt=opt)


def update_critic(p: Parts, state: CQLState, batch: Batch, noise: Noise, step) -> tuple[CQLState, Metrics]:
    """The critic step, its target average and the multiplier's step."""
    sac = state.sac
    target = bootstrap(p, sac, batch, noise)
    proposals = propose(p, sac.policy, batch, noise)
    grad = jax.value_and_grad(functools.partial(critic_loss, p), has_aux=True)
    (loss, aux), grads = grad(sac.critic, state.log_multiplier, batch, proposals, target)
    critic, critic_opt = p.optimiser.apply(sac.critic, grads, sac.critic_opt, step)
    averaged = polyak(sac.target, critic, p.config.tau)
    metrics = {
        "critic_loss": loss,
        "td_loss": aux["td_loss"],
        "cql_loss": aux["cql_loss"],
        "cql_excess": aux["excess"].mean(),
        "q": aux["q"].mean(),
        "target_q": target.mean(),
    }
    if p.config.lagrange_gap is not None:
        metrics["multiplier"] = jnp.exp(state.log_multiplier)
        state = update_multiplier(p, state, aux["excess"], step)
    return state._replace(sac=sac._replace(critic=critic, critic_opt=critic_opt, target=averaged)), metrics


def update_once(p: Parts, state: CQLState, batch: Batch, noise: Noise, step) -> tuple[CQLState, Metrics]:
    """One critic step and, every `policy_delay` updates, one policy and temperature step, in the config's order.

    The regulariser and y see policy and temperature before their step, but where they move first.
    """
    if p.config.order == "actor_first":
        act_first = lambda sac: update_actor(p.sac, sac, sac.critic, batch, noise.action, step)
        sac, actor_metrics = at_every(p.config.policy_delay, step, act_first, state.sac)
        state, critic_metrics = update_critic(p, state._replace(sac=sac), batch, noise, step)
        return state, critic_metrics | actor_metrics
    new, critic_metrics = update_critic(p, state, batch, noise, step)
    critic = policy_critics(p.config, state.sac.critic, new.sac.critic)
    move = lambda sac: update_actor(p.sac, sac, critic, batch, noise.action, step)
    sac, actor_metrics = at_every(p.config.policy_delay, step, move, new.sac)
    return new._replace(sac=sac), critic_metrics | actor_metrics


def update(p: Parts, state: CQLState, batches: Batch, key: Key, step: Array) -> tuple[CQLState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    count, rows = batches.reward.shape
    steps, keys = step + jnp.arange(count, dtype=jnp.int32), jax.random.split(key, count)

    def each(state: CQLState, x) -> tuple[CQLState, Metrics]:
        batch, key, step = x
        return update_once(p, state, batch, draw_noise(p, key, rows), step)  # drawn here: K times 3 n actions are large

    state, metrics = jax.lax.scan(each, state, (batches, keys, steps))
    return state, jax.tree.map(lambda m: m.mean(axis=0), metrics)


def go_online(p: Parts, state: CQLState, key: Key) -> CQLState:
    """Everything carries over; the optimisers start afresh if so configured."""
    del key
    if not p.config.reset_optimiser_online:
        return state
    fresh = p.optimiser.init
    sac = state.sac._replace(
        critic_opt=fresh(state.sac.critic), policy_opt=fresh(state.sac.policy), alpha_opt=fresh(state.sac.log_alpha)
    )
    return CQLState(sac, state.log_multiplier, fresh(state.log_multiplier))


def cql(config: CQLConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int = 1_000_000) -> Agent:
    """CQL, Cal-QL or GCQL for one seed. `phase_updates`: length of the whole phase, over which rates may anneal."""
    p = parts(config, spec, phase, phase_updates)
    return Agent(
        init=functools.partial(init, p),
        update=functools.partial(update, p),
        act=lambda state, obs, key, explore: act(p.sac, state.sac, obs, key, explore),
        go_online=functools.partial(go_online, p),
        value=lambda state, obs, action: p.sac.critic.apply(state.sac.target, obs, action).min(axis=0),
    )


def _reduced_values(preset: Preset, task: Task) -> Values:
    """Rates of 1e-4 and less in the papers are for a million updates, and a temperature of 1 takes 10,000 to fall.

    Cal-QL's bound lifts Q to the returns at once; plain critics overshoot, on random to 1e7. CQL and APL's CQL gain
    more online with layer normalisation too (docs/results.md).
    """
    if preset == "paper":
        return {}
    values = {"agent.policy_learning_rate": 3e-4, "agent.init_temperature": 0.1, "agent.layer_norm": True}
    return {**values, **pretrained_sizes(preset, task)}


def _penalty_values(preset: Preset, task: Task) -> dict[str, Any]:
    """At a penalty of 10 policies stay as pre-trained for tens of thousands of steps; EDIS has 0 to 1 of it by task."""
    share = {} if preset == "paper" else {"agent.online_penalty_share": 0.1}
    return share | dict(_reduced_values(preset, task))


def _cql_values(preset: Preset, task: Task) -> Values:
    """CORL's values (docs/algorithms.md#cql)."""
    values: dict[str, Any] = {}
    if task.family == "antmaze":
        values |= {"transform.reward": "scale_bias", "transform.failure_reward": 0.0}
        values |= {"agent.critic_hidden": (256,) * 5, "agent.policy_learning_rate": 1e-4, "agent.backup": "max"}
        values |= {"agent.penalty_weight": 5.0, "agent.lagrange_gap": 0.8, "agent.penalty_min": -200.0}
    elif task.family != "toy":
        values |= {"transform.observation": "standardise"}
    return values | _penalty_values(preset, task)


def _calql_values(preset: Preset, task: Task) -> Values:
    """The authors' on AntMaze; StratDiff's reading, EDIS's transforms elsewhere (docs/algorithms.md#calql)."""
    values: dict[str, Any] = {}
    if task.family == "antmaze":
        values |= {"transform.reward": "scale_bias", "transform.failure_reward": 0.0}
    else:
        values |= {"agent.penalty_weight": 10.0, "agent.lagrange_gap": None, "agent.backup": "sample"}
        if task.family != "toy":
            values |= {"transform.reward": "return_range", "transform.observation": "standardise"}
    return values | _penalty_values(preset, task)


def _apl_values(preset: Preset, task: Task) -> Values:
    return apl_rhythm(preset) | {"mix.p_online": 0.5} | dict(_reduced_values(preset, task))


CQL = Entry(
    CQLConfig,
    cql,
    about="conservative Q-learning (Kumar et al. 2020)",
    values=_cql_values,
    resolve=resolve_delay,
    without=({}, {"penalty_weight": 0.0}),
)
CALQL = Entry(
    CalQLConfig,
    cql,
    about="calibrated Q-learning (Nakamoto et al. 2023)",
    values=_calql_values,
    resolve=resolve_delay,
    without=({"lagrange_gap": None}, {"lagrange_gap": None, "penalty_weight": 0.0}),
)
APL_CQL = Entry(
    APLCQLConfig,
    cql,
    about="adaptive policy learning on CQL (Zheng et al. 2023)",
    values=_apl_values,
    resolve=resolve_delay,
    companions=apl_companions,
    without=({}, {"penalty_weight": 0.0}),
)
