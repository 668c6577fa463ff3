"""``minari:`` datasets, through the minari package alone, converted once to D4RL's flat layout.

Minari's environments are not D4RL's even where names look alike, so their numbers share no table, and there is a
normalised score only where the environment is one of D4RL's.
"""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cfdg_jax.data.files import PathLike, cache_dir, is_offline, locked, record_sha256
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.errors import UserError, require


def convert(dataset_id: str, *, data_dir: PathLike | None = None, allowed: bool = True) -> pathlib.Path:
    """The flat file of a Minari dataset, written on first use to ``<data folder>/minari/``.

    Args:
      dataset_id: Such as ``mujoco/hopper/medium-v0``; looked up as the minari package does (``MINARI_DATASETS_PATH``).
      data_dir: See `cache_dir`.
      allowed: Whether minari may download it; ``CFDG_OFFLINE`` forbids it as well.

    Raises:
      UserError: if minari is not installed, the dataset cannot be had, or its spaces are not flat numbers.
    """
    path = cache_dir(data_dir) / "minari" / f"{dataset_id.replace('/', '--')}.hdf5"
    if path.exists():  # before the lock, which a read-only folder would refuse
        return path
    with locked(path):
        if not path.exists():
            dataset = _load(dataset_id, allowed and not is_offline())
            write_hdf5(path, _flatten(dataset, dataset_id), _describe(dataset, dataset_id))
            record_sha256(path)
    return path


def _load(dataset_id: str, download: bool) -> Any:
    name = f"minari:{dataset_id}"
    try:
        import minari
    except ImportError:
        raise UserError(name, "needs the minari package", "install it with: pip install 'cfdg-jax[minari]'") from None
    try:
        return minari.load_dataset(dataset_id, download=download)
    except Exception as error:  # minari raises many kinds, plain Exception from its hosts among them
        here = minari.list_local_datasets()
        close = difflib.get_close_matches(dataset_id, here, n=3, cutoff=0.5)
        remedy = f"did you mean {', '.join(close)}?" if close else f"on this machine: {', '.join(here) or 'none'}"
        if not download:
            remedy += "; downloads are off"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(name, f"cannot be loaded ({reason})", remedy) from None


def _flatten(dataset: Any, dataset_id: str) -> dict[str, np.ndarray]:
    """All episodes after one another; dict observations are joined in the order of their space."""
    space, action_space = dataset.observation_space, dataset.action_space
    observe = lambda obs: _join(obs, space, dataset_id)
    columns: dict[str, list[np.ndarray]] = {}
    for episode in dataset.iterate_episodes():
        obs, terminals = observe(episode.observations), np.asarray(episode.terminations, bool)
        fields = {
            "observations": obs[:-1],
            "next_observations": obs[1:],
            "actions": _to_unit(np.asarray(episode.actions), action_space, dataset_id),
            "rewards": np.asarray(episode.rewards),
            "terminals": terminals,
            "timeouts": np.asarray(episode.truncations, bool) & ~terminals,
        }
        if len(terminals):
            fields["timeouts"][-1] |= not terminals[-1]  # an episode that just stops was cut
        for field, value in fields.items():
            columns.setdefault(field, []).append(value)
    require(bool(columns), f"minari:{dataset_id}", "holds no episodes", "choose another dataset")
    return {field: np.concatenate(values) for field, values in columns.items()}


def _join(obs: Any, space: Any, dataset_id: str) -> np.ndarray:
    if isinstance(obs, Mapping):
        return np.concatenate([_join(obs[key], space[key], dataset_id) for key in space.spaces], axis=1)
    obs = np.asarray(obs)
    flat = obs.ndim in (1, 2) and np.issubdtype(obs.dtype, np.number)
    require(flat, f"minari:{dataset_id}", f"has observations of shape {obs.shape[1:]}", "flat numbers are needed")
    return obs.reshape(len(obs), -1)


def _to_unit(actions: np.ndarray, space: Any, dataset_id: str) -> np.ndarray:
    """Actions from their Box to [-1, 1], as the Gymnasium bridge maps them back."""
    bounded = hasattr(space, "low") and np.isfinite(space.low).all() and np.isfinite(space.high).all()
    require(bounded, f"minari:{dataset_id}", f"has actions in {space}", "a bounded Box is needed")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return (2.0 * (actions - low) / (high - low) - 1.0).reshape(len(actions), -1).astype(np.float32)


def _describe(dataset: Any, dataset_id: str) -> dict[str, str]:
    env_id = dataset.env_spec.id if dataset.env_spec is not None else ""
    robot, _, version = env_id.rpartition("-v")
    own = version == "4" and robot.lower() in ("hopper", "halfcheetah", "walker2d", "ant")
    task = robot.lower() if own else f"gym:{env_id}" if env_id else ""
    return {"task": task, "dynamics": "gymnasium", "name": f"minari:{dataset_id}"}
