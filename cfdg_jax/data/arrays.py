"""From the arrays of a file to transitions: what is refused, and where episodes end.

D4RL keeps terminals (the task ended) and timeouts (only the recording did) apart, and so does everything here:
terminals say where not to bootstrap, ``ends`` where trajectories split (docs/algorithms.md#data).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cfdg_jax.errors import UserError, require

REQUIRED = ("observations", "actions", "rewards", "terminals")
OPTIONAL = ("next_observations", "timeouts")
ACTION_TOLERANCE = 1e-5
"""Rounding by which actions may exceed 1 before they are refused."""
ACTION_LIMIT = 1.0 - 1e-5
"""Loaded actions are clipped to this magnitude, for tanh-squashed policies (ikostrikov/implicit_q_learning)."""
GAP = 1e-6
"""Distance between a next observation and the following row beyond which an episode ended in between (same source)."""
CHUNK = 65_536
"""Rows that are compared at once."""
CLEAR_JUMP = 2.0
"""Resets show in the observations where each is so many times larger than the largest step within an episode."""
ENOUGH = 5
"""Time-outs, and terminals, from which it is told that recordings go on after their time-outs."""


class Transitions(NamedTuple):
    """Checked, cast and split rows; fields as in `cfdg_jax.data.dataset.Dataset`."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminals: np.ndarray
    ends: np.ndarray
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def refuse_bad(arrays: Mapping[str, np.ndarray], file: str, clip_actions: bool = False) -> dict[str, np.ndarray]:
    """`arrays` with flags as bool and rewards and flags flattened to `[N]`.

    Args:
      arrays: By the names of D4RL's layout.
      file: What messages call them.
      clip_actions: Whether actions outside [-1, 1] are clipped to it, not refused.

    Raises:
      UserError: naming `file`, the key, the first bad row and the remedy: a missing key, wrong shapes or types,
        no rows, NaN or infinite values, flags other than 0 and 1, actions outside [-1, 1].
    """
    for key in REQUIRED:
        hint = f"found {', '.join(sorted(arrays)[:8]) or 'nothing'}; D4RL's layout is needed"
        if any(name.startswith("episode_") for name in arrays):
            hint = "this is Minari's layout, load it by its minari: name"
        elif key == "rewards" and "qpos" in arrays:
            hint = "if this is OGBench's layout: cfdg-jax data convert ogbench:FILE.npz DST"
        require(key in arrays, f"{file}: {key}", "is missing", hint)
    checked = {key: np.asarray(arrays[key]) for key in (*REQUIRED, *OPTIONAL) if key in arrays}
    rows = len(checked["observations"]) if checked["observations"].ndim else 0
    for key, value in checked.items():
        checked[key] = _refuse_shape(key, value, rows, file)
    require(rows > 0, file, "holds no rows", "record or download it again")
    if "next_observations" in checked:
        have, want = checked["next_observations"].shape, checked["observations"].shape
        require(have == want, f"{file}: next_observations", f"has shape {have}", f"must be {want} like observations")
    for key in ("terminals", "timeouts"):
        if key in checked:
            checked[key] = _flags(key, checked[key], file)
    for key in ("observations", "actions", "rewards", "next_observations"):
        if key in checked:
            _refuse_non_finite(key, checked[key], file)
    if clip_actions:
        checked["actions"] = np.clip(checked["actions"], -1, 1)
    refuse_outside(checked["actions"], file)
    return checked


def refuse_outside(actions: np.ndarray, file: str, first: int = 0) -> None:
    """Refuses actions `[n, A]` outside [-1, 1]; `first` is the number of the first row."""
    low, high = float(actions.min()), float(actions.max())
    if max(-low, high) > 1 + ACTION_TOLERANCE:
        row = first + int(np.argmax((np.abs(actions) > 1 + ACTION_TOLERANCE).any(axis=1)))
        raise UserError(
            f"{file}: actions",
            f"range over [{low:.4g}, {high:.4g}], first outside [-1, 1] in row {row}",
            "clip or rescale them to [-1, 1], as the environment received them; "
            "cfdg-jax data convert SRC DST --clip-actions writes a clipped copy",
        )


def _refuse_shape(key: str, value: np.ndarray, rows: int, file: str) -> np.ndarray:
    real = np.issubdtype(value.dtype, np.integer) or np.issubdtype(value.dtype, np.floating) or value.dtype == bool
    require(real, f"{file}: {key}", f"holds {value.dtype} values", "must hold real numbers")
    flat = key in ("rewards", "terminals", "timeouts")
    if flat and value.ndim == 2 and value.shape[1] == 1:
        value = value[:, 0]
    wanted = "[rows]" if flat else "[rows, dimension], flat observations and actions"
    good = value.ndim == (1 if flat else 2) and (flat or value.shape[1] > 0)
    require(good, f"{file}: {key}", f"has shape {value.shape}", f"must be {wanted}")
    require(
        len(value) == rows, f"{file}: {key}", f"has {len(value)} rows but observations has {rows}", "all must agree"
    )
    return value


def _flags(key: str, value: np.ndarray, file: str) -> np.ndarray:
    good = (value == 0) | (value == 1)
    row = int(np.argmin(good))
    require(bool(good.all()), f"{file}: {key}", f"holds {value[row]} in row {row}", "must hold 0 and 1 or booleans")
    return value.astype(bool)


