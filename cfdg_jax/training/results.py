"""What a run leaves behind: its summary, samples for pictures, and `Run`, which reads a run folder."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.axis import Lane
from cfdg_jax.config import REGISTRIES, TrainConfig, choice
from cfdg_jax.core import ring
from cfdg_jax.diffusion.likelihood import log_density_of_rows
from cfdg_jax.errors import UserError, require, require_run
from cfdg_jax.fields import config_hash, non_default, recorded
from cfdg_jax.training import store
from cfdg_jax.training.act import evaluate_act
from cfdg_jax.training.build import build_program, load_program
from cfdg_jax.training.checkpoint import Checkpointer, Saved, Whole, template
from cfdg_jax.training.devices import devices_of
from cfdg_jax.training.evaluate import run_episodes
from cfdg_jax.training.logging import device_name, versions, write_atomic, write_summary
from cfdg_jax.training.origin import read_origin, require_same_data
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program, keys_of
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.record import Record
from cfdg_jax.training.session import Session
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.types import Source

SAMPLE_ROWS = 1_000
"""Rows per origin that ``samples.npz`` keeps for pictures."""
MOST_LETTERS = 500
"""Of an error that ``summary.json`` keeps."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or interrupted run, read from its folder.

    Attributes:
      folder: Where it lives.
      config: Its resolved config.
      summary: ``summary.json``.
    """

    folder: pathlib.Path
    config: TrainConfig
    summary: dict[str, Any]

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """What the ``S`` entries of every vector are: a seed, at values of ``--vmap``."""
        return tuple(self.config.lanes)

    def policy(self) -> Callable[[np.ndarray], np.ndarray]:
        """The trained evaluation policies: raw ``obs [S, ..., O] -> action [S, ..., A]``. Needs no dataset."""
        return actor(*self.acting())

    def acting(self) -> tuple[Program, Any, Record]:
        """What acts and does not learn: a program without offline rows, the newest agent and where it stands."""
        program, found = self._acting()
        return program, _agent(program, found), found.record

    def log_density(
        self, rows: np.ndarray, source: int = Source.SYNTHETIC_ONLINE, seed: int = 0, **options: Any
    ) -> np.ndarray:
        """Log-density of packed rows under the generator of the newest checkpoint, in nats per unit of volume.

        Args:
          rows: `[n, D]` packed rows in the units of training, such as ``Run.restore()[0].offline_rows``.
          source: Whose density: of the synthetic online or of the synthetic offline rows.
          seed: Position of the seed, of the lane where there is an axis.
          options: Of `cfdg_jax.diffusion.likelihood.log_density`, such as ``probes`` with a ``key``.

        Returns:
          `[n]`.

        Raises:
          UserError: if the run has no fitted generator, no such source or seed, or diffrax is not installed.
        """
        program, found = self._acting()
        model, shares = program.augmenter.model, program.augmenter.shares
        shapes = template(program, found.record).generator
        fitted = model is not None and bool(jax.tree.leaves(shapes))
        require(fitted, str(self.folder), "has no fitted generator", "use a run with --augment after its first refresh")
        known = ", ".join(f"{Source(kind).name} ({int(kind)})" for kind in shares)
        require(source in shares, "source", f"is {int(source)}", f"valid for this run: {known}")
        last = len(self.lanes) - 1
        require(0 <= seed <= last, "seed", f"is {seed}", f"must lie between 0 and {last}")
        assert model is not None
        generator = store.fill(shapes, store.under(found.arrays, "train/generator"), found.place)
        of_seed = model(jax.tree.map(lambda leaf: leaf[seed], generator), int(source))
        columns = of_seed.columns(ring.numbers(jnp.asarray(rows)))
        return np.asarray(log_density_of_rows(of_seed.denoise, of_seed.normaliser, columns, **options))

    def restore(self, number: int | None = None) -> tuple[Program, Saved]:
        """The run's program and its newest whole checkpoint, or checkpoint `number` if it was kept.

        Raises:
          UserError: if no checkpoint is whole, or the dataset has changed since the run began.
        """
        origin = read_origin(self.folder)
        program = load_program(self.config, Progress(False), Stopwatch(), origin.transforms)
        require_same_data(origin, program, self.folder)
        checkpointer = self._checkpointer()
        return program, checkpointer.restored(program, checkpointer.whole(self.config, Progress(False).warn, number))

    def _acting(self) -> tuple[Program, Whole]:
        """A program without offline rows, which acts and does not learn, and the newest whole checkpoint."""
        origin = read_origin(self.folder)
        none = np.zeros((0, origin.spec.layout.width), np.float32)
        program = build_program(self.config, origin.spec, origin.transforms, none, acts_only=True)
        return program, self._checkpointer().whole(self.config, Progress(False).warn)

    def _checkpointer(self) -> Checkpointer:
        return Checkpointer(self.folder, self.config.checkpoint.keep)


def _agent(program: Program, found: Whole) -> Any:
    """The agent's state in a checkpoint."""
    shapes = jax.eval_shape(lambda: init(program, found.record.phase).agent)
    return store.fill(shapes, store.under(found.arrays, "train/agent"), found.place)


