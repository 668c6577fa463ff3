"""Adaptive behaviour cloning (Zhao et al. 2022, arXiv 2210.13846): a regulariser that returns of episodes control.

At the end of an online episode of T steps and normalised return R, with R' the running mean of returns before it::

    alpha <- clip(alpha + T (derivative max(0, R' - R) - proportional (goal - R')), 0, most)
    R'    <- (1 - rate) R' + rate R

The weight falls, more slowly the nearer returns are to the goal, and rises when a return drops. Every row of a batch
carries ``conserve = alpha / most``. With an agent that clones with weight `most` and divides Q by its mean size, the
policy's loss is the authors', ``- Q / mean |Q| + alpha (pi(s) - a)^2`` (docs/algorithms.md#adaptive-bc).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from cfdg_jax.errors import require
from cfdg_jax.methods import Entry, Preset, Stratifier, Task, Values
from cfdg_jax.stratify.base import check_marks
from cfdg_jax.types import Array, Spec
from cfdg_jax.values import check_ranges


@dataclasses.dataclass(frozen=True)
class AdaptiveBCConfig:
    """Constants of the controller; the defaults are the authors' for locomotion (zhaoyi11/adaptive_bc main.py)."""

    most: float = 0.4  # alpha at the start of the online phase and its largest; Adroit's expert data 8
    proportional: float = 3e-5  # K_p, per step of an episode; Adroit's expert data 20 times as much
    derivative: float = 1e-4  # K_d, likewise
    goal: float = 1.05  # normalised return to reach (all tasks)
    rate: float = 0.05  # weight of a new episode in the running mean (all tasks)
    returns: tuple[float, ...] = ()  # the two that count as 0 and 1; empty: the task's reference scores

    def __post_init__(self) -> None:
        check_ranges(self, "stratify", positive=("most",), rate=("rate",), not_negative=("proportional", "derivative"))
        low_high = self.returns
        ordered = not low_high or (len(low_high) == 2 and low_high[0] < low_high[1])
        require(ordered, "stratify.returns", f"is {low_high}", "must be empty or two returns, the lower first")


class AdaptiveBCState(NamedTuple):
    """The controller of one seed.

    Attributes:
      alpha: `[]` weight of the regulariser.
      mean_return: `[]` running mean of normalised returns; 0 before the first episode.
      episodes: `[]` int32 episodes seen.
    """

    alpha: Array
    mean_return: Array
    episodes: Array


def alpha_change(config: AdaptiveBCConfig, mean_return: Array, score: Array, length: Array) -> Array:
    """What an episode of `length` steps and normalised return `score` adds to alpha, before clipping."""
    drop = jnp.maximum(mean_return - score, 0.0)
    return length * (config.derivative * drop - config.proportional * (config.goal - mean_return))


def adaptive_bc(config: AdaptiveBCConfig, spec: Spec) -> Stratifier:
    """A `Stratifier` whose one number follows the episodes' returns.

    The running mean starts as the first episode's return. That episode changes alpha by the distance to the goal alone.
    The authors evaluate one episode for it.

    Raises:
      UserError: if nothing says which returns count as 0 and 1.
    """
    reference = config.returns or spec.reference
    require(
        reference is not None,
        "stratify.returns",
        "is empty, and the task has no reference scores to normalise returns by",
        "name the two returns that count as 0 and 1",
    )
    assert reference is not None
    low, high = reference

    def init(key) -> AdaptiveBCState:
        del key
        return AdaptiveBCState(jnp.float32(config.most), jnp.float32(0.0), jnp.int32(0))

    def mark(shared, own: AdaptiveBCState, batch, key):
        del shared, key
        return jnp.full(batch.reward.shape, own.alpha / config.most), {"conserve": own.alpha / config.most}

    def judge(state: AdaptiveBCState, episode_return: Array, length: Array) -> AdaptiveBCState:
        score = (episode_return - low) / (high - low)
        mean = jnp.where(state.episodes == 0, score, state.mean_return)
        alpha = jnp.clip(state.alpha + alpha_change(config, mean, score, length), 0.0, config.most)
        mean = (1.0 - config.rate) * mean + config.rate * score
        return AdaptiveBCState(alpha.astype(jnp.float32), mean.astype(jnp.float32), state.episodes + 1)

    return Stratifier(init=init, mark=mark, judge=judge)


def _values(preset: Preset, task: Task) -> Values:
    """The release's run for agents that clone with a weight; its return here follows episodes instead of a schedule."""
    values: dict[str, Any] = {}
    if task.family == "toy":
        values |= {"stratify.returns": (0.0, 1.0 if task.name == "toy-sparse" else 3.0)}  # nothing done, and arrival
    if task.agent_has("bc_weight"):  # no state of the task is normalised in the release
        values |= {"online.utd": 10, "transform.observation": "none"}
        values |= {"online.steps": 250_000} if preset == "paper" else {}
        # with alpha 1 this is the release's loss: bc_weight weights the square, alpha weights Q / mean |Q|
        values |= {"agent.online_bc_share": 1.0, "agent.bc_decay": 0, "agent.bc_weight": 0.4, "agent.alpha": 1.0}
    return values


def _companions(agent: type) -> Mapping[str, str]:
    clones = any(field.name == "bc_weight" for field in dataclasses.fields(agent))
    return {"mix": "uniform"} if clones else {}


def _check(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    yield from check_marks(config, chosen)
    most, weight = config.stratify.most, getattr(config.agent, "bc_weight", None)
    if weight is not None and weight != most:
        yield f"agent.bc_weight is {weight} and stratify.most {most}: alpha is {weight} at most; set both to one value"


ENTRY = Entry(
    AdaptiveBCConfig,
    adaptive_bc,
    about="one weight that follows the returns of episodes (Zhao et al. 2022)",
    values=_values,
    companions=_companions,
    check=_check,
)
