"""A whole run: data, pre-training, hand-over, improvement, summary; and reading one back.

rows, spec, transforms <- dataset                     checked, fitted, packed, put on the device once
offline:  pretrain                                    or the agent of another run's pre-training
stratify: prepare_stratifier                          where it has anything to learn
agent.go_online, rings allocated after a printed memory plan
online:   improve
summary.json, samples.npz
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.config import REGISTRIES, TrainConfig, choice, remarks
from cfdg_jax.data.check import check_fits
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.data.returns import ReturnRule
from cfdg_jax.data.transforms import Transforms, fit_transforms
from cfdg_jax.diffusion.likelihood import log_density_of_rows
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.errors import require
from cfdg_jax.fields import config_hash, from_yaml, non_default, to_yaml
from cfdg_jax.training.build import build_program
from cfdg_jax.training.checkpoint import (
    Checkpointer,
    Saved,
    check_offline_agent,
    load_offline_agent,
    save_offline_agent,
)
from cfdg_jax.training.evaluate import run_episodes
from cfdg_jax.training.logging import device_name, truncate_logs, versions, write_atomic, write_summary
from cfdg_jax.training.offline import prepare_stratifier, pretrain
from cfdg_jax.training.online import improve
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.training.refresh import synthetic_rows
from cfdg_jax.training.session import Session, Stopwatch
from cfdg_jax.types import Source

SAMPLE_ROWS = 1_000
"""Rows per origin that ``samples.npz`` keeps for pictures."""


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

    def policy(self) -> Callable[[np.ndarray], np.ndarray]:
        """The trained evaluation policies: raw ``obs [S, ..., O] -> action [S, ..., A]``."""
        program, saved = self.restore()
        phase = saved.meta["phase"]

        def act(obs: np.ndarray) -> np.ndarray:
            observed = jnp.asarray(obs, jnp.float32)
            return np.asarray(program.evaluate_act(saved.state.agent, observed, program.keys, jnp.asarray(0), phase))

        return act

    def log_density(
        self, rows: np.ndarray, source: int = Source.SYNTHETIC_ONLINE, seed: int = 0, **options: Any
    ) -> np.ndarray:
        """Log-density of packed rows under the generator of the newest checkpoint, in nats per unit of volume.

        Args:
          rows: `[n, D]` packed rows in the units of training, such as ``Run.restore()[0].offline_rows``.
          source: Whose density: of the synthetic online or of the synthetic offline rows.
          seed: Position of the seed.
          options: Of `cfdg_jax.diffusion.likelihood.log_density`, such as ``probes`` with a ``key``.

        Returns:
          `[n]`.

        Raises:
          UserError: if the run has no fitted generator, no such source or seed, or diffrax is not installed.
        """
        program, saved = self.restore()
        model, shares = program.augmenter.model, program.augmenter.shares
        fitted = model is not None and bool(saved.state.synthetic)
        require(fitted, str(self.folder), "has no fitted generator", "use a run with --augment after its first refresh")
        known = ", ".join(f"{Source(kind).name} ({int(kind)})" for kind in shares)
        require(source in shares, "source", f"is {int(source)}", f"valid for this run: {known}")
        require(0 <= seed < self.config.seeds, "seed", f"is {seed}", f"must lie between 0 and {self.config.seeds - 1}")
        assert model is not None
        of_seed = model(jax.tree.map(lambda leaf: leaf[seed], saved.state.generator), int(source))
        columns = of_seed.columns(jnp.asarray(rows))
        return np.asarray(log_density_of_rows(of_seed.denoise, of_seed.normaliser, columns, **options))

    def restore(self, number: int | None = None) -> tuple[Program, Saved]:
        """The run's program and its newest checkpoint, or checkpoint `number` if it was kept."""
        program, _ = prepare(self.config, Progress(False), Stopwatch())
        checkpointer = Checkpointer(self.folder, self.config.checkpoint.keep)
        try:
            return program, checkpointer.restore(program, number)
        finally:
            checkpointer.close()


