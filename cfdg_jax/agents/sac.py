"""Soft actor-critic (Haarnoja et al. 2018) with its many-critic descendants REDQ (Chen et al. 2021) and RLPD (Ball et
al. 2023), which differ from it in numbers alone.

One update on a minibatch (s, a, r, s', terminal)::

    a' ~ pi(s'),  J = all critics, or `subset` of them drawn at random
    y  = r + gamma (1 - terminal) (min_{j in J} targetQ_j(s', a') - alpha log pi(a' | s'))
    Q  : sum_i mean (Q_i(s, a) - y)^2
    targetQ <- tau Q + (1 - tau) targetQ
    pi : alpha log pi(a~ | s) - Q(s, a~),  Q the minimum (SAC) or the mean (REDQ, RLPD) over critics
    alpha : raised while the policy's entropy is under its target

The last two happen on every minibatch, or once per call on the last one (REDQ, RLPD: 20 critic updates to 1). `order`
says which critics and which alpha the policy's loss sees::

    critic_first   Q as stepped, alpha before its step (SAC, RLPD)
    alpha_first    both as stepped (APL)
    joint          both as before (CORL's CQL, Cal-QL, REDQ)
    alpha_only     Q as before, alpha as stepped
    in_place       the same values, but Q's slope by the stepped weights at the activations of before (APL's release)
    in_place_joint likewise, alpha before its step (REDQ's first release)
    actor_first    the values of alpha_only, and y sees both as stepped: policy and alpha move before Q does (unifloral)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import sizes
from cfdg_jax.core.losses import log_temperature_loss, td_loss, td_target, temperature_loss, weighted_mean
from cfdg_jax.core.networks import Init, Network, critics, critics_in_place, tanh_gaussian_policy
from cfdg_jax.core.optim import Optimiser, adam, at_every, polyak
from cfdg_jax.errors import require
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values
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


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Hyper-parameters; the defaults are SAC's. REDQ and RLPD values are named where they differ."""

    discount: float = 0.99  # all sources
    tau: float = 0.005  # Polyak rate of the target critics, every update (all sources)
    hidden: tuple[int, ...] = (256, 256)  # all networks; RLPD AntMaze (256, 256, 256)
    critics: int = 2  # SAC 2; REDQ, RLPD 10
    subset: float = 0.0  # critics in the target, drawn at random; 0: all; REDQ, RLPD 2, RLPD AntMaze 1;
    # 1.5: one or two of them, with even chances (REDQ's released code)
    target_rule: Literal["min", "mean", "random"] = "min"  # over the critics in it; mean, random: REDQ's ave and rem
    policy_q: Literal["min", "mean"] = "min"  # over critics in the policy's loss; SAC min; REDQ, RLPD mean
    q_loss: Literal["sum", "mean"] = "sum"  # of TD errors over critics; RLPD mean
    order: Order = "critic_first"  # what the policy's loss sees, see above
    layer_norm: bool = False  # in the critics only: Dense -> LayerNorm -> ReLU; RLPD True
    learning_rate: float = 3e-4  # Adam, all networks and the temperature (SAC, REDQ, RLPD)
    clip_norm: float | None = None  # largest gradient norm; no source clips
    init_temperature: float = 1.0  # alpha at the start (SAC, RLPD)
    learn_temperature: bool = True  # automatic alpha (Haarnoja et al. 2018b, section 5)
    temperature_loss: Literal["log_alpha", "alpha"] = "alpha"  # factor before log pi + target entropy; REDQ log_alpha
    target_entropy_scale: float = 1.0  # target entropy is -scale * A: SAC 1; RLPD 0.5
    entropy_backup: bool = True  # -alpha log pi in the target; RLPD AntMaze False
    policy_delay: int | None = 1  # critic updates per policy and temperature update; none: one of them per environment
    # step, whatever online.utd (REDQ, RLPD)
    log_std_min: float = -5.0  # APL; SAC, REDQ, RLPD -20
    log_std_max: float = 2.0  # SAC
    density_epsilon: float = 0.0  # in log(1 - a^2 + epsilon); 0: exact, without overflow (RLPD); SAC, REDQ, APL 1e-6
    init: Init = "orthogonal"  # reference section 2; RLPD xavier, SAC in PyTorch pytorch

    def __post_init__(self) -> None:
        require(0.0 <= self.discount <= 1.0, "agent.discount", f"is {self.discount}", "must lie in [0, 1]")
        require(0.0 < self.tau <= 1.0, "agent.tau", f"is {self.tau}", "must lie in (0, 1]")
        require(all(w > 0 for w in self.hidden), "agent.hidden", f"is {self.hidden}", "must hold positive widths")
        for name in ("critics", "policy_delay"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"agent.{name}", f"is {value}", "must be at least 1")
        within = f"must be 0 (all) or lie between 1 and agent.critics = {self.critics}"
        require(self.subset == 0 or 1 <= self.subset <= self.critics, "agent.subset", f"is {self.subset:g}", within)
        whole = self.target_rule == "min" or self.subset == int(self.subset)
        found = f"is {self.subset:g} under agent.target_rule {self.target_rule}"
        require(whole, "agent.subset", found, "must be a whole number there")
        several = self.target_rule == "min" or (self.subset or self.critics) > 1
        alone = f"is {self.target_rule} with one critic in the target"
        require(several, "agent.target_rule", alone, "use min, or raise agent.subset")
        require(self.learning_rate > 0.0, "agent.learning_rate", f"is {self.learning_rate}", "must be positive")
        clip = self.clip_norm
        require(clip is None or clip > 0.0, "agent.clip_norm", f"is {clip}", "must be positive or none")
        epsilon = self.density_epsilon
        require(epsilon >= 0.0, "agent.density_epsilon", f"is {epsilon}", "must not be negative")
        start = self.init_temperature
        require(start > 0.0, "agent.init_temperature", f"is {start}", "must be positive")
        require(self.log_std_min < self.log_std_max, "agent.log_std_min", "is not below log_std_max", "lower it")
        plain = SEEN[self.order][0] != "in_place" or not self.layer_norm
        require(
            plain, "agent.order", f"is {self.order} with agent.layer_norm", "choose one; in_place is of plain networks"
        )


