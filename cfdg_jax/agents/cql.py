"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779).

One update on a minibatch (s, a, r, s', terminal, mc_return, conserve)::

    a'  ~ pi(s'),  one sample, or of several the one that the target critics' minimum likes best
    y   = r + gamma (1 - terminal) (min_{j in J} targetQ_j(s', a') - [alpha log pi(a' | s')])
    a_k : n uniform actions, n from pi(s), n from pi(s');  mu(a_k | s) their densities
    R_i = T log sum_k exp((Q_i(s, a_k) - log mu(a_k | s)) / T) - Q_i(s, a)             per row
    Q   : sum_i mean (Q_i(s, a) - y)^2 + weight sum_i mean conserve R_i
    pi, alpha : see `soft`

``conserve`` is the weight of a row's R: where it is 0 the row is treated without conservatism. Lagrange's form
multiplies the weight by alpha', which rises while the mean of R exceeds a gap. With calibration, Q_i at the 2 n actions
of the policy becomes max(Q_i, mc_return): a value already under the return of the behaviour is pushed no further.
mc_return = -inf is no bound. Formulas and sources: docs/algorithms.md#cql.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import (
    check_fields,
    scan_updates,
    smallest_target,
    switches_of,
    update_counts,
)
from cfdg_jax.agents.penalty import Penalty, at_both, penalty_values, propose, step_critics, update_multiplier
from cfdg_jax.agents.soft import Order, Soft, act, check_soft, draw_subset, drawn_critics, fresh, in_order
from cfdg_jax.core.distributions import normal_and_uniform
from cfdg_jax.core.losses import td_target
from cfdg_jax.core.networks import Init, Network, critics, tanh_gaussian_policy
from cfdg_jax.core.optim import Anneal, Optimiser, adam, policy_rate, polyak
from cfdg_jax.errors import require
from cfdg_jax.methods import Agent, Entry, Preset, Task, Values, Variant, check_variant
from cfdg_jax.types import Array, Batch, Key, Metrics, Params, Spec


@dataclasses.dataclass(frozen=True)
class CQLConfig:
    """Hyper-parameters; the defaults are CORL's for locomotion (docs/algorithms.md#cql)."""

    variant: str = "authors"  # the release whose behaviour is followed, see `VARIANTS`
    discount: float = 0.99  # gamma of returns and targets
    tau: float = 0.005  # Polyak rate of the target critics, every update
    hidden: tuple[int, ...] = (256, 256, 256)  # of the policy
    critic_hidden: tuple[int, ...] = (256, 256, 256)  # of the critics
    critics: int = 2  # Q networks
    subset: float = 0.0  # critics in the target, drawn at random; 0: all
    layer_norm: bool = False  # in the critics: Dense -> LayerNorm -> ReLU
    learning_rate: float = 3e-4  # Adam, critics and Lagrange multiplier
    policy_learning_rate: float = 3e-5  # Adam, policy and temperature
    init_temperature: float = 1.0  # alpha at the start
    entropy_backup: bool = False  # -alpha log pi in the target
    actions: int = 10  # n, of each of the three kinds
    penalty_weight: float = 10.0  # of the regulariser
    online_penalty_share: float = 1.0  # of that weight in the online phase
    penalty_min: float | None = None  # clips R per row from below
    lagrange_gap: float | None = None  # of Lagrange's form; none: fixed weight
    calibrate: Literal["never", "offline", "always"] = "never"  # phases with the bound by returns
    backup: Literal["sample", "max", "max_each"] = "sample"  # a' one sample, or the best of n; max_each: each critic's
    # best, of which the smallest counts
    anneal: Anneal = "never"  # the rate of policy and temperature, by a half cosine

    def __post_init__(self) -> None:
        check_variant("agent.variant", self.variant, self.variants())
        check_soft(self, self.variants()[self.variant].switches.order)
        check_fields(
            self,
            positive=("policy_learning_rate",),
            not_negative=("penalty_weight", "online_penalty_share"),
            at_least_one=("actions",),
        )
        plain = self.backup != "max_each" or not self.entropy_backup
        require(plain, "agent.backup", "is max_each with agent.entropy_backup", "choose one; its a' are several")

    def variants(self) -> Mapping[str, Variant]:
        """The releases that `variant` names."""
        return VARIANTS


class Switches(NamedTuple):
    """What a release does otherwise; no field of the config."""

    order: Order = "joint"  # what the policy's loss sees
    policy_q: Literal["min", "mean"] = "min"  # over the critics in the policy's loss
    learn_temperature: bool = True  # alpha follows the policy's entropy
    log_std_range: tuple[float, float] = (-20.0, 2.0)  # of the policy
    log_std_affine: bool = True  # log_std = m raw + o, m and o trained from 1 and -1
    density_epsilon: float = 0.0  # in log(1 - a^2 + epsilon); 0: exact
    init: Init = "orthogonal"  # initial weights
    importance_weights: bool = True  # False: no densities, the data's action among the a_k
    softmax_temperature: float = 1.0  # T
    penalty_max: float | None = None  # clips R per row from above
    online_bound: Literal["return", "zero"] = "return"  # the calibration's, of rows that are not the dataset's
    init_log_multiplier: float = 1.0  # log alpha' at the start
    copied_targets: bool = True  # targets start as the critics; False: as other random networks


