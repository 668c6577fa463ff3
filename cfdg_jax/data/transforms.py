"""One reward transform and one observation transform, fitted on the offline data and applied online too.

Both are pytrees, so they travel into jitted programs as arguments. Evaluation returns stay raw, and a generator is
trained on transformed rows, so generated rows need no second transform (reference section 1.3).
"""

from __future__ import annotations

import logging
import typing
from typing import Literal, NamedTuple

import numpy as np

from cfdg_jax.data.arrays import ACTION_LIMIT
from cfdg_jax.data.dataset import Dataset, episode_starts
from cfdg_jax.errors import require
from cfdg_jax.types import Array, Source

RewardKind = Literal["raw", "return_range", "minus_one", "scale_bias"]
ObservationKind = Literal["none", "standardise"]
Truncation = Literal["none", "mean_reward", "last_reward"]
"""What a trajectory without a terminal is worth after its last row, see `mc_returns`."""

log = logging.getLogger(__name__)


class RewardTransform(NamedTuple):
    """``reward * scale + bias``."""

    scale: Array | np.float32
    bias: Array | np.float32


class ObservationTransform(NamedTuple):
    """``(obs - mean) / scale``, both `[O]`."""

    mean: Array | np.ndarray
    scale: Array | np.ndarray


class Transforms(NamedTuple):
    """What lies between raw transitions and the rows an agent sees; `online_reward` is that of online rows."""

    reward: RewardTransform
    observation: ObservationTransform
    online_reward: RewardTransform


def apply_reward(transform: RewardTransform, reward):
    """Raw reward -> the agent's reward; any shape, NumPy or JAX."""
    return reward * transform.scale + transform.bias


def invert_reward(transform: RewardTransform, reward):
    """The agent's reward -> raw reward."""
    return (reward - transform.bias) / transform.scale


def apply_observation(transform: ObservationTransform, obs):
    """Raw observation `[..., O]` -> the agent's observation."""
    return (obs - transform.mean) / transform.scale


def invert_observation(transform: ObservationTransform, obs):
    """The agent's observation `[..., O]` -> raw observation."""
    return obs * transform.scale + transform.mean


def identity_transforms(obs_dim: int) -> Transforms:
    """The transforms that change nothing, for a run without a dataset."""
    raw = RewardTransform(np.float32(1), np.float32(0))
    same = ObservationTransform(np.zeros(obs_dim, np.float32), np.ones(obs_dim, np.float32))
    return Transforms(raw, same, raw)


def fit_transforms(
    dataset: Dataset | None,
    reward: RewardKind = "raw",
    observation: ObservationKind = "none",
    linear: tuple[float, float] = (10.0, -5.0),
    online_reward: Literal["same", "raw"] = "same",
    obs_dim: int = 0,
) -> Transforms:
    """Fits the transforms on `dataset`.

    Args:
      dataset: The offline data; None for a run without.
      reward: ``raw``; ``return_range``, 1000 / (max - min) of whole-trajectory returns (IQL locomotion); ``minus_one``,
        r - 1 (IQL, PEX, RLPD on AntMaze); ``scale_bias``, as in `linear`. Reference section 1.3.
      observation: ``none`` or ``standardise``, (s - mean) / (std + 1e-3) (TD3+BC). Reference section 1.4.
      linear: Scale and bias of ``scale_bias``: 10 and -5 on AntMaze (CQL, Cal-QL), 10 and 5 on Adroit, whose rewards
        are -1 and 0 (Cal-QL).
      online_reward: ``same``, or ``raw`` for online rows (implicit_q_learning on locomotion).
      obs_dim: Of the task; read only where there is no dataset.

    Raises:
      UserError: for ``return_range`` on data whose trajectories all have the same return, and for what is fitted on
        data where there are none.
    """
    unchanged = identity_transforms(obs_dim if dataset is None else dataset.obs_dim)
    fitted = fit_reward(dataset, reward, linear)
    moments = unchanged.observation if observation == "none" else fit_observation(dataset, observation)
    return Transforms(fitted, moments, fitted if online_reward == "same" else unchanged.reward)


def _fitted_on(dataset: Dataset | None, field: str, kind: str, others: str) -> Dataset:
    """`dataset`, which a transform of that kind needs."""
    found = f"is {kind}, which is fitted on a dataset, and there is none"
    require(dataset is not None, f"transform.{field}", found, f"use {others}")
    assert dataset is not None
    return dataset


