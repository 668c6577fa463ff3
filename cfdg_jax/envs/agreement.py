"""Whether logged transitions are the environment's own: a sample of them is put into it and stepped.

A robot's observation determines its state (but for where it is, and for velocities cut at the limit), so any row can be
replayed; a maze's too, but the goal, on which the reward depends, does not show. The observations of Adroit's hand
leave out velocities, so episodes are replayed from their beginning, where the hand rests. Other environments cannot be
put into a state, and are not compared. Generated rows only resemble the environment's: how far they are off is a note.

Where rows do not agree, the likely reasons are tried on the same rows, and the one that explains them is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from cfdg_jax.envs.placing import Placed, can_place, place_rows
from cfdg_jax.envs.registry import spec_of, task_names
from cfdg_jax.errors import UserError

ROWS = 200
"""Rows replayed, spread over the data."""
TOLERANCE = 1e-3
"""Largest difference, relative where numbers exceed 1, of rows that agree. Replays of recordings differ by 1e-6."""
SHARE = 0.02
"""Share of rows that may be off: states a rounding away from a contact are."""


class Rows(Protocol):
    """What is read of a dataset."""

    @property
    def observations(self) -> np.ndarray: ...
    @property
    def actions(self) -> np.ndarray: ...
    @property
    def rewards(self) -> np.ndarray: ...
    @property
    def next_observations(self) -> np.ndarray: ...
    @property
    def terminals(self) -> np.ndarray: ...
    @property
    def ends(self) -> np.ndarray: ...
    @property
    def loose(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What `agreement` found.

    Attributes:
      compared: The environment and dynamics that rows were replayed in.
      rows: Rows replayed; 0 where the environment cannot be put into a recorded state.
      observation_error: Median difference of next observations, and the share of rows off by more than `TOLERANCE`.
      reward_error: The same of rewards; None where the observation does not determine them.
      terminal_errors: Replayed rows whose terminal flag differs; None where not compared.
      notes: What could not be compared, and why.
      mismatches: What differs and by how much; empty if all agrees.
    """

    compared: str
    rows: int
    observation_error: tuple[float, float] | None = None
    reward_error: tuple[float, float] | None = None
    terminal_errors: int | None = None
    notes: tuple[str, ...] = ()
    mismatches: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """One sentence on what differs; empty if nothing does."""
        words = f"the data and the environment {self.compared} disagree: {'; '.join(self.mismatches)}"
        return words if self.mismatches else ""


def agreement(data: Rows, task: str, dynamics: str, rows: int = ROWS) -> Agreement:
    """Replays `rows` transitions of `data`, by default few enough for a moment, in the environment `task`."""
    compared = f"{task} ({dynamics} dynamics)" if task else "an environment"
    reason = can_place(task)
    if reason:
        return Agreement(compared, 0, notes=(f"not compared with {compared}: {reason}",))
    try:
        spec = spec_of(task, dynamics)
    except UserError as error:
        return Agreement(compared, 0, notes=(f"not compared with {compared}: {error}",))
    widths = (data.observations.shape[1], data.actions.shape[1])
    if widths != (spec.obs_dim, spec.act_dim):
        words = f"observations and actions have widths {widths}, the environment's {(spec.obs_dim, spec.act_dim)}"
        return Agreement(compared, 0, mismatches=(words,))
    try:
        placed = place_rows(task, dynamics, data, rows)
    except UserError as error:  # an extra that is not installed
        return Agreement(compared, 0, notes=(f"not compared with {compared}: {error}",))
    if not len(placed.rows):
        return Agreement(compared, 0, notes=(f"not compared with {compared}: no row shows its whole state",))
    return _judge(data, task, dynamics, placed, compared)


def _judge(data: Rows, task: str, dynamics: str, placed: Placed, compared: str) -> Agreement:
    known = placed.comparable(data)
    error = relative(placed.next_obs, data.next_observations[placed.rows])[known]
    notes, mismatches = list(placed.notes), []
    if not known.any():
        return Agreement(compared, 0, notes=(*notes, f"not compared with {compared}: next observations are missing"))
    observation = (float(np.median(error)), float((error > TOLERANCE).mean()))
    if data.loose:
        near = f"rows were generated and are near the environment's: the median difference is {observation[0]:.2g}"
        return Agreement(compared, len(error), observation, notes=(*notes, near))
    if observation[1] > SHARE:
        mismatches.append(
            f"{observation[1]:.0%} of {len(error)} replayed rows miss the recorded next observation by more than "
            f"{TOLERANCE:g} (median {observation[0]:.2g}); {_why_observations(data, task, dynamics, placed)}"
        )
    reward = terminal = None
    if placed.reward is not None:
        off = np.abs(placed.reward - data.rewards[placed.rows]) / np.maximum(1.0, np.abs(placed.reward))
        reward = (float(np.median(off)), float((off > placed.reward_tolerance).mean()))
        if not mismatches and (words := _of_rewards(data, placed, off)):
            mismatches.append(words)
    if placed.terminal is not None and not mismatches:
        differ = placed.terminal != data.terminals[placed.rows]
        terminal = int(differ.sum())
        if terminal > SHARE * len(differ):
            recorded = int((differ & data.terminals[placed.rows]).sum())
            mismatches.append(
                f"{recorded} recorded terminals are none in the environment and {terminal - recorded} of its are not "
                f"recorded, of {len(differ)} rows"
            )
    return Agreement(compared, len(error), observation, reward, terminal, tuple(notes), tuple(mismatches))