ANTMAZE = {
    "critic_hidden": (256, 256, 256, 256, 256),
    "policy_learning_rate": 1e-4,
    "backup": "max",
    "penalty_weight": 5.0,
    "penalty_min": -200.0,
    "lagrange_gap": 0.8,
}
"""CORL's values on AntMaze."""
THREE = {"critic_hidden": (256, 256, 256), "penalty_min": None}
VARIANTS: dict[str, Variant] = {
    "authors": Variant(switches=Switches()),
    "corl_antmaze": Variant(ANTMAZE, Switches()),
    "unweighted": Variant(switches=Switches(importance_weights=False)),
    "rlkit": Variant(
        {**THREE, "policy_learning_rate": 1e-4, "backup": "max_each", "penalty_weight": 1.0, "lagrange_gap": 5.0},
        Switches(order="alpha_only", log_std_affine=False, density_epsilon=1e-6, init="rlkit", init_log_multiplier=0.0),
    ),
    "unifloral": Variant(
        {**THREE, "critics": 10, "actions": 1, "entropy_backup": True, "backup": "sample", "lagrange_gap": None},
        Switches(order="actor_first", log_std_range=(-5.0, 2.0), log_std_affine=False, importance_weights=False),
    ),
}
"""Releases by name (docs/algorithms.md#cql).

``authors``: the authors' update with CORL's values for locomotion.
``corl_antmaze``: CORL on AntMaze, in Lagrange's form, with R clipped from below.
``unweighted``: CORL without importance weights.
``rlkit``: the authors' own code with its best-of-n target (`max_q_backup`).
``unifloral``: policy and temperature move first; its targets move before the critics, which is not reproduced.
"""


class CQLState(NamedTuple):
    """What one seed learns and its moments; critics lead with Q. A fixed weight leaves the multiplier where it is."""

    critic: Params
    target: Params
    policy: Params
    log_alpha: Array
    critic_opt: Any
    policy_opt: Any
    log_alpha_opt: Any
    log_multiplier: Array
    log_multiplier_opt: Any


class Noise(NamedTuple):
    """All randomness of one update; n is `actions`.

    Attributes:
      next_action: `[1, B, A]` standard normal, for a' ~ pi(s'); `[n, B, A]` for the best of n, or each critic's.
      action: `[B, A]` standard normal, for the losses of the policy and the temperature.
      uniform: `[n, B, A]` uniform actions in [-1, 1).
      policy: `[n, 2, B, A]` standard normal, for the regulariser's actions from pi(s) and pi(s').
      subset: `[subset]` int32 critics in the target's minimum.
    """

    next_action: Array
    action: Array
    uniform: Array
    policy: Array
    subset: Array


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes in one phase, no arrays."""

    config: CQLConfig
    switches: Switches
    soft: Soft
    critic: Network
    optimiser: Optimiser  # of critics and multiplier
    penalty: Penalty


def parts(
    config: CQLConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Parts:
    """Networks, optimisers and what the phase decides; `phase_updates` is its length."""
    s, offline = switches_of(config, config.variants(), switches), phase == "offline"
    check_soft(config, s.order)
    affine = (1.0, -1.0) if s.log_std_affine else None
    actor = Soft(
        spec=spec,
        policy=tanh_gaussian_policy(spec, config.hidden, s.log_std_range, s.init, affine),
        optimiser=adam(policy_rate(config.policy_learning_rate, config.anneal, phase, phase_updates)),
        delay=1,
        target_entropy=-spec.act_dim,
        order=s.order,
        policy_q=s.policy_q,
        temperature_loss="log_alpha",
        density_epsilon=s.density_epsilon,
        learn_temperature=s.learn_temperature,
    )
    penalty = Penalty(
        weight=config.penalty_weight * (1.0 if offline else config.online_penalty_share),
        gap=config.lagrange_gap,
        calibrate=config.calibrate == "always" or (offline and config.calibrate == "offline"),
        bound=s.online_bound,
        importance_weights=s.importance_weights,
        temperature=s.softmax_temperature,
        limits=(config.penalty_min, s.penalty_max),
    )
    critic = critics(spec, config.critic_hidden, config.critics, config.layer_norm, s.init)
    return Parts(config, s, actor, critic, adam(config.learning_rate), penalty)


def init_state(p: Parts, key: Key) -> CQLState:
    """Fresh parameters, targets equal to their critics or of their own, zero moments."""
    state = fresh(p.soft, p.critic, p.config.init_temperature, key)
    if not p.switches.copied_targets:
        state["target"] = p.critic.init(jax.random.fold_in(key, 1))
    log_multiplier = jnp.float32(p.switches.init_log_multiplier)
    return CQLState(**state, log_multiplier=log_multiplier, log_multiplier_opt=p.optimiser.init(log_multiplier))


def draw_noise(p: Parts, key: Key, rows: int) -> Noise:
    """The randomness of one update on `rows` rows."""
    c, n = p.config, p.config.actions
    m = 1 if c.backup == "sample" else n  # of the target
    normal, uniform = normal_and_uniform(key, (m + 1 + 2 * n, n), (rows, p.soft.spec.act_dim))
    return Noise(
        next_action=normal[:m],
        action=normal[m],
        uniform=uniform,
        policy=normal[m + 1 :].reshape(n, 2, *normal.shape[1:]),
        subset=draw_subset(c.subset, c.critics, jax.random.fold_in(key, 1)),
    )


def bootstrap(p: Parts, state: CQLState, batch: Batch, noise: Noise) -> Array:
    """The critics' target `[B]`."""
    c = p.config
    policy = jax.tree.map(lambda x: x[1], at_both(p.soft, state.policy, batch))
    next_action, log_prob = policy.sample(noise.next_action, p.soft.density_epsilon)
    target = drawn_critics(state.target, c.subset, c.critics, noise.subset)
    q = p.critic.apply(target, batch.next_obs, next_action)
    values = q.min(axis=0)
    next_value = q.max(axis=1).min(axis=0) if c.backup == "max_each" else values.max(axis=0)
    if c.entropy_backup:
        best = jnp.take_along_axis(log_prob, values.argmax(axis=0)[None], axis=0)[0]
        next_value = next_value - jnp.exp(state.log_alpha) * best
    return td_target(batch.reward, batch.terminal, next_value, c.discount)