@dataclasses.dataclass(frozen=True)
class REDQConfig(SACConfig):
    """SAC with REDQ's values (redq_sac.py); 20 updates per environment step are `online.utd`."""

    critics: int = 10  # N
    subset: float = 2.0  # M
    policy_q: Literal["min", "mean"] = "mean"
    order: Order = "joint"
    temperature_loss: Literal["log_alpha", "alpha"] = "log_alpha"
    policy_delay: int | None = None  # one policy step per environment step (release)
    log_std_min: float = -20.0
    density_epsilon: float = 1e-6
    init: Init = "xavier"


@dataclasses.dataclass(frozen=True)
class RLPDConfig(SACConfig):
    """SAC with RLPD's values for locomotion (rlpd_config.py); half of each batch offline is `mix.kind` balanced."""

    critics: int = 10
    subset: float = 2.0  # AntMaze 1
    policy_q: Literal["min", "mean"] = "mean"
    q_loss: Literal["sum", "mean"] = "mean"
    layer_norm: bool = True
    target_entropy_scale: float = 0.5
    policy_delay: int | None = None  # one policy step per environment step (release)
    log_std_min: float = -20.0
    init: Init = "xavier"


class SACState(NamedTuple):
    """Parameters, target critics and optimiser states of one seed; critics lead with Q, `log_alpha` is a scalar."""

    critic: Params
    target: Params
    policy: Params
    log_alpha: Array
    critic_opt: Any
    policy_opt: Any
    alpha_opt: Any


class Noise(NamedTuple):
    """All randomness of one update.

    Attributes:
      next_action: `[B, A]` standard normal, for a' ~ pi(s').
      action: `[B, A]` standard normal, for the policy's loss.
      subset: `[subset]` int32 critics in the target, distinct; of a `subset` of 1.5 two, at times the same one twice.
      mixture: `[B, subset]` uniform in [0, 1), for a target that mixes them at random; None otherwise.
    """

    next_action: Array
    action: Array
    subset: Array
    mixture: Array | None = None


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: SACConfig
    spec: Spec
    critic: Network
    policy: Network
    optimiser: Optimiser


def parts(config: SACConfig, spec: Spec) -> Parts:
    """Networks and optimisers."""
    log_std_range = (config.log_std_min, config.log_std_max)
    return Parts(
        config=config,
        spec=spec,
        critic=critics(spec, config.hidden, config.critics, config.layer_norm, config.init),
        policy=tanh_gaussian_policy(spec, config.hidden, log_std_range, config.init),
        optimiser=adam(config.learning_rate, clip_norm=config.clip_norm),
    )


def init_state(p: Parts, key: Key) -> SACState:
    """Fresh parameters, targets equal to their critics, zero moments."""
    critic_key, policy_key = jax.random.split(key)
    critic, policy = p.critic.init(critic_key), p.policy.init(policy_key)
    log_alpha = jnp.log(jnp.float32(p.config.init_temperature))
    optimisers = (p.optimiser.init(params) for params in (critic, policy, log_alpha))
    return SACState(critic, jax.tree.map(jnp.copy, critic), policy, log_alpha, *optimisers)


def draw_subset(config: SACConfig, key: Key) -> Array:
    """`[subset]` int32 critics of the target, all if `subset` is 0.

    Of a fractional number the last is with the complementary chance the first once more, which a minimum does not see.
    """
    chosen = jax.random.permutation(key, config.critics)[: math.ceil(config.subset) or config.critics]
    fraction = config.subset % 1
    if not fraction:
        return chosen
    more = jax.random.uniform(jax.random.fold_in(key, 1)) < fraction
    return chosen.at[-1].set(jnp.where(more, chosen[-1], chosen[0]))


