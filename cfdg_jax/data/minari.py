"""``minari:`` datasets, through the minari package alone, converted to D4RL's flat layout when they are first used.

The flat copy remembers the set it was made from. A set that was recorded again, or another one under the same id, is
converted again. Minari's environments are not D4RL's even where names look alike, so their numbers share no table, and
there is a normalised score only where the environment is one of D4RL's.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.files import PathLike, cache_dir, exists, forget_sha256, is_offline, locked, record_sha256, told
from cfdg_jax.data.hdf5 import read_metadata, write_hdf5
from cfdg_jax.envs.gym_task import task_of_spec
from cfdg_jax.envs.locomotion import ROBOTS
from cfdg_jax.envs.spaces import box
from cfdg_jax.errors import UserError, require

_LAYOUT = 2
"""Raise it when the same set would give another flat copy, so that copies made before are made again."""


def convert(dataset_id: str, *, data_dir: PathLike | None = None, allowed: bool = True) -> pathlib.Path:
    """The flat file of a Minari dataset, written to ``<data folder>/minari/`` when it is first used or has changed.

    Args:
      dataset_id: Such as ``mujoco/hopper/medium-v0``; looked up as the minari package does (``MINARI_DATASETS_PATH``).
      data_dir: See `cache_dir`.
      allowed: Whether minari may download it; ``CFDG_OFFLINE`` forbids it as well.

    Raises:
      UserError: if minari is not installed, the dataset cannot be had, or its spaces are not flat numbers.
    """
    path = cache_dir(data_dir) / "minari" / f"{dataset_id.replace('/', '--')}.hdf5"
    if _is_current(path, dataset_id):  # before the lock, which a read-only folder would refuse
        return path
    with locked(path):
        if not _is_current(path, dataset_id):
            dataset = _load(dataset_id, allowed and not is_offline())
            described = _describe(dataset, dataset_id) | {"source": _source(dataset_id)}
            arrays = _flatten(dataset, dataset_id)
            forget_sha256(path)
            write_hdf5(path, arrays, described)
            record_sha256(path)
    return path


def _is_current(path: pathlib.Path, dataset_id: str) -> bool:
    """Whether the flat copy is of the set that lies in Minari's folder now, or of one that lay there."""
    if not exists(path):
        return False
    folder, digest = _source(dataset_id).rsplit(" ", 1)
    known_folder, _, known = str(read_metadata(path).get("source", "")).rpartition(" ")
    return known_folder == folder and digest in (known, "absent")


def _source(dataset_id: str) -> str:
    """The set's folder and a digest of its files' names, sizes and times, or the word ``absent``."""
    root = os.environ.get("MINARI_DATASETS_PATH") or os.path.join(os.path.expanduser("~"), ".minari", "datasets")
    folder = pathlib.Path(root, dataset_id, "data")
    if not exists(folder):
        return f"{folder} absent"
    with told(folder, "cannot be read", "check its permissions"):
        files = sorted(each for each in folder.rglob("*") if each.is_file())
        states = [(str(each.relative_to(folder)), each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    return f"{folder} {hashlib.sha256(repr((_LAYOUT, states)).encode()).hexdigest()[:16]}"


def _load(dataset_id: str, download: bool) -> Any:
    name = f"minari:{dataset_id}"
    try:
        import minari
    except ImportError:
        raise UserError(name, "needs the minari package", "install it with: pip install 'cfdg-jax[minari]'") from None
    try:
        return minari.load_dataset(dataset_id, download=download)
    except ImportError as error:  # of what the set's format or its server needs
        extra = "'minari[arrow]'" if "arrow" in str(error) else "'cfdg-jax[minari]'"
        raise UserError(name, f"cannot be loaded ({_first_line(error)})", f"pip install {extra}") from None
    except Exception as error:  # minari raises many kinds, plain Exception from its hosts among them
        here = minari.list_local_datasets()
        close = difflib.get_close_matches(dataset_id, here, n=3, cutoff=0.5)
        remedy = f"did you mean {', '.join(close)}?" if close else f"on this machine: {', '.join(here) or 'none'}"
        if not download:
            remedy += "; downloads are off"
        raise UserError(name, f"cannot be loaded ({_first_line(error)})", remedy) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


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
    width = np.where(high > low, high - low, 1.0)
    return (2.0 * (actions - low) / width - 1.0).reshape(len(actions), -1).astype(np.float32)


def _describe(dataset: Any, dataset_id: str) -> dict[str, str]:
    """What the flat file says about itself; ``task`` is the environment as recorded, settings and limit included."""
    task, doubt = "", ""
    if dataset.env_spec is not None:
        try:
            task = task_of_spec(dataset.env_spec)
        except ValueError as error:
            doubt = f"the set was recorded in {error}, which no task id can name; choose one with --env.task"
    robot, _, version = task.rpartition("-v")
    own = version == "4" and robot.lower() in ROBOTS
    task = robot.lower() if own else f"gym:{task}" if task else ""
    described = {"task": task, "dynamics": "gymnasium", "name": f"minari:{dataset_id}"}
    return described | ({"doubt": doubt} if doubt else {})


def write_minari(dataset: Dataset, dataset_id: str) -> None:
    """Creates a Minari dataset; an end that is no terminal is a truncation.

    Raises:
      UserError: if minari is not installed or refuses the name.
    """
    try:
        import minari
        from minari.data_collector.episode_buffer import EpisodeBuffer
    except ImportError:
        remedy = "install it with: pip install 'cfdg-jax[minari]'"
        raise UserError(f"minari:{dataset_id}", "needs the minari package", remedy) from None
    buffers = []
    for i, rows in enumerate(dataset.episodes()):
        terminal, last = dataset.terminals[rows], rows.stop - 1
        cut = np.zeros(len(terminal), bool)
        cut[-1] = not terminal[-1]
        observations = np.concatenate([dataset.observations[rows], dataset.next_observations[last : last + 1]])
        fields = {"actions": dataset.actions[rows], "rewards": dataset.rewards[rows], "terminations": terminal}
        buffers.append(EpisodeBuffer(id=i, observations=observations, truncations=cut, infos={}, **fields))
    try:
        minari.create_dataset_from_buffers(
            dataset_id=dataset_id,
            buffer=buffers,
            algorithm_name=dataset.name,
            observation_space=box(dataset.obs_dim),
            action_space=box(dataset.act_dim, 1.0),
            author="cfdg_jax",
            author_email="nobody@example.org",
            code_permalink="https://example.org",
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"minari:{dataset_id}", f"is refused ({error})", "name it like minari:lab/mine-v0") from error
