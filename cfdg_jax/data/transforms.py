"""One reward transform and one observation transform, fitted on the offline data and applied online too.

Both are pytrees and enter jitted programs as arguments. Evaluation returns stay raw. A generator is trained on
transformed rows, and the rows it generates are not transformed again (docs/algorithms.md#transforms).
"""

from __future__ import annotations

import logging
import typing
from typing import Literal, NamedTuple

import numpy as np

from cfdg_jax.data.dataset import Dataset
from cfdg_jax.errors import require
from cfdg_jax.types import Array

RewardKind = Literal["raw", "return_range", "minus_one", "scale_bias"]
ObservationKind = Literal["none", "standardise"]

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
        r - 1 (IQL, PEX, RLPD on AntMaze); ``scale_bias``, as in `linear`.
      observation: ``none`` or ``standardise``, (s - mean) / (std + 1e-3) (TD3+BC).
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
