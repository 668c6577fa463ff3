"""The regulariser of conservative critics: it pushes Q down on sampled actions and up on the data's.

Of one row with state s and data action a, for each critic i::

    a_k : n uniform actions, n from pi(s), n from pi(s');  mu(a_k | s) their densities
    R_i = T log sum_k exp((Q_i(s, a_k) - log mu(a_k | s)) / T) - Q_i(s, a)

A calibrated regulariser takes max(Q_i, mc_return) in place of Q_i at the 2 n actions of the policy. Formulas and
sources: docs/algorithms.md#cql.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from cfdg_jax.agents.base import descend, descend_in_parts, pretrained_sizes
from cfdg_jax.agents.soft import Soft
from cfdg_jax.core.distributions import TanhNormal
from cfdg_jax.core.losses import td_loss, weighted
from cfdg_jax.core.networks import Network
from cfdg_jax.core.optim import Optimiser
from cfdg_jax.methods import Preset, Task, Values
from cfdg_jax.types import Array, Batch, Params, Source

MAX_MULTIPLIER = 1e6
"""Largest Lagrange multiplier."""
S = TypeVar("S", bound=Any)


class Penalty(NamedTuple):
    """The settings of one phase, no arrays.

    Attributes:
      weight: Of R in the critics' loss.
      gap: Of Lagrange's form; None for a fixed weight.
      calibrate: Whether returns bound the policy's actions.
      bound: Theirs on rows that are not the dataset's: the rows' own returns, or 0.
      importance_weights: Whether densities are subtracted; if not, the data's action is among the a_k.
      temperature: T.
      limits: Clips R per row.
    """

    weight: float
    gap: float | None
    calibrate: bool
    bound: Literal["return", "zero"] = "return"
    importance_weights: bool = True
    temperature: float = 1.0
    limits: tuple[float | None, float | None] = (None, None)


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


AT_ONCE = 1024
"""State-action pairs that go through the critics in one product: their activations, hundreds of floats for each pair,
critic and layer, are what an update's memory is."""