def relative(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Largest difference of each row `[n]`, relative where numbers exceed 1; infinite where `found` is not finite."""
    error = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    return np.where(np.isfinite(error), error, np.inf).max(axis=1)


def _why_observations(data: Rows, task: str, dynamics: str, placed: Placed) -> str:
    """The first reason that explains rows which do not follow from those before them."""
    if _standardised(data.observations):
        return "observations look standardised (every column has mean 0 and spread 1): undo it"
    for words, explained in _other_readings(data, task, dynamics, placed):
        if explained():
            return words
    known = placed.comparable(data)
    off = relative(placed.next_obs, data.next_observations[placed.rows])[known] > TOLERANCE
    largest = np.abs(data.actions).max()
    bound = (np.abs(data.actions[placed.rows][known]) >= 0.999 * largest).any(axis=1)
    if bound.any() and not bound.all() and off[~bound].mean() <= SHARE < off[bound].mean():
        return f"only rows with actions at the bound of {largest:.3g} do: actions were clipped after they had acted"
    return "observations were changed, or another environment, version or release of MuJoCo recorded them"


def _other_readings(data: Rows, task: str, dynamics: str, placed: Placed) -> Iterator[tuple[str, Callable[[], bool]]]:
    """Other readings of the same rows, each with what to say if the rows agree in it."""

    def agrees(task: str, dynamics: str, shift: int = 0) -> Callable[[], bool]:
        def check() -> bool:
            other = place_rows(task, dynamics, data, ROWS, shift)
            known = other.comparable(data)
            error = relative(other.next_obs, data.next_observations[other.rows])[known]
            return bool(known.any()) and float((error > TOLERANCE).mean()) <= SHARE

        return check

    variants = ("d4rl", "gymnasium")
    other = variants[1 - variants.index(dynamics)]
    same_width = lambda name, variant: _widths(name, variant) == (data.observations.shape[1], data.actions.shape[1])
    if same_width(task, other):
        yield f"they agree with dynamics {other}: set env.dynamics to {other}", agrees(task, other)
    for name in task_names():
        for variant in (dynamics, other):
            if name != task and not can_place(name) and same_width(name, variant):
                yield f"they are rows of {name} ({variant} dynamics): set env.task to {name}", agrees(name, variant)
    for shift, words in ((1, "next"), (-1, "previous")):
        yield f"they agree with the action of the {words} row: actions are shifted", agrees(task, dynamics, shift)


def _widths(task: str, dynamics: str) -> tuple[int, int] | None:
    try:
        spec = spec_of(task, dynamics)
    except UserError:
        return None
    return spec.obs_dim, spec.act_dim


def _standardised(observations: np.ndarray) -> bool:
    spread = observations.std(axis=0, dtype=np.float64)
    moving = spread > 1e-6
    mean = observations.mean(axis=0, dtype=np.float64)
    return bool(moving.any() and np.abs(mean[moving]).max() < 0.05 and np.abs(spread[moving] - 1).max() < 0.05)


def _of_rewards(data: Rows, placed: Placed, off: np.ndarray) -> str:
    """What is wrong with the rewards, which differ by `off` `[n]`; empty if nothing is."""
    last = data.terminals[placed.rows]
    wrong = off > placed.reward_tolerance
    if last.any() and not last.all() and wrong[~last].mean() <= SHARE and np.median(off[last]) > 0.5:
        return (
            f"rewards of terminal rows are off by {np.median(off[last]):.3g} while others agree; -v5 environments pay "
            "no bonus for the last step, -v4 do"
        )
    if wrong.mean() <= SHARE:
        return ""
    return (
        f"{wrong.mean():.0%} of {len(off)} rewards are off by more than {placed.reward_tolerance:g} "
        f"(median {np.median(off):.2g}); {_why_rewards(data, placed)}"
    )


def _why_rewards(data: Rows, placed: Placed) -> str:
    """How recorded rewards differ from the environment's."""
    assert placed.reward is not None
    ours, recorded = placed.reward, data.rewards[placed.rows].astype(np.float64)
    inside = ~data.ends[placed.rows]
    for shift, words in ((1, "late"), (-1, "early")):
        moved = data.rewards[np.clip(placed.rows + shift, 0, len(data.rewards) - 1)]
        if inside.any() and np.percentile(np.abs(moved - ours)[inside], 95) <= 10 * placed.reward_tolerance:
            return f"they are recorded one row too {words}"
    if np.ptp(ours) > 1e-6:
        scale, shift = np.polyfit(ours, recorded, 1)
        left = np.abs(scale * ours + shift - recorded)
        if np.percentile(left, 95) <= 10 * placed.reward_tolerance * max(1.0, abs(scale)):
            sign = "their sign is reversed: " if scale < 0 else ""
            return f"{sign}recorded = {scale:.4g} x the environment's {'+' if shift >= 0 else '-'} {abs(shift):.4g}"
    return "no scale, shift or sign explains them: another formula, or another version of the environment"