def update_critic(p: Parts, state: CQLState, batch: Batch, noise: Noise, step: Array | int) -> tuple[CQLState, Metrics]:
    """The critic step, its target average and the multiplier's step."""
    target = bootstrap(p, state, batch, noise)
    proposals = propose(p.penalty, p.soft, state.policy, batch, noise.uniform, noise.policy)
    state, value, aux = step_critics(p.penalty, p.critic, p.optimiser, state, batch, proposals, target, step)
    metrics = {
        "critic_loss": value,
        "td_loss": aux["td_loss"],
        "cql_loss": aux["cql_loss"],
        "cql_excess": aux["excess"].mean(),
        "q": aux["q"],
        "target_q": target,
    }
    if p.penalty.gap is not None:
        metrics["multiplier"] = jnp.exp(state.log_multiplier)
        state = update_multiplier(p.penalty, p.optimiser, state, aux["excess"], step)
    return state._replace(target=polyak(state.target, state.critic, p.config.tau)), metrics


def update_once(p: Parts, state: CQLState, batch: Batch, noise: Noise, step: Array | int) -> tuple[CQLState, Metrics]:
    """One critic step and one step of policy and temperature, in the release's order.

    The regulariser and y see policy and temperature before their step, but where they move first.
    """
    move = functools.partial(update_critic, p, batch=batch, noise=noise, step=step)
    return in_order(p.soft, p.critic, move, state, batch, noise.action, step)


def update(p: Parts, state: CQLState, batches: Batch, key: Key, step: Array) -> tuple[CQLState, Metrics]:
    """K updates, scanned over a `[K, B]` `Batch`."""
    count, rows = batches.reward.shape

    def each(state: CQLState, batch: Batch, key: Key, step: Array) -> tuple[CQLState, Metrics]:
        return update_once(p, state, batch, draw_noise(p, key, rows), step)  # drawn here: K times 3 n actions are large

    return scan_updates(each, state, (batches, jax.random.split(key, count), update_counts(step, batches)))


def go_online(p: Parts, state: CQLState, key: Key) -> CQLState:
    """Everything carries over."""
    del p, key
    return state


def cql(
    config: CQLConfig,
    spec: Spec,
    phase: Literal["offline", "online"],
    phase_updates: int = 1_000_000,
    switches: Switches | None = None,
) -> Agent:
    """The agent for one seed. `phase_updates`: length of the whole phase, over which rates may anneal."""
    p = parts(config, spec, phase, phase_updates, switches)
    return Agent(
        init=functools.partial(init_state, p),
        update=functools.partial(update, p),
        act=functools.partial(act, p.soft),
        go_online=functools.partial(go_online, p),
        value=smallest_target(p.critic),
    )


def _values(preset: Preset, task: Task) -> Values:
    """CORL's values (docs/algorithms.md#cql)."""
    values: dict[str, Any] = {}
    if task.family == "antmaze":
        values |= {"transform.reward": "scale_bias", "transform.failure_reward": 0.0}
        values |= {f"agent.{field}": value for field, value in ANTMAZE.items()}
    elif task.family != "toy":
        values |= {"transform.observation": "standardise"}
    return values | penalty_values(preset, task)


ENTRY = Entry(
    CQLConfig,
    cql,
    about="conservative Q-learning (Kumar et al. 2020)",
    values=_values,
    variants=VARIANTS,
    without=({}, {"penalty_weight": 0.0}),
)
