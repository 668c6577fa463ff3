"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905).

One update on a minibatch (s, a, r, s', terminal)::

    a' ~ pi(s'),  J = all critics, or `subset` of them drawn at random
    y  = r + gamma (1 - terminal) (min_{j in J} targetQ_j(s', a') - alpha log pi(a' | s'))
    Q  : sum_i mean (Q_i(s, a) - y)^2
    targetQ <- tau Q + (1 - tau) targetQ
    pi, alpha : see `soft`, on every minibatch or at every `policy_delay`-th

The same program serves agents with many critics; they have configs of their own. Formulas and sources:
docs/algorithms.md#sac.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import descend, scan_updates, sizes, smallest_target, switches_of, update_counts
from cfdg_jax.agents.soft import (
    Order,
    Soft,
    act,
    check_soft,
    draw_subset,
    drawn_critics,
    fresh,
    in_order,
    resolve_delay,
)
from cfdg_jax.core.losses import td_loss, td_target, weighted
from cfdg_jax.core.networks import Init, Network, critics, tanh_gaussian_policy
from cfdg_jax.core.optim import Optimiser, adam, polyak
from cfdg_jax.errors import require
from cfdg_jax.methods import Agent, Entry, Variant, check_variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """Hyper-parameters; the defaults are the paper's (docs/algorithms.md#sac)."""

    variant: str = "authors"  # the release whose behaviour is followed, see `VARIANTS`
    discount: float = 0.99  # gamma of returns and targets
    tau: float = 0.005  # Polyak rate of the target critics, every update
    hidden: tuple[int, ...] = (256, 256)  # of all networks
    critics: int = 2  # Q networks
    subset: float = 0.0  # critics in the target, drawn at random; 0: all; 1.5: one or two, with even chances
    layer_norm: bool = False  # in the critics: Dense -> LayerNorm -> ReLU
    learning_rate: float = 3e-4  # Adam, all networks and the temperature
    init_temperature: float = 1.0  # alpha at the start
    learn_temperature: bool = True  # alpha follows the policy's entropy
    target_entropy_scale: float = 1.0  # the target entropy is -scale * A
    entropy_backup: bool = True  # -alpha log pi in the target
    policy_delay: int | None = 1  # critic updates per policy and temperature update; none: one of them per environment
    # step, whatever online.utd

    def __post_init__(self) -> None:
        check_variant("agent.variant", self.variant, self.variants())
        check(self, switches_of(self, self.variants()))

    def variants(self) -> Mapping[str, Variant]:
        """The releases that `variant` names."""
        return VARIANTS


class Switches(NamedTuple):
    """What a release does otherwise; no field of the config."""

    order: Order = "critic_first"  # what the policy's loss sees
    target_rule: Literal["min", "mean", "random"] = "min"  # over the critics in the target; random: a mixture
    policy_q: Literal["min", "mean"] = "min"  # over the critics in the policy's loss
    q_loss: Literal["sum", "mean"] = "sum"  # of TD errors, over critics
    temperature_loss: Literal["log_alpha", "alpha"] = "alpha"  # factor before log pi + target entropy
    log_std_range: tuple[float, float] = (-5.0, 2.0)  # of the policy
    density_epsilon: float = 0.0  # in log(1 - a^2 + epsilon); 0: exact
    init: Init = "orthogonal"  # initial weights


RELEASED = Switches(log_std_range=(-20.0, 2.0), density_epsilon=1e-6)
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=Switches()),
    "released": Variant(switches=RELEASED),
    "pytorch": Variant(switches=RELEASED._replace(init="pytorch")),
    "unifloral": Variant(
        {"critics": 10, "hidden": (256, 256, 256)}, Switches(order="actor_first", temperature_loss="log_alpha")
    ),
}
"""Releases by name (docs/algorithms.md#sac).

``authors``: the authors' update with an exact density, narrower standard deviations and small output layers.
``released``: their code's density and standard deviations.
``pytorch``: the same with PyTorch's initial weights, as its ports have them.
``unifloral``: its SAC-N, but for its initial weights, Adam's epsilon, and targets that move before the critics.
"""


class SACState(NamedTuple):
    """Parameters, target critics and optimiser states of one seed; critics lead with Q, `log_alpha` is a scalar."""

    critic: Params
    target: Params
    policy: Params
    log_alpha: Array
    critic_opt: Any
    policy_opt: Any
    log_alpha_opt: Any


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
    switches: Switches
    soft: Soft
    critic: Network
    optimiser: Optimiser


def parts(config: SACConfig, spec: Spec, switches: Switches | None = None) -> Parts:
    """Networks and optimisers; `switches` are by default those of the config's variant."""
    s = switches_of(config, config.variants(), switches)
    check(config, s)
    optimiser = adam(config.learning_rate)
    actor = Soft(
        spec=spec,
        policy=tanh_gaussian_policy(spec, config.hidden, s.log_std_range, s.init),
        optimiser=optimiser,
        delay=config.policy_delay,
        target_entropy=-config.target_entropy_scale * spec.act_dim,
        order=s.order,
        policy_q=s.policy_q,
        temperature_loss=s.temperature_loss,
        density_epsilon=s.density_epsilon,
        learn_temperature=config.learn_temperature,
    )
    critic = critics(spec, config.hidden, config.critics, config.layer_norm, s.init)
    return Parts(config, s, actor, critic, optimiser)


