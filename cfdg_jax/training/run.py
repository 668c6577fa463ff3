"""A whole run: data, pre-training, hand-over, improvement, summary.

rows, spec, transforms <- dataset                     checked, fitted, packed, put on the device once
offline:  pretrain                                    or the agent of another run's pre-training
stratify: prepare_stratifier                          where it has anything to learn
agent.go_online, rings allocated after a printed memory plan
online:   improve
summary.json, samples.npz
"""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np

from cfdg_jax.config import TrainConfig, choice, remarks
from cfdg_jax.errors import require
from cfdg_jax.fields import config_hash, to_yaml
from cfdg_jax.training.build import load_program
from cfdg_jax.training.checkpoint import Checkpointer, check_offline_agent, load_offline_agent, save_offline_agent
from cfdg_jax.training.logging import FILES, truncate_logs, write_atomic
from cfdg_jax.training.memory import memory_plan
from cfdg_jax.training.offline import prepare_stratifier, pretrain
from cfdg_jax.training.online import improve
from cfdg_jax.training.prepare import go_online, init
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress, Stopwatch
from cfdg_jax.training.results import Run, load_run, read_config, save_samples, summarise
from cfdg_jax.training.session import Session


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
        program = load_program(config, bars, clock)
        config = program.config
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
        saved = checkpointer.restore(program)
        truncate_logs(folder, saved.record.offsets)
        bars.say(f"resuming {folder}: {saved.record.phase} step {saved.record.step}")
        return Session(program, folder, saved.state, checkpointer, bars, interrupts, saved)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)  # a run killed before its first checkpoint begins again
    state = init(program, "offline")
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
            state = init(program, "online") if scratch else go_online(program, session.state)
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


def default_folder(config: TrainConfig) -> pathlib.Path:
    """``runs/<dataset>-<label>-<hash>`` in the working directory."""
    name = f"{config.dataset or config.env.task}-{config.name}-{config_hash(config)}"
    return pathlib.Path("runs") / "".join(c if c.isalnum() or c in "-." else "_" for c in name)


def _refuse_used(folder: pathlib.Path) -> None:
    require(not folder.exists() or folder.is_dir(), str(folder), "is a file", "name a folder with --out")
    used = folder.is_dir() and any(folder.iterdir())
    require(not used, str(folder), "is not empty", f"continue it with --resume {folder} or name another --out")
