"""The dataset doctor: what a dataset holds, and what about it looks wrong though it can be read.

What cannot be used at all is refused while loading (`cfdg_jax.data.arrays`), so a report exists for good data only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.maze_faults import maze_doubts, maze_facts
from cfdg_jax.data.reference_scores import normalized_score
from cfdg_jax.errors import require
from cfdg_jax.types import Spec


@dataclasses.dataclass(frozen=True)
class Report:
    """What `describe` found.

    Attributes:
      facts: Plain values by name, ready for json.
      notes: What reading had to assume or change.
      warnings: What looks wrong.
    """

    facts: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def text(self) -> str:
        """Lines for people."""
        lines = [f"{name:<20} {_shown(value)}" for name, value in self.facts.items()]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def check_fits(dataset: Dataset, spec: Spec, task: str) -> None:
    """Raises `UserError` unless observations and actions have the widths of the environment `task`."""
    for what, have, want in (
        ("observations", dataset.obs_dim, spec.obs_dim),
        ("actions", dataset.act_dim, spec.act_dim),
    ):
        require(
            have == want,
            dataset.name,
            f"has {what} of width {have}, but the environment {task or 'given'} has {want}",
            "choose the environment the data was logged in with --env.task",
        )


def describe(dataset: Dataset, spec: Spec | None = None) -> Report:
    """Counts, returns, ranges and warnings of a dataset; `spec` adds a check of episode lengths."""
    returns, lengths = dataset.episode_returns, dataset.episode_lengths
    score = normalized_score(dataset.task, returns)
    terminals = int(dataset.terminals.sum())
    facts: dict[str, Any] = {
        "name": dataset.name,
        "environment": f"{dataset.task or 'not named'} ({dataset.dynamics} dynamics)",
        "rows": len(dataset),
        "episodes": len(returns),
        "episode length": _range(lengths),
        "return": _range(returns),
        "normalised score": "no reference for this environment" if score is None else _range(score),
        "terminals": terminals,
        "time limits and cuts": int(dataset.ends.sum()) - int((dataset.ends & dataset.terminals).sum()),
        "rewards": _range(dataset.rewards),
        "actions": {"width": dataset.act_dim} | _range(dataset.actions),
        "observations": {"width": dataset.obs_dim} | _range(dataset.observations),
        "sha256": dataset.sha256 or "not from a file",
    }
    facts |= maze_facts(dataset)
    facts |= {key: value for key, value in dataset.metadata.items() if key in ("policies", "recipe", "seed")}
    return Report(facts, dataset.notes, (*doubts(dataset, spec), *_of_columns(dataset, spec)))


LARGE = 1e8
"""Magnitude of rewards and observations beyond which float32 learning is hopeless and a fault of the file likely."""


def doubts(dataset: Dataset, spec: Spec | None) -> tuple[str, ...]:
    """What is wrong with the rows of a dataset though they can be read, one sentence each."""
    return (*dataset.warnings, *_of_episodes(dataset, spec), *_of_values(dataset), *maze_doubts(dataset))


def _of_episodes(dataset: Dataset, spec: Spec | None) -> Iterator[str]:
    lengths = dataset.episode_lengths
    horizon = spec.horizon if spec else 1000
    if len(lengths) == 1 and len(dataset) > horizon:
        yield "no episode ends are labelled; returns are those of one endless episode"
    elif spec is not None and lengths.max() > spec.horizon and not _demonstrated(dataset):
        yield f"an episode has {lengths.max()} rows, but the time limit is {spec.horizon}; ends are missing"
    if len(dataset) > 1 and lengths.mean() < 2 and not dataset.loose:
        length = "every row ends an episode" if lengths.max() == 1 else f"episodes have {lengths.mean():.2g} rows"
        yield f"{length}; rows are shuffled, or next observations belong elsewhere"
    last_terminal = dataset.terminals[dataset.episode_starts + lengths - 1]
    if dataset.terminals.all():
        yield "all rows are terminal; nothing is bootstrapped"
    elif spec is not None and (full := lengths == spec.horizon).any() and last_terminal[full].all():
        yield (
            f"all {int(full.sum())} episodes of {spec.horizon} rows, the time limit, end in a terminal; "
            "a time limit is a timeout, no terminal"
        )


def _demonstrated(dataset: Dataset) -> bool:
    """Whether people showed the episodes, who may take longer than a try: reading found time-outs that end nothing."""
    return any("time-outs are no ends" in note for note in dataset.notes)


def _of_values(dataset: Dataset) -> Iterator[str]:
    if dataset.rewards.min() == dataset.rewards.max():
        yield f"all rewards are {dataset.rewards[0]:g}; nothing can be learnt from them"
    for what, values in (("rewards", dataset.rewards[:, None]), ("observations", dataset.observations)):
        large = np.abs(values).max(axis=1)
        if large.max() > LARGE:
            yield f"{what} reach {large.max():.3g} in row {int(large.argmax())}; beyond {LARGE:g} nothing can be learnt"
    zero = (dataset.rewards == 0) & ~dataset.observations.any(axis=1) & ~dataset.actions.any(axis=1)
    unwritten = len(zero) if zero.all() else int(np.argmin(zero[::-1]))
    if unwritten > 1:
        yield f"the last {unwritten} rows hold zeros alone; they were probably never written"
    if len(dataset) > 1 and np.ptp(dataset.actions, axis=0).max() == 0:
        yield "all actions are equal; nothing can be learnt from them"


def _of_columns(dataset: Dataset, spec: Spec | None) -> Iterator[str]:
    """What a look at the columns may explain, such as an expert that pushes as hard as it can."""
    constant = int((np.ptp(dataset.observations, axis=0) == 0).sum()) - (spec.zeros if spec else 0)
    if constant > 0:
        yield f"{constant} of {dataset.obs_dim} observation dimensions never change"
    saturated = float((np.abs(dataset.actions) > 0.999).mean())
    if saturated > 0.5:
        yield f"{saturated:.0%} of action entries lie at the bounds"


def _range(values: np.ndarray) -> dict[str, float]:
    return {
        "min": float(values.min()),
        "mean": float(values.mean(dtype=np.float64)),
        "max": float(values.max()),
    }


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
