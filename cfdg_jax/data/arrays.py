"""From the arrays of a file to transitions: what is refused, and where episodes end.

D4RL keeps terminals (the task ended) and timeouts (only the recording did) apart, and so does everything here:
terminals say where not to bootstrap, ``ends`` where trajectories split (docs/algorithms.md, from files to transitions).
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
"""Loaded actions are clipped to this magnitude, for tanh-squashed policies (implicit_q_learning dataset_utils.py)."""
GAP = 1e-6
"""Distance between a next observation and the following row beyond which an episode ended in between (same source)."""


class Transitions(NamedTuple):
    """Checked, cast and split rows; fields as in `cfdg_jax.data.dataset.Dataset`."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: np.ndarray
    terminals: np.ndarray
    ends: np.ndarray
    notes: tuple[str, ...]


def refuse_bad(arrays: Mapping[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """`arrays` with flags as bool and rewards and flags flattened to `[N]`.

    Raises:
      UserError: naming `file`, the key, the first bad row and the remedy: a missing key, wrong shapes or types,
        no rows, NaN or infinite values, flags other than 0 and 1, actions outside [-1, 1].
    """
    for key in REQUIRED:
        hint = f"found {', '.join(sorted(arrays)[:8]) or 'nothing'}; D4RL's layout is needed"
        if any(name.startswith("episode_") for name in arrays):
            hint = "this is Minari's layout, load it by its minari: name"
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
    low, high = float(checked["actions"].min()), float(checked["actions"].max())
    if max(-low, high) > 1 + ACTION_TOLERANCE:
        row = int(np.argmax((np.abs(checked["actions"]) > 1 + ACTION_TOLERANCE).any(axis=1)))
        raise UserError(
            f"{file}: actions",
            f"range over [{low:.4g}, {high:.4g}], first outside [-1, 1] in row {row}",
            "clip or rescale them to [-1, 1], as the environment received them",
        )
    return checked


def _refuse_shape(key: str, value: np.ndarray, rows: int, file: str) -> np.ndarray:
    require(
        np.issubdtype(value.dtype, np.number) or value.dtype == bool,
        f"{file}: {key}",
        f"holds {value.dtype} values",
        "must hold numbers",
    )
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
    terminals, notes = arrays["terminals"], []
    timeouts = arrays.get("timeouts", np.zeros_like(terminals))
    ends = terminals | timeouts
    last = len(ends) - 1
    if "next_observations" in arrays:
        following = arrays["next_observations"].astype(np.float32, copy=False)
        gaps = np.linalg.norm(following[:-1] - observations[1:], axis=1) > GAP
        unlabelled = int((gaps & ~ends[:-1]).sum())
        ends = ends | np.append(gaps, True)
        if unlabelled:
            source = "there are no timeouts" if "timeouts" not in arrays else "they carry neither flag"
            notes.append(f"{unlabelled} episode ends were found where observations jump; {source}")
        keep = np.ones_like(ends)
    else:
        has_next = ~timeouts & (np.ones_like(ends) if goals_go_on else ~terminals)
        has_next[last] = False
        following = np.where(has_next[:, None], np.roll(observations, -1, axis=0), observations)
        keep = has_next | terminals
        dropped = int((~keep).sum())
        ends[last] = True
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
    return Transitions(observations, actions, rewards, following, terminals, ends, tuple(notes))