def evaluate(run: Run | str | os.PathLike, episodes: int | None = None) -> dict[str, np.ndarray | None]:
    """Evaluates the newest checkpoint of a run on fresh environments.

    Args:
      run: A run or its folder.
      episodes: Per seed; the config's number by default.

    Returns:
      ``return``, ``normalized_score`` (None without a reference), ``success`` and ``length``, each `[S, E]`.
    """
    run = run if isinstance(run, Run) else load_run(run)
    program, saved = run.restore()
    return run_episodes(program, saved.state.agent, saved.meta["phase"], saved.meta["step"], Progress(False), episodes)


def _transforms(config: TrainConfig, dataset: Dataset | None, obs_dim: int) -> Transforms:
    rule = config.transform
    return fit_transforms(dataset, rule.reward, rule.observation, (rule.scale, rule.bias), rule.online_reward, obs_dim)


def prepare(config: TrainConfig, progress: Progress, clock: Stopwatch) -> tuple[Program, TrainConfig]:
    """Loads the data and builds the program; returns the config with environment and dynamics resolved."""
    with clock("data"):
        dynamics = config.env.dynamics
        if config.dataset == "":
            config = _with_env(config, config.env.task, "gymnasium" if dynamics == "auto" else dynamics)
            spec = spec_of(config.env.task, config.env.dynamics)
            rows = np.zeros((0, spec.layout.width), np.float32)
            return build_program(config, spec, _transforms(config, None, spec.obs_dim), rows), config
        dataset = load_dataset(config.dataset, progress=progress.shown)
        task = config.env.task or dataset.task
        require(bool(task), "env.task", f"{config.dataset} names no environment", "set it, such as --env.task hopper")
        config = _with_env(config, task, dataset.dynamics if dynamics == "auto" else dynamics)
        spec = spec_of(config.env.task, config.env.dynamics)
        check_fits(dataset, spec, config.env.task)
        given, discount = config.transform, getattr(config.agent, "discount", 0.99)
        rule = ReturnRule(discount, given.failure_reward, given.failure_rule, given.truncation)
        transforms = _transforms(config, dataset, spec.obs_dim)
        return build_program(config, spec, transforms, pack(dataset, transforms, rule)), config


def _with_env(config: TrainConfig, task: str, dynamics: Any) -> TrainConfig:
    return dataclasses.replace(config, env=dataclasses.replace(config.env, task=task, dynamics=dynamics))


def train(
    config: TrainConfig | None = None,
    out: str | os.PathLike | None = None,
    *,
    resume: str | os.PathLike | None = None,
    offline_from: str | os.PathLike | None = None,
    progress: bool = True,
) -> Run:
    """Trains all seeds of `config` in one process and writes a run folder.

    Args:
      config: The run; made by `cfdg_jax.make_config`. Not given when resuming.
      out: The run folder; must be absent or empty. Default: ``runs/<dataset>-<label>-<hash>``.
      resume: A run folder to continue from its newest complete checkpoint, bit for bit on CPU.
      offline_from: A run folder whose finished pre-training this run starts from, instead of its own.
      progress: Whether to show bars and one line per evaluation on stderr.

    Raises:
      UserError: for bad configs, data or folders, before anything is written.
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
    """
    bars, clock, interrupts = Progress(progress), Stopwatch(), Interrupts()
    if resume is not None:
        folder = pathlib.Path(resume)
        config = read_config(folder)
    else:
        require(config is not None, "config", "is missing", "give a TrainConfig or a folder to resume")
        assert config is not None
        folder = pathlib.Path(out) if out else default_folder(config)
        _refuse_used(folder)
    with interrupts.watching():
        program, config = prepare(config, bars, clock)
        memory_plan(program, bars)
        for remark in remarks(config):
            bars.warn(f"warning: {remark}")
        if config.dataset and config.offline.steps == 0:
            bars.say(f"no pre-training; batches mix {config.dataset} with online rows ({choice(config, 'mix')})")
        if offline_from is not None:
            check_offline_agent(pathlib.Path(offline_from), config)
        if resume is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / "config.yaml", to_yaml(config))
        checkpointer = Checkpointer(folder, config.checkpoint.keep)
        try:
            session = _session(program, folder, checkpointer, bars, interrupts, resume is not None, clock)
            _run_phases(session, pathlib.Path(offline_from) if offline_from else None)
        finally:
            checkpointer.close()
    return load_run(folder)