def actor(program: Program, agent: Any, record: Record) -> Callable[[np.ndarray], np.ndarray]:
    """The evaluation policies of what `Run.acting` returned: raw ``obs [S, ..., O] -> action [S, ..., A]``."""
    keys = keys_of(program)

    def act(obs: np.ndarray) -> np.ndarray:
        observed = jnp.asarray(obs, jnp.float32)
        return np.asarray(evaluate_act(program, agent, observed, keys, jnp.asarray(0), record.phase))

    return act


def evaluate(run: Run | str | os.PathLike, episodes: int | None = None) -> dict[str, np.ndarray | None]:
    """Evaluates the newest whole checkpoint of a run on fresh environments. Needs no dataset.

    Args:
      run: A run or its folder.
      episodes: Per seed; the config's number by default.

    Returns:
      ``return``, ``normalized_score`` (None without a reference), ``success`` and ``length``, each `[S, E]`; NaN, the
      length aside, for seeds that training lost: what their policies do means nothing.
    """
    run = run if isinstance(run, Run) else load_run(run)
    program, agent, record = run.acting()
    scores = run_episodes(program, agent, record.phase, record.step, Progress(False), episodes)
    lost = np.array([lane.name in record.failed for lane in run.lanes])[:, None]
    whole = lambda name, x: x if x is None or name == "length" else np.where(lost, np.nan, x)
    return {name: whole(name, values) for name, values in scores.items()}


def summarise(session: Session, status: str, error: Exception | None = None) -> None:
    """Writes ``summary.json`` as of now, with the `error` that ended the run, if any, on one line."""
    config, program = session.program.config, session.program
    summary = {
        "status": status,
        "label": config.name,
        "dataset": config.dataset,
        "task": config.env.task,
        "dynamics": config.env.dynamics,
        "choices": {field: choice(config, field) for field in REGISTRIES},
        "non_default": non_default(config),
        "seeds": [lane.seed for lane in config.lanes],
        "lanes": [dict(lane.values) for lane in config.lanes] if config.vmap else None,
        "phase": session.phase,
        "step": session.step,
        "last_return": session.last_return,
        "failed_seeds": session.failed,
        "offline_rows": int(program.offline_rows.shape[0]),
        "seconds": session.clock.totals,
        "device": device_name(),
        "devices": devices_of(program.mesh)[0],
        "versions": versions(),
        "config_hash": config_hash(config),
        "command": shlex.join(sys.argv),
        "error": error and " ".join(f"{type(error).__name__}: {error}".split())[:MOST_LETTERS],
    }
    optional = ("lanes", "error")
    write_summary(session.folder, {name: value for name, value in summary.items() if name not in optional or value})


def save_samples(session: Session) -> None:
    """Writes ``samples.npz``: `SAMPLE_ROWS` evenly spaced rows per origin of the first seed, for pictures."""
    layout, state = session.program.spec.layout, session.state
    width = layout.mc_return

    def thin(rows, size: int) -> np.ndarray:
        """Of the first seed's ring, or of rows that all share; never a copy of them."""
        index = np.unique(np.linspace(0, max(size - 1, 0), min(SAMPLE_ROWS, size)).astype(int))
        place: Any = index if rows.ndim == 2 else (0, index)
        return np.asarray(ring.take(rows, place))[:, :width] if size else np.zeros((0, width), np.float32)

    samples = {"offline": thin(session.program.offline_rows, session.program.offline_rows.shape[0])}
    samples["online"] = thin(state.online.rows, int(state.online.size))
    for source, buffer in state.synthetic.items():
        samples[Source(source).name.lower()] = thin(buffer.rows, int(buffer.size))
    dims = {"obs_dim": np.asarray(layout.obs_dim), "act_dim": np.asarray(layout.act_dim)}
    arrays: dict[str, Any] = samples | dims
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_atomic(session.folder / "samples.npz", packed.getvalue())


def read_config(folder: pathlib.Path, devices: str | None = None) -> TrainConfig:
    """The resolved config of a run folder, to be continued on `devices`.

    Raises:
      UserError: if there is none or it was edited.
    """
    path = folder / "config.yaml"
    require_run(folder)
    try:
        config = recorded(path.read_bytes(), str(path))
        return config if devices is None else dataclasses.replace(config, devices=devices)
    except UserError:
        written = read_summary(folder).get("versions", {}).get("cfdg-jax")
        if written not in (None, versions()["cfdg-jax"]):
            store.refuse_version(folder, written)
        raise


def load_run(folder: str | os.PathLike) -> Run:
    """Reads a run folder.

    Raises:
      UserError: if it is none.
    """
    path = pathlib.Path(folder)
    config = read_config(path)
    return Run(path, config, read_summary(path))


def read_summary(folder: pathlib.Path) -> dict[str, Any]:
    """``summary.json``; empty where it is missing or damaged."""
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