def fit_reward(
    dataset: Dataset | None, kind: RewardKind, linear: tuple[float, float] = (10.0, -5.0)
) -> RewardTransform:
    """See `fit_transforms`."""
    valid = typing.get_args(RewardKind)
    require(kind in valid, "transform.reward", f"'{kind}' is unknown", f"valid: {', '.join(valid)}")
    if kind != "return_range":
        scale, bias = {"raw": (1.0, 0.0), "minus_one": (1.0, -1.0), "scale_bias": linear}[kind]
        return RewardTransform(np.float32(scale), np.float32(bias))
    dataset = _fitted_on(dataset, "reward", kind, "raw, minus_one or scale_bias")
    low, high = dataset.return_range
    require(
        high > low,
        "transform.reward",
        f"return_range needs trajectories of different returns, but all {len(dataset.episode_returns)} of "
        f"{dataset.name} return {high:g}",
        "use raw, minus_one or scale_bias",
    )
    scale = 1000.0 / (high - low)
    log.info("%s: rewards are multiplied by %.6g (trajectory returns %.6g to %.6g)", dataset.name, scale, low, high)
    return RewardTransform(np.float32(scale), np.float32(0))


def fit_observation(dataset: Dataset | None, kind: ObservationKind) -> ObservationTransform:
    """See `fit_transforms`; of a kind that is fitted."""
    require(kind == "standardise", "transform.observation", f"'{kind}' is unknown", "valid: none, standardise")
    dataset = _fitted_on(dataset, "observation", kind, "none")
    mean = dataset.observations.mean(axis=0, dtype=np.float64)
    std = dataset.observations.std(axis=0, dtype=np.float64)
    return ObservationTransform(mean.astype(np.float32), (std + 1e-3).astype(np.float32))


def pack(
    dataset: Dataset,
    transforms: Transforms,
    discount: float = 0.99,
    failure_reward: float | None = None,
    truncation: Truncation = "none",
    failure_rule: Literal["all", "last"] = "all",
) -> np.ndarray:
    """The dataset as packed rows `[N, D]` float32: transformed, with returns-to-go, marked as offline.

    Of loose rows the returns-to-go are unknown, -inf.

    Args:
      dataset: The offline data.
      transforms: Applied to rewards and observations.
      discount: Of the returns-to-go, which are of transformed rewards.
      failure_reward: Raw reward of a step without success in a sparse task (AntMaze: 0), see `mc_returns`.
      truncation: See `mc_returns`.
      failure_rule: See `mc_returns`.
    """
    reward = apply_reward(transforms.reward, dataset.rewards)
    sparse = None if failure_reward is None else float(apply_reward(transforms.reward, np.float32(failure_reward)))
    unknown = np.full(len(dataset), -np.inf, np.float32)
    to_go = lambda: mc_returns(reward, dataset.ends, dataset.terminals, discount, sparse, truncation, failure_rule)
    return dataset.layout.pack(
        apply_observation(transforms.observation, dataset.observations),
        np.clip(dataset.actions, -ACTION_LIMIT, ACTION_LIMIT),
        reward,
        apply_observation(transforms.observation, dataset.next_observations),
        dataset.terminals,
        unknown if dataset.loose else to_go(),
        float(Source.OFFLINE),
        xp=np,
    )


def mc_returns(
    rewards: np.ndarray,
    ends: np.ndarray,
    terminals: np.ndarray,
    discount: float,
    sparse_failure: float | None = None,
    truncation: Truncation = "none",
    failure_rule: Literal["all", "last"] = "all",
) -> np.ndarray:
    """Discounted returns-to-go within trajectories (Cal-QL; reference section 3.5).

    Args:
      rewards: `[N]`, in the space the critic lives in.
      ends: `[N]` bool, last rows of trajectories; the last row of all ends one anyway.
      terminals: `[N]` bool, true terminals.
      discount: In [0, 1); in [0, 1] without the next two.
      sparse_failure: Reward of a step without success. A trajectory that fails gets
        ``sparse_failure / (1 - discount)`` in every row (JaxCQL replay_buffer.py).
      failure_rule: Which of its rewards must not rise above `sparse_failure`: ``all`` (JaxCQL), or the ``last`` (CORL).
      truncation: What a trajectory without a terminal is worth after its last row: ``none``, nothing (as published);
        ``mean_reward``, its mean reward for ever; ``last_reward``, its last (Cal-QL on kitchen).

    Returns:
      `[N]` float32.
    """
    valid = typing.get_args(Truncation)
    require(truncation in valid, "truncation", f"'{truncation}' is unknown", f"valid: {', '.join(valid)}")
    needs_below_one = sparse_failure is not None or truncation != "none"
    require(
        0 <= discount < 1 or (discount == 1 and not needs_below_one),
        "agent.discount",
        f"is {discount}",
        "must lie in [0, 1), or be 1 with transform.failure_reward none and transform.truncation none",
    )
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
    if sparse_failure is not None:
        judged = np.maximum.reduceat(rewards, starts) if failure_rule == "all" else np.asarray(rewards)[last]
        failed = judged.astype(np.float64) <= sparse_failure + 1e-6
        returns = np.where(np.repeat(failed, lengths), sparse_failure / (1 - discount), returns)
    return returns.astype(np.float32)