def _session(
    program: Program,
    folder: pathlib.Path,
    checkpointer: Checkpointer,
    bars: Progress,
    interrupts: Interrupts,
    resume: bool,
    clock: Stopwatch,
) -> Session:
    if resume and checkpointer.numbers():
        saved: Saved = checkpointer.restore(program)
        truncate_logs(folder, saved.meta["offsets"])
        bars.say(f"resuming {folder}: {saved.meta['phase']} step {saved.meta['step']}")
        return Session(program, folder, saved.state, checkpointer, bars, interrupts, saved)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (folder / name).unlink(missing_ok=True)  # a run killed before its first checkpoint begins again
    state = program.init("offline")
    session = Session(program, folder, state, checkpointer, bars, interrupts)
    session.clock = Stopwatch(clock.totals)
    return session


def _run_phases(session: Session, offline_from: pathlib.Path | None) -> None:
    program, config = session.program, session.program.config
    try:
        summarise(session, "running")
        if session.phase == "offline":
            if offline_from is not None:
                session.state = session.state._replace(agent=load_offline_agent(offline_from, program))
                _copy_offline_lines(offline_from, session)
            elif config.offline.steps > 0:
                pretrain(session)
            save_offline_agent(session.folder, session.state)
            if config.online.steps > 0:
                session.start_phase("stratify", session.state)
        if session.phase == "stratify":
            prepare_stratifier(session)
            scratch = config.offline.steps == 0 and offline_from is None
            state = program.init("online") if scratch else program.go_online(session.state)
            session.start_phase("online", state._replace(stratifier=session.state.stratifier))
        if session.phase == "online":
            improve(session)
        save_samples(session)
        summarise(session, "done")
    except Interrupted:
        summarise(session, "interrupted")
        raise
    finally:
        session.logger.close()


