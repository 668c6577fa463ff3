"""Returns-to-go by one rule: of whole datasets (NumPy) and of online episodes in their rings (JAX).

While an online episode runs, the returns of its rows are unknown (``-inf``, which Cal-QL reads as no bound). They are
written into the rows when the episode ends. Formula and decisions: docs/algorithms.md#returns.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core import ring
from cfdg_jax.data.dataset import episode_starts
from cfdg_jax.data.transforms import RewardTransform, apply_reward
from cfdg_jax.errors import require
from cfdg_jax.types import Array, Buffer, RowLayout

FailureRule = Literal["all", "last"]
Truncation = Literal["none", "mean_reward", "last_reward"]


@dataclasses.dataclass(frozen=True)
class ReturnRule:
    """How the return-to-go of a row follows from the rewards of its trajectory.

    Attributes:
      discount: In [0, 1). Whole datasets also take 1, with no `failure_reward` and truncation ``none``.
      failure_reward: Reward of a step without success in a sparse task, in the units of the rewards; None in dense
        tasks. A trajectory that fails gets ``failure_reward / (1 - discount)`` in every row (nakamotoo/Cal-QL).
      failure_rule: Which rewards of a failed trajectory do not rise above `failure_reward`: ``all`` of them (JaxCQL),
        or the ``last`` (CORL).
      truncation: What a trajectory without a terminal is worth after its last row: ``none``, nothing (as published);
        ``mean_reward``, its mean reward for ever; ``last_reward``, its last reward for ever (Cal-QL on kitchen).
    """

    discount: float = 0.99
    failure_reward: float | Array | np.floating | None = None
    failure_rule: FailureRule = "all"
    truncation: Truncation = "none"

    def transformed(self, transform: RewardTransform) -> ReturnRule:
        """The rule for rewards that went through `transform`; this one's `failure_reward` is raw."""
        if self.failure_reward is None:
            return self
        return dataclasses.replace(self, failure_reward=apply_reward(transform, np.float32(self.failure_reward)))


def mc_returns(rule: ReturnRule, rewards: np.ndarray, ends: np.ndarray, terminals: np.ndarray) -> np.ndarray:
    """Discounted returns-to-go within the trajectories of a dataset.

    Args:
      rule: Its `failure_reward` in the units of `rewards`.
      rewards: `[N]`, in the units in which the critic learns.
      ends: `[N]` bool, last rows of trajectories; the last row of all ends one anyway.
      terminals: `[N]` bool, true terminals.

    Returns:
      `[N]` float32.

    Raises:
      UserError: for a discount that gives no finite returns, or an unknown truncation.
    """
    discount, truncation = rule.discount, rule.truncation
    _check(rule)
    starts = episode_starts(ends)
    lengths = np.diff(np.append(starts, len(rewards)))
    last = starts + lengths - 1
    returns = np.asarray(rewards, np.float64).copy()
    if truncation != "none":
        onwards = np.add.reduceat(returns, starts) / lengths if truncation == "mean_reward" else returns[last]
        returns[last] += np.where(terminals[last], 0.0, discount * onwards / (1 - discount))
    longest_first = np.argsort(-lengths, kind="stable")
    still_running = np.searchsorted(-lengths[longest_first], -np.arange(lengths.max()), side="left")
    for back in range(1, int(lengths.max())):  # all trajectories at once, from their last rows backwards
        row = last[longest_first[: still_running[back]]] - back
        returns[row] += discount * returns[row + 1]
    if rule.failure_reward is not None:
        failure = float(rule.failure_reward)
        judged = np.maximum.reduceat(rewards, starts) if rule.failure_rule == "all" else np.asarray(rewards)[last]
        failed = judged.astype(np.float64) <= failure + 1e-6
        returns = np.where(np.repeat(failed, lengths), failure / (1 - discount), returns)
    return returns.astype(np.float32)


def _check(rule: ReturnRule) -> None:
    """Raises `UserError` for a rule that `mc_returns` does not know or that gives no finite returns."""
    valid = typing.get_args(Truncation)
    require(rule.truncation in valid, "truncation", f"'{rule.truncation}' is unknown", f"valid: {', '.join(valid)}")
    needs_below_one = rule.failure_reward is not None or rule.truncation != "none"
    require(
        0 <= rule.discount < 1 or (rule.discount == 1 and not needs_below_one),
        "agent.discount",
        f"is {rule.discount}",
        "must lie in [0, 1), or be 1 with transform.failure_reward none and transform.truncation none",
    )


def close_episodes(
    rule: ReturnRule, online: Buffer, layout: RowLayout, done: Array, lengths: Array, window: int
) -> Buffer:
    """Writes ``mc_return`` of the online episodes that end with the newest row.

    Args:
      rule: Its discount below 1, its `failure_reward` in the units of the rows' rewards.
      online: Rings of all seeds, `[S, C, D]`, the newest row just inserted.
      layout: Of the rows.
      done: `[S]` bool, the seeds whose episode ended.
      lengths: `[S]` rows of that episode.
      window: Longest episode, at most C. Of a longer one only the newest `window` rows are written and looked at.

    Returns:
      The rings with the returns written.
    """
    discount, failure = rule.discount, rule.failure_reward
    age = jnp.arange(window)
    index = (online.position - 1 - age) % online.rows.shape[-2]
    reward = ring.numbers(online.rows[:, index, layout.reward])  # newest first
    of_episode = done[:, None] & (age < lengths[:, None])
    tail = jnp.zeros(done.shape)
    if rule.truncation != "none":
        mean = jnp.where(of_episode, reward, 0.0).sum(axis=1) / jnp.maximum(of_episode.sum(axis=1), 1)
        onwards = mean if rule.truncation == "mean_reward" else reward[:, 0]
        bootstraps = ring.numbers(online.rows[:, index[0], layout.terminal]) == 0
        tail = jnp.where(bootstraps, onwards * discount / (1 - discount), 0.0)

    def after(newer, older):
        return newer[0] * older[0], older[1] + older[0] * newer[1]

    gammas = jnp.full(reward.shape, discount, reward.dtype)
    returns = jax.lax.associative_scan(after, (gammas, reward.at[:, 0].add(tail)), axis=1)[1]
    if failure is not None:
        judged = of_episode if rule.failure_rule == "all" else of_episode & (age == 0)
        best = jnp.where(judged, reward, -jnp.inf).max(axis=1, keepdims=True)
        returns = jnp.where(best <= failure + 1e-6, failure / (1 - discount), returns)
    known = jnp.where(of_episode, ring.kept(returns, online), online.rows[:, index, layout.mc_return])
    return online._replace(rows=online.rows.at[:, index, layout.mc_return].set(known))