def row_parts(batch: Batch, proposals: Proposals, target: Array) -> tuple[Batch, Proposals, Array]:
    """The rows of one minibatch in equal parts of at most `AT_ONCE` pairs, or of one row; all leaves lead with C."""
    actions, rows = proposals.log_density.shape
    most = max(1, AT_ONCE // actions)
    count = next(count for count in range(1, rows + 1) if rows % count == 0 and rows // count <= most)
    of_rows = lambda x: x.reshape(count, rows // count, *x.shape[1:])
    of_actions = lambda x: jnp.moveaxis(x.reshape(actions, count, rows // count, *x.shape[2:]), 1, 0)
    return jax.tree.map(of_rows, batch), jax.tree.map(of_actions, proposals), of_rows(target)


def at_each(x: Array, count: int) -> Array:
    """`x` `[B, ...]` repeated to `[count, B, ...]`."""
    return jnp.broadcast_to(x, (count, *x.shape))


def at_both(soft: Soft, policy: Params, batch: Batch) -> TanhNormal:
    """The policy at s and s', `[2, B, A]`. XLA computes it once, however often it is asked for."""
    return soft.policy.apply(policy, jnp.stack([batch.obs, batch.next_obs]))


def propose(p: Penalty, soft: Soft, policy: Params, batch: Batch, uniform: Array, noise: Array) -> Proposals:
    """The regulariser's actions. Nothing here depends on a critic, so its gradient reaches critics alone.

    Args:
      p: The regulariser.
      soft: The network of the policy.
      policy: Its parameters.
      batch: One minibatch.
      uniform: `[n, B, A]` uniform actions.
      noise: `[n, 2, B, A]` standard normal, for the actions from pi(s) and pi(s').
    """
    n, rows = uniform.shape[:2]
    both = at_both(soft, policy, batch).sample(noise, soft.density_epsilon)
    sampled, log_prob = (x.reshape(2 * n, *x.shape[2:]) for x in both)
    dtype = log_prob.dtype
    constant = lambda count, value: jnp.full((count, rows), value, dtype)
    if p.importance_weights:
        even = constant(n, -soft.spec.act_dim * math.log(2.0))
        log_density = jnp.concatenate([constant(1, 0.0), even, log_prob])
    else:
        log_density = constant(1 + 3 * n, 0.0)
    known = batch.mc_return.astype(dtype)
    if p.bound == "zero":
        known = jnp.where(batch.source == Source.OFFLINE, known, 0.0)
    bound = at_each(known, 2 * n) if p.calibrate else constant(2 * n, -jnp.inf)
    return Proposals(
        action=jnp.concatenate([batch.action[None], uniform, sampled]),
        log_density=log_density,
        bound=jnp.concatenate([constant(1 + n, -jnp.inf), bound]),
    )


def regulariser(p: Penalty, q: Array, proposals: Proposals) -> Array:
    """R `[Q, B]`, clipped, from critics at the proposals, `[Q, M, B]`."""
    scores = jnp.maximum(q, proposals.bound) - proposals.log_density
    if p.importance_weights:
        scores = scores[:, 1:]  # the data's action has no density to weigh it by
    soft_maximum = p.temperature * jax.nn.logsumexp(scores / p.temperature, axis=1)
    return jnp.clip(soft_maximum - q[:, 0], *p.limits)


def critic_loss(
    p: Penalty,
    critic: Network,
    params: Params,
    log_multiplier: Array,
    batch: Batch,
    proposals: Proposals,
    target: Array,
) -> tuple[Array, dict[str, Array]]:
    """TD errors and weighted regularisers, summed over critics, and what is worth knowing of them.

    All actions of all states are one call of the critics. ``excess`` `[Q]` is the mean of R over conservative rows,
    less the gap.
    """
    q = critic.apply(params, batch.obs, proposals.action)
    share, weight = batch.conserve.mean(), jnp.float32(p.weight)
    penalty = jnp.mean(batch.conserve * regulariser(p, q, proposals), axis=1)
    if p.gap is not None:
        penalty = penalty - share * p.gap
        weight = weight * jnp.exp(log_multiplier)
    td = weighted(td_loss(q[:, 0], target), batch.weight).mean()
    push = weight * jnp.sum(penalty)
    aux = {"q": q[:, 0], "excess": penalty / jnp.maximum(share, 1e-12), "td_loss": td, "cql_loss": push, "share": share}
    return td + push, aux


def whole(aux: dict[str, Array]) -> dict[str, Array]:
    """What is worth knowing of a minibatch, from its parts' (leading with C): ``q`` `[B]` is a mean over critics."""
    share = jnp.maximum(aux["share"], 1e-12)
    return {
        "q": aux["q"].mean(axis=1).reshape(-1),
        "excess": jnp.sum(aux["excess"] * share[:, None], axis=0) / share.sum(),
        "td_loss": aux["td_loss"].mean(),
        "cql_loss": aux["cql_loss"].mean(),
    }


def step_critics(
    p: Penalty, critic: Network, optimiser: Optimiser, state: S, batch: Batch, proposals: Proposals, target: Array,
    step: Array | int,
) -> tuple[S, Array, dict[str, Array]]:  # fmt: skip
    """The critics' step, over the rows in parts: the state, the loss and what is worth knowing of it."""
    loss = lambda params, part: critic_loss(p, critic, params, state.log_multiplier, *part)
    parts = row_parts(batch, proposals, target)
    params, moments, value, aux = descend_in_parts(loss, optimiser, state.critic, state.critic_opt, step, parts)
    return state._replace(critic=params, critic_opt=moments), value, whole(aux)


def update_multiplier(p: Penalty, optimiser: Optimiser, state: S, excess: Array, step: Array | int) -> S:
    """Lagrange's step: alpha' rises where the mean regulariser exceeds its gap by `excess` `[Q]`."""
    loss = lambda log_multiplier: (-jnp.exp(log_multiplier) * p.weight * excess.mean(), ())
    moved, moments, _, _ = descend(loss, optimiser, state.log_multiplier, state.log_multiplier_opt, step)
    return state._replace(log_multiplier=jnp.minimum(moved, math.log(MAX_MULTIPLIER)), log_multiplier_opt=moments)


def reduced_values(preset: Preset, task: Task) -> Values:
    """Rates of 1e-4 and less in the papers are for a million updates, and a temperature of 1 takes 10,000 to fall.

    A bound by returns lifts Q to them at once; plain critics overshoot, on random data to 1e7. The agents without it
    gain more online with layer normalisation too (docs/results.md).
    """
    if preset == "paper":
        return {}
    values = {"agent.policy_learning_rate": 3e-4, "agent.init_temperature": 0.1, "agent.layer_norm": True}
    return {**values, **pretrained_sizes(preset, task)}


def penalty_values(preset: Preset, task: Task) -> dict[str, Any]:
    """At a penalty of 10 policies stay as pre-trained for tens of thousands of steps (docs/algorithms.md#cql)."""
    share = {} if preset == "paper" else {"agent.online_penalty_share": 0.1}
    return share | dict(reduced_values(preset, task))