def _copy_offline_lines(source: pathlib.Path, session: Session) -> None:
    """The borrowed pre-training's evaluations belong to this run's curve too."""
    for line in (source / "evaluations.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        phase, step = values.pop("phase"), values.pop("step")
        values.pop("seconds")
        if phase == "offline":
            to_array = {name: None if value is None else np.asarray(value) for name, value in values.items()}
            session.logger.evaluation(phase, step, to_array)


def summarise(session: Session, status: str) -> None:
    """Writes ``summary.json`` as of now."""
    config, program = session.program.config, session.program
    summary = {
        "status": status,
        "label": config.name,
        "dataset": config.dataset,
        "task": config.env.task,
        "dynamics": config.env.dynamics,
        "choices": {field: choice(config, field) for field in REGISTRIES},
        "non_default": non_default(config),
        "seeds": [config.first_seed + i for i in range(config.seeds)],
        "phase": session.phase,
        "step": session.step,
        "last_return": session.last_return,
        "failed_seeds": session.failed,
        "offline_rows": int(program.offline_rows.shape[0]),
        "seconds": session.clock.totals,
        "device": device_name(),
        "versions": versions(),
        "config_hash": config_hash(config),
        "command": " ".join(sys.argv),
    }
    write_summary(session.folder, summary)


def save_samples(session: Session) -> None:
    """Writes ``samples.npz``: `SAMPLE_ROWS` evenly spaced rows per origin of the first seed, for pictures."""
    layout, state = session.program.spec.layout, session.state
    width = layout.generative_width(True)

    def thin(rows, size: int) -> np.ndarray:
        index = np.unique(np.linspace(0, max(size - 1, 0), min(SAMPLE_ROWS, size)).astype(int))
        return np.asarray(rows[jnp.asarray(index)])[:, :width] if size else np.zeros((0, width), np.float32)

    samples = {"offline": thin(session.program.offline_rows, session.program.offline_rows.shape[0])}
    samples["online"] = thin(state.online.rows[0], int(state.online.size))
    for source, buffer in state.synthetic.items():
        samples[Source(source).name.lower()] = thin(buffer.rows[0], int(buffer.size))
    arrays: dict[str, Any] = samples | {"obs_dim": np.asarray(layout.obs_dim), "act_dim": np.asarray(layout.act_dim)}
    np.savez_compressed(session.folder / "samples.npz", **arrays)


def memory_plan(program: Program, progress: Progress) -> dict[str, float]:
    """Says what the run will hold, in MB, and refuses a plan that does not fit.

    Raises:
      UserError: if the buffers alone exceed what the device has, with what to make smaller.
    """
    config, row = program.config, program.spec.layout.width * 4 / 1e6
    online = config.online.capacity if config.online.steps else 1
    generated = sum(synthetic_rows(program).values()) if config.online.steps else 0
    plan = {
        "offline rows, shared": program.offline_rows.shape[0] * row,
        "online rings": config.seeds * online * row,
        "synthetic rings": 2 * config.seeds * generated * row,  # the old and the new during a refresh
        "one dispatch": config.seeds * max(config.offline.updates_per_call, 1) * config.mix.batch_size * row * 2,
    }
    if config.online.steps:
        fields = jax.tree.leaves(jax.eval_shape(lambda: program.init("online").stratifier))
        plan["stratifier"] = sum(leaf.size * leaf.dtype.itemsize for leaf in fields) / 1e6
    total, available = sum(plan.values()), _available_mb()
    parts = ", ".join(f"{name} {value:,.0f} MB" for name, value in plan.items() if value >= 0.5)
    progress.say(f"memory plan: {parts}; {total:,.0f} MB of {available:,.0f} MB available")
    require(
        total < 0.9 * available,
        "memory",
        f"the plan needs {total:,.0f} MB and {available:,.0f} MB are available",
        "use fewer --seeds, a smaller --online.capacity or fewer --refresh.rows",
    )
    return plan


def _available_mb() -> float:
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) / 1e6
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6


def default_folder(config: TrainConfig) -> pathlib.Path:
    """``runs/<dataset>-<label>-<hash>`` in the working directory."""
    name = f"{config.dataset or config.env.task}-{config.name}-{config_hash(config)}"
    return pathlib.Path("runs") / "".join(c if c.isalnum() or c in "-." else "_" for c in name)


def _refuse_used(folder: pathlib.Path) -> None:
    require(not folder.exists() or folder.is_dir(), str(folder), "is a file", "name a folder with --out")
    used = folder.is_dir() and any(folder.iterdir())
    require(not used, str(folder), "is not empty", f"continue it with --resume {folder} or name another --out")


def read_config(folder: pathlib.Path) -> TrainConfig:
    """The resolved config of a run folder.

    Raises:
      UserError: if there is none or it was edited.
    """
    path = folder / "config.yaml"
    require(path.is_file(), str(folder), "is no run folder (no config.yaml)", "name a folder that a run wrote")
    text = path.read_text(encoding="utf-8")
    config = from_yaml(text, str(path))
    recorded = text.split("\n", 1)[0].removeprefix("hash:").strip().strip("'\"")
    require(
        recorded == config_hash(config),
        str(path),
        f"was changed since the run began (hash {recorded}, values give {config_hash(config)})",
        "restore it, or start a new run with the new values",
    )
    return config


def load_run(folder: str | os.PathLike) -> Run:
    """Reads a run folder.

    Raises:
      UserError: if it is none.
    """
    path = pathlib.Path(folder)
    config = read_config(path)
    summary_file = path / "summary.json"
    summary = json.loads(summary_file.read_text(encoding="utf-8")) if summary_file.is_file() else {}
    return Run(path, config, summary)