def _refuse_non_finite(key: str, value: np.ndarray, file: str) -> None:
    """Also refuses what overflows float32, the precision of all rows."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(value.astype(np.float32, copy=False))
    good = finite if finite.ndim == 1 else finite.all(axis=1)
    if not good.all():
        row = int(np.argmin(good))
        found = np.atleast_1d(value[row])[~np.atleast_1d(finite[row])][0]
        raise UserError(
            f"{file}: {key}",
            f"holds {found} in row {row} ({int((~good).sum())} such rows)",
            "remove those episodes or record them again",
        )


def to_transitions(arrays: Mapping[str, np.ndarray], goals_go_on: bool = False) -> Transitions:
    """Splits what `refuse_bad` returned into trajectories of ``(s, a, r, s')``.

    With ``next_observations`` every row is kept, and an end that is not labelled shows as a gap between a next
    observation and the following row. Without, next observations are the following rows; a row at a time limit, and
    the last one, have none and are dropped. Terminal rows are always kept: nothing is bootstrapped from them, so where
    their next observation is missing they repeat their own rather than show the next episode's start.

    Args:
      arrays: Checked arrays, `N` rows.
      goals_go_on: Terminals mark steps at a goal after which the recording goes on (AntMaze), so the following row is
        a terminal row's next observation unless it is a time limit too.
    """
    observations = arrays["observations"].astype(np.float32, copy=False)
    terminals = arrays["terminals"]
    timeouts, notes, warnings = _time_limits(arrays, observations, goals_go_on)
    ends = terminals | timeouts
    if "next_observations" in arrays:
        following = arrays["next_observations"].astype(np.float32, copy=False)
        gaps = _gaps(following, observations)
        unlabelled = int((gaps & ~ends[:-1]).sum())
        ends = ends | np.append(gaps, True)
        if unlabelled:
            source = "there are no timeouts" if "timeouts" not in arrays else "they carry neither flag"
            notes.append(f"{unlabelled} episode ends were found where observations jump; {source}")
        keep = np.ones_like(ends)
    else:
        has_next = ~timeouts & (np.ones_like(ends) if goals_go_on else ~terminals)
        has_next[-1] = False
        following = np.where(has_next[:, None], np.roll(observations, -1, axis=0), observations)
        keep = has_next | terminals
        dropped = int((~keep).sum())
        ends[-1] = True
        ends[:-1] |= ends[1:] & ~keep[1:]  # the row before a dropped one now ends the episode
        notes.append(f"next_observations are missing; {dropped} rows without a next observation were dropped")
        if "timeouts" not in arrays:
            notes.append(
                "timeouts are missing too, so time limits are invisible and trajectories end at terminals only"
            )
    if not keep.all():
        observations, following, terminals, ends = (x[keep] for x in (observations, following, terminals, ends))
    actions = np.clip(arrays["actions"][keep].astype(np.float32, copy=False), -ACTION_LIMIT, ACTION_LIMIT)
    rewards = arrays["rewards"][keep].astype(np.float32, copy=False)
    return Transitions(observations, actions, rewards, following, terminals, ends, tuple(notes), tuple(warnings))


def _gaps(following: np.ndarray, observations: np.ndarray) -> np.ndarray:
    """Whether each row but the last is not what the following row goes on from `[N - 1]`; in parts, to save memory."""
    last = len(observations) - 1
    gaps = np.empty(last, bool)
    for first in range(0, last, CHUNK):
        part = slice(first, min(first + CHUNK, last))
        with np.errstate(over="ignore"):
            step = following[part] - observations[part.start + 1 : part.stop + 1]
            gaps[part] = np.linalg.norm(step, axis=1) > GAP
    return gaps


def _time_limits(
    arrays: Mapping[str, np.ndarray], observations: np.ndarray, goals_go_on: bool
) -> tuple[np.ndarray, list[str], list[str]]:
    """Time-outs that end an episode `[N]`, with notes and warnings about the others."""
    terminals = arrays["terminals"]
    timeouts = arrays.get("timeouts", np.zeros_like(terminals))
    notes: list[str] = []
    warnings: list[str] = []
    if goals_go_on:
        return timeouts, notes, warnings
    both = int((terminals & timeouts).sum())
    if both:
        warnings.append(f"{both} rows are terminals and time-outs at once; they are read as terminals")
    elif "next_observations" not in arrays and _goes_on(observations, terminals, timeouts):
        notes.append(
            f"{int(timeouts.sum())} time-outs are no ends: each lies in the same row of its recording, and "
            "observations go on there without the jump of a reset"
        )
        timeouts = np.zeros_like(timeouts)
    return timeouts, notes, warnings


def _goes_on(observations: np.ndarray, terminals: np.ndarray, timeouts: np.ndarray) -> bool:
    """Whether the recordings go on after their time-outs to a terminal, as D4RL's human demonstrations of Adroit do.

    Their time-outs mark the 200th row, the limit of the environment. The evidence asked for: every reset after a
    terminal is a clear jump of the observations, no time-out shows one, all time-outs are the same number of rows away
    from the terminal before, and there are `ENOUGH` of them.
    """
    limits, resets, within = np.flatnonzero(timeouts), terminals[:-1], ~(terminals | timeouts)[:-1]
    if len(limits) < ENOUGH or resets.sum() < ENOUGH or timeouts[-1] or not within.any():
        return False
    last_end = np.maximum.accumulate(np.where(terminals, np.arange(len(terminals)), -1))
    if len(np.unique(limits - last_end[limits])) > 1:
        return False
    scale = observations.std(axis=0, dtype=np.float64) + 1e-6
    steps = np.linalg.norm(np.diff(observations, axis=0) / scale, axis=1)
    largest = steps[within].max()
    return bool(steps[resets].min() > CLEAR_JUMP * largest and steps[limits].max() <= largest)