def draw_noise(p: Parts, key: Key, rows: int) -> Noise:
    """The randomness of one update on `rows` rows."""
    next_key, action_key, subset_key, mixture_key = jax.random.split(key, 4)
    shape = (rows, p.spec.act_dim)
    chosen = draw_subset(p.config, subset_key)
    mixture = None
    if p.config.target_rule == "random":
        smallest = jnp.finfo(jnp.float32).tiny  # their sum divides
        mixture = jax.random.uniform(mixture_key, (rows, chosen.shape[0]), minval=smallest)
    return Noise(jax.random.normal(next_key, shape), jax.random.normal(action_key, shape), chosen, mixture)


def bootstrap(p: Parts, state: SACState, batch: Batch, noise: Noise) -> Array:
    """The critics' target `[B]`."""
    next_action, log_prob = p.policy.apply(state.policy, batch.next_obs).sample(
        noise.next_action, p.config.density_epsilon
    )
    target = state.target
    if 0 < p.config.subset < p.config.critics:
        target = jax.tree.map(lambda leaf: leaf[noise.subset], target)
    next_q = p.critic.apply(target, batch.next_obs, next_action)
    if p.config.target_rule == "min":
        next_value = next_q.min(axis=0)
    elif p.config.target_rule == "mean":
        next_value = next_q.mean(axis=0)
    else:
        assert noise.mixture is not None, "a random mixture draws its weights"
        weights = noise.mixture.T / noise.mixture.sum(axis=1)
        next_value = (weights * next_q).sum(axis=0)
    if p.config.entropy_backup:
        next_value = next_value - jnp.exp(state.log_alpha) * log_prob
    return td_target(batch.reward, batch.terminal, next_value, p.config.discount)


