"""Active advantage-aligned replay (Liu et al. 2025, arXiv 2502.07937): learning from the more useful of the rows drawn.

Batches are drawn with a fixed offline share. Of the N rows of one call of the agent (RLPD: 20 batches, half offline)
as many are drawn again, row i with probability p_i and importance weight v_i::

    log sigma_i = [offline] log w(s_i, a_i) + advantage_scale A(s_i, a_i)
    p_i  proportional to  sigma_i^sharpness,    v_i proportional to (1 / (N p_i))^beta,    E_p v = 1

w estimates the density of online over that of offline rows by the Jensen-Shannon form that Balanced Replay uses (Lee et
al. 2021, arXiv 2107.00591). It learns from the rows as they were drawn::

    L = E_offline[-log(2 / (1 + w))] - E_online[log(2 w / (1 + w))]

A(s, a) = Q(s, a) - E_pi Q(s, .) under the agent's pessimistic critic. `Batch.weight` says which losses v_i weighs
(docs/algorithms.md#a3rl).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.core.losses import masked_mean
from cfdg_jax.core.networks import mlp
from cfdg_jax.core.optim import adam
from cfdg_jax.errors import require
from cfdg_jax.methods import Entry, Mix, Value
from cfdg_jax.mix.balanced import BalancedConfig, balanced
from cfdg_jax.types import Array, Batch, Key, Params, Source, Spec
from cfdg_jax.values import check_ranges


@dataclasses.dataclass(frozen=True)
class A3RLConfig(BalancedConfig):
    """Constants of the priorities (paper and xuefeng-cs/A3RL train_finetuning_a3rl.py) and of the ratio's network."""

    advantage_scale: float = 0.03  # xi (paper)
    sharpness: float = 0.3  # zeta (paper); 0 draws evenly
    correction_start: float = 0.4  # beta at first (paper); it rises to 1
    correction_updates: int | None = None  # updates until it is 1; none: the whole online phase (release)
    value_actions: int = 10  # sampled actions in E_pi Q; release 100
    hidden: tuple[int, ...] = (256, 256)  # of the ratio's network (release)
    learning_rate: float = 3e-4  # its Adam's (release)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self,
            "mix",
            inside=("offline_share",),  # the rule learns to tell offline rows from online ones
            not_negative=("advantage_scale", "sharpness"),
            unit=("correction_start",),
            at_least_one=("correction_updates", "value_actions"),
            widths=("hidden",),
            positive=("learning_rate",),
        )


class A3RLState(NamedTuple):
    """The density ratio of one seed, and how often the agent was updated."""

    ratio: Params
    opt_state: Any
    updates: Array


def ratio_loss(log_ratio: Array, offline: Array, online: Array) -> Array:
    """Minus twice the Jensen-Shannon bound, `[]`, from log w `[B]` and which rows are of which origin `[B]`.

    Least, with ``-2 JS``, where w is the ratio of the densities. Each origin counts with the mean over its rows.
    """
    if_offline, if_online = (jnp.log(2.0) + jax.nn.log_sigmoid(sign * log_ratio) for sign in (-1, 1))
    return -masked_mean(if_offline, offline) - masked_mean(if_online, online)


def log_priority(config: A3RLConfig, log_ratio: Array, advantage: Array, offline: Array) -> Array:
    """``zeta log sigma`` of rows `[N]`, the logits of the draw."""
    return config.sharpness * (jnp.where(offline, log_ratio, 0.0) + config.advantage_scale * advantage)


def importance_weights(log_p: Array, beta: Array | float) -> Array:
    """``(1 / (N p))^beta`` `[N]` of log-probabilities `[N]`, scaled to a mean of 1 under p."""
    log_weight = -beta * (log_p + jnp.log(log_p.shape[0]))
    return jnp.exp(log_weight - jax.nn.logsumexp(log_p + log_weight))


def a3rl(config: A3RLConfig, spec: Spec) -> Mix:
    """A `Mix` that chooses among the rows drawn, for agents whose critics see their own policy's actions.

    `config` is resolved: its `correction_updates` is a number.
    """
    assert config.correction_updates is not None, "resolved when the program is built"
    correction_updates = config.correction_updates
    network = mlp(spec.obs_dim + spec.act_dim, 1, config.hidden)
    optimiser = adam(config.learning_rate)

    def log_ratio(params: Params, batch: Batch) -> Array:
        return network.apply(params, jnp.concatenate([batch.obs, batch.action], axis=-1))[..., 0]

    def init(key: Key) -> A3RLState:
        params = network.init(key)
        return A3RLState(params, optimiser.init(params), jnp.int32(0))

    def fit_ratio(carry: tuple[Params, Any], batch: Batch):
        params, opt_state = carry
        offline, online = batch.source == Source.OFFLINE, batch.source == Source.ONLINE
        both = offline.any() & online.any()  # half of the loss alone would teach how often an origin is met
        loss, grads = jax.value_and_grad(
            lambda params: jnp.where(both, ratio_loss(log_ratio(params, batch), offline, online), 0.0)
        )(params)
        return optimiser.apply(params, grads, opt_state, 0), loss

    def draw(log_p: Array, key: Key) -> Array:
        """As many indices as rows, by inversion: the memory of Gumbel's method would be N^2."""
        mass = jnp.cumsum(jnp.exp(log_p))
        index = jnp.searchsorted(mass, mass[-1] * jax.random.uniform(key, log_p.shape), side="right")
        return jnp.minimum(index, log_p.shape[0] - 1)

    def choose(state: A3RLState, batches: Batch, value: Value, act: Callable, key: Key):
        (params, opt_state), losses = jax.lax.scan(fit_ratio, (state.ratio, state.opt_state), batches)
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
        count, (act_key, draw_key) = rows.reward.shape[0], jax.random.split(key)
        act_keys = jax.random.split(act_key, config.value_actions)
        offline = rows.source == Source.OFFLINE
        sampled = jax.lax.map(lambda key: value(rows.obs, act(rows.obs, key)), act_keys)  # in turn: N is large
        advantage = value(rows.obs, rows.action) - sampled.mean(axis=0)
        ratio = log_ratio(params, rows)
        log_p = jax.nn.log_softmax(log_priority(config, ratio, advantage, offline))
        progress = jnp.minimum(state.updates / correction_updates, 1.0)
        beta = config.correction_start + (1.0 - config.correction_start) * progress
        index = draw(log_p, draw_key)
        metrics = {
            "ratio_loss": losses.mean(),
            "chosen_offline": offline[index].mean(),
            "effective_rows": 1.0 / (count * jnp.sum(jnp.exp(2.0 * log_p))),
            "drawn_advantage": advantage.mean(),
        }
        state = A3RLState(params, opt_state, state.updates + batches.reward.shape[0])
        return state, index, importance_weights(log_p, beta)[index], metrics

    return balanced(config, spec)._replace(init=init, choose=choose)


def _resolve(config: Any) -> A3RLConfig:
    """The correction is complete at the end of the online phase."""
    online = config.online
    updates = config.mix.correction_updates or max(online.updates, 1)
    return dataclasses.replace(config.mix, correction_updates=updates)


def _check(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    found = "chooses among offline and online rows, but there is no dataset"
    require(config.dataset != "", "mix", found, "name one with --dataset, or leave --mix out")
    return iter(())


ENTRY = Entry(
    A3RLConfig,
    a3rl,
    about="the more useful rows of a larger draw, with importance weights (Liu et al. 2025)",
    check=_check,
    resolve=_resolve,
)