def init_state(p: Parts, key: Key) -> SACState:
    """Fresh parameters, targets equal to their critics, zero moments."""
    return SACState(**fresh(p.soft, p.critic, p.config.init_temperature, key))


def draw_noise(p: Parts, key: Key, rows: int) -> Noise:
    """The randomness of one update on `rows` rows."""
    next_key, action_key, subset_key, mixture_key = jax.random.split(key, 4)
    shape = (rows, p.soft.spec.act_dim)
    chosen = draw_subset(p.config.subset, p.config.critics, subset_key)
    mixture = None
    if p.switches.target_rule == "random":
        smallest = jnp.finfo(jnp.float32).tiny  # their sum divides
        mixture = jax.random.uniform(mixture_key, (rows, chosen.shape[0]), minval=smallest)
    return Noise(jax.random.normal(next_key, shape), jax.random.normal(action_key, shape), chosen, mixture)


def bootstrap(p: Parts, state: SACState, batch: Batch, noise: Noise) -> Array:
    """The critics' target `[B]`."""
    c, rule = p.config, p.switches.target_rule
    policy = p.soft.policy.apply(state.policy, batch.next_obs)
    next_action, log_prob = policy.sample(noise.next_action, p.soft.density_epsilon)
    target = drawn_critics(state.target, c.subset, c.critics, noise.subset)
    next_q = p.critic.apply(target, batch.next_obs, next_action)
    if rule == "random":
        assert noise.mixture is not None, "a random mixture draws its weights"
        next_value = (noise.mixture.T / noise.mixture.sum(axis=1) * next_q).sum(axis=0)
    else:
        next_value = next_q.min(axis=0) if rule == "min" else next_q.mean(axis=0)
    if c.entropy_backup:
        next_value = next_value - jnp.exp(state.log_alpha) * log_prob
    return td_target(batch.reward, batch.terminal, next_value, c.discount)


def critic_loss(p: Parts, params: Params, batch: Batch, target: Array) -> tuple[Array, Array]:
    """Squared TD error `[B]` of all critics, and Q(s, a) `[Q, B]`."""
    q = p.critic.apply(params, batch.obs, batch.action)
    return weighted(td_loss(q, target, p.switches.q_loss), batch.weight), q


def update_critic(p: Parts, state: SACState, batch: Batch, noise: Noise, step: Array | int) -> tuple[SACState, Metrics]:
    """The critic step and its target average."""
    target = bootstrap(p, state, batch, noise)
    loss = lambda params: critic_loss(p, params, batch, target)
    critic, critic_opt, value, q = descend(loss, p.optimiser, state.critic, state.critic_opt, step)
    state = state._replace(critic=critic, critic_opt=critic_opt, target=polyak(state.target, critic, p.config.tau))
    return state, {"critic_loss": value, "q": q.mean(axis=0), "target_q": target}


def update_once(p: Parts, state: SACState, batch: Batch, noise: Noise, step: Array | int) -> tuple[SACState, Metrics]:
    """One critic step and, at every `policy_delay`-th update, one step of policy and temperature."""
    move = functools.partial(update_critic, p, batch=batch, noise=noise, step=step)
    return in_order(p.soft, p.critic, move, state, batch, noise.action, step)


def update(p: Parts, state: SACState, batches: Batch, key: Key, step: Array) -> tuple[SACState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    count, rows = batches.reward.shape
    noises = jax.vmap(functools.partial(draw_noise, p, rows=rows))(jax.random.split(key, count))
    return scan_updates(functools.partial(update_once, p), state, (batches, noises, update_counts(step, batches)))


def sac(
    config: SACConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Agent:
    """The agent for one seed. Both phases are the same, so `phase` and `phase_updates` change nothing."""
    del phase, phase_updates
    p = parts(config, spec, switches)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p.soft),
        go_online=lambda state, key: state,
        value=smallest_target(p.critic),
    )


def check(config: SACConfig, switches: Switches) -> None:
    """Refuses bad values, and a target that `switches` cannot make of the critics in it."""
    check_soft(config, switches.order)
    if switches.target_rule == "min":
        return
    under = f"{config.subset:g} under agent.variant {config.variant}"
    require(config.subset == int(config.subset), "agent.subset", f"is {under}", "must be a whole number there")
    several = (config.subset or config.critics) > 1
    require(several, "agent.subset", f"leaves one critic at {under}", "must leave several there")


ENTRY = Entry(
    SACConfig,
    sac,
    about="soft actor-critic (Haarnoja et al. 2018)",
    values=sizes,
    resolve=resolve_delay,
    variants=VARIANTS,
    pretrains=False,
)