def critic_loss(p: Parts, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
    """Squared TD error of all critics, and Q(s, a) `[Q, B]`."""
    q = p.critic.apply(params, batch.obs, batch.action)
    return weighted_mean(td_loss(q, target, p.config.q_loss), batch.weight), q


class InPlace(NamedTuple):
    """Critics whose weights were overwritten between the policy's forward and its backward pass."""

    before: Params
    after: Params


def policy_critics(config: SACConfig, before: Params, after: Params) -> Params | InPlace:
    """The critics in the policy's loss, of those before and after their step on the same minibatch."""
    return {"before": before, "after": after, "in_place": InPlace(before, after)}[SEEN[config.order][0]]


def policy_loss(p: Parts, params: Params, critic: Params | InPlace, log_alpha: Array, batch: Batch, noise: Array):
    """``alpha log pi - Q`` at fresh actions, and their log-probabilities `[B]`."""
    action, log_prob = p.policy.apply(params, batch.obs).sample(noise, p.config.density_epsilon)
    if isinstance(critic, InPlace):
        q = critics_in_place(*critic, batch.obs, action)
    else:
        q = p.critic.apply(critic, batch.obs, action)
    q = q.min(axis=0) if p.config.policy_q == "min" else q.mean(axis=0)
    return weighted_mean(jnp.exp(log_alpha) * log_prob - q, batch.weight), log_prob


def update_critic(p: Parts, state: SACState, batch: Batch, noise: Noise, step) -> tuple[SACState, Metrics]:
    """The critic step and its target average."""
    target = bootstrap(p, state, batch, noise)
    grad = jax.value_and_grad(functools.partial(critic_loss, p), has_aux=True)
    (loss, q), grads = grad(state.critic, batch, target)
    critic, critic_opt = p.optimiser.apply(state.critic, grads, state.critic_opt, step)
    state = state._replace(critic=critic, critic_opt=critic_opt, target=polyak(state.target, critic, p.config.tau))
    return state, {"critic_loss": loss, "q": q.mean(), "target_q": target.mean()}


def update_actor(
    p: Parts, state: SACState, critic: Params | InPlace, batch: Batch, noise: Array, step
) -> tuple[SACState, Metrics]:
    """The steps of policy and temperature, the policy's against `critic`."""
    c = p.config
    log_alpha, alpha_opt = state.log_alpha, state.alpha_opt
    if c.learn_temperature:
        _, log_prob = p.policy.apply(state.policy, batch.obs).sample(noise, c.density_epsilon)
        per_row = log_temperature_loss if c.temperature_loss == "log_alpha" else temperature_loss
        target_entropy = -c.target_entropy_scale * p.spec.act_dim
        grads = jax.grad(lambda la: weighted_mean(per_row(la, log_prob, target_entropy)))(log_alpha)
        log_alpha, alpha_opt = p.optimiser.apply(log_alpha, grads, alpha_opt, step)
    seen = log_alpha if SEEN[c.order][1] else state.log_alpha
    grad = jax.value_and_grad(functools.partial(policy_loss, p), has_aux=True)
    (loss, log_prob), grads = grad(state.policy, critic, seen, batch, noise)
    policy, policy_opt = p.optimiser.apply(state.policy, grads, state.policy_opt, step)
    metrics = {"policy_loss": loss, "entropy": -log_prob.mean(), "temperature": jnp.exp(state.log_alpha)}
    return state._replace(policy=policy, policy_opt=policy_opt, log_alpha=log_alpha, alpha_opt=alpha_opt), metrics


def update_once(p: Parts, state: SACState, batch: Batch, noise: Noise, step) -> tuple[SACState, Metrics]:
    """One critic step and, every `policy_delay` updates, one policy and temperature step, in the config's order."""
    if p.config.order == "actor_first":
        act_first = lambda state: update_actor(p, state, state.critic, batch, noise.action, step)
        state, actor_metrics = at_every(p.config.policy_delay, step, act_first, state)
        state, critic_metrics = update_critic(p, state, batch, noise, step)
        return state, critic_metrics | actor_metrics
    new, critic_metrics = update_critic(p, state, batch, noise, step)
    critic = policy_critics(p.config, state.critic, new.critic)
    move = lambda new: update_actor(p, new, critic, batch, noise.action, step)
    new, actor_metrics = at_every(p.config.policy_delay, step, move, new)
    return new, critic_metrics | actor_metrics


def update(p: Parts, state: SACState, batches: Batch, key: Key, step: Array) -> tuple[SACState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    count, rows = batches.reward.shape
    noises = jax.vmap(functools.partial(draw_noise, p, rows=rows))(jax.random.split(key, count))
    steps = step + jnp.arange(count, dtype=jnp.int32)
    state, metrics = jax.lax.scan(lambda carry, x: update_once(p, carry, *x), state, (batches, noises, steps))
    return state, jax.tree.map(lambda m: m.mean(axis=0), metrics)


def act(p: Parts, state: SACState, obs: Array, key: Key, explore: bool) -> Array:
    """The squashed mean; exploring, a sample."""
    policy = p.policy.apply(state.policy, obs)
    if not explore:
        return policy.mode()
    return policy.sample(jax.random.normal(key, policy.mean.shape))[0]


def sac(config: SACConfig, spec: Spec, phase: Literal["offline", "online"], phase_updates: int = 1_000_000) -> Agent:
    """SAC for one seed. Both phases are the same, so `phase` and `phase_updates` change nothing."""
    del phase, phase_updates
    p = parts(config, spec)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p),
        go_online=lambda state, key: state,
        value=lambda state, obs, action: p.critic.apply(state.target, obs, action).min(axis=0),
    )


REDQ_STEPS = {"hopper": 125_000, "walker2d": 300_000, "ant": 300_000, "halfcheetah": 400_000}
"""Environment steps of REDQ's release (its mbpo_epoches, of 1,000 steps each)."""


def _many_critics(preset: Preset, task: Task) -> dict[str, Any]:
    if preset == "paper":
        return {"online.utd": 20}
    return {"online.utd": 4, "agent.critics": 4} | dict(sizes(preset, task))


def _redq_values(preset: Preset, task: Task) -> Values:
    steps = {"online.steps": REDQ_STEPS.get(task.name, 300_000)} if preset == "paper" else {}
    return {**steps, **_many_critics(preset, task)}


def _rlpd_values(preset: Preset, task: Task) -> Values:
    antmaze = task.family == "antmaze"
    values: dict[str, Any] = {"online.steps": 300_000 if antmaze else 250_000} if preset == "paper" else {}
    if antmaze:
        values |= {"agent.hidden": (256, 256, 256), "agent.subset": 1, "agent.entropy_backup": False}
    return values | _many_critics(preset, task)


def resolve_delay(config: Any) -> SACConfig:
    """One policy step per environment step, unless `policy_delay` says otherwise."""
    delay = config.agent.policy_delay
    return dataclasses.replace(config.agent, policy_delay=config.online.utd if delay is None else delay)


SAC = Entry(
    SACConfig,
    sac,
    about="soft actor-critic (Haarnoja et al. 2018)",
    values=sizes,
    resolve=resolve_delay,
    pretrains=False,
)
REDQ = Entry(
    REDQConfig,
    sac,
    about="randomised ensembled double Q-learning (Chen et al. 2021)",
    values=_redq_values,
    resolve=resolve_delay,
    pretrains=False,
)
RLPD = Entry(
    RLPDConfig,
    sac,
    about="RL with prior data (Ball et al. 2023)",
    values=_rlpd_values,
    resolve=resolve_delay,
    pretrains=False,
)
