"""A whole run: data, pre-training, hand-over, improvement, summary.

rows, spec, transforms <- dataset                     checked, fitted, packed, put on the device once
offline:  pretrain                                    or the agent of another run's pre-training
stratify: prepare_stratifier                          where it has anything to learn
agent.go_online, rings allocated after a printed memory plan
online:   improve
summary.json, samples.npz
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from cfdg_jax.config import TrainConfig, choice, remarks
from cfdg_jax.core.machine import cores
from cfdg_jax.errors import require
from cfdg_jax.fields import config_hash, from_dict, from_yaml, to_dict, to_yaml
from cfdg_jax.training import store
from cfdg_jax.training.build import load_program
from cfdg_jax.training.checkpoint import (
    Checkpointer,
    agent_place,
    check_offline_agent,
    copies_of,
    load_offline_agent,
    save_offline_agent,
    telling_what_is_kept,
)
from cfdg_jax.training.drivers import environment_remarks
from cfdg_jax.training.lock import only_process
from cfdg_jax.training.logging import truncate_logs, write_atomic
from cfdg_jax.training.memory import memory_plan
from cfdg_jax.training.offline import prepare_stratifier, pretrain
from cfdg_jax.training.online import improve
from cfdg_jax.training.origin import (
    Origin,
    Source,
    origin_of,
    read_origin,
    require_same_data,
    write_origin,
)
from cfdg_jax.training.prepare import go_online, init
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.training.results import Run, load_run, read_config, save_samples, summarise
from cfdg_jax.training.session import Session
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.training.untouched import begin_anew, claimed, refuse_used


def train(
    config: TrainConfig | None = None,
    out: str | os.PathLike | None = None,
    *,
    resume: str | os.PathLike | None = None,
    offline_from: str | os.PathLike | None = None,
    devices: str | None = None,
    progress: bool = True,
) -> Run:
    """Trains all seeds of `config` in one process and writes a run folder.

    Args:
      config: The run; made by `cfdg_jax.make_config`. Not given when resuming.
      out: The run folder; must be absent or empty. Default: ``runs/<dataset>-<label>-<hash>``.
      resume: A run folder to continue from its newest whole checkpoint, bit for bit on CPU with as many cores.
      offline_from: A run folder whose finished pre-training this run starts from, instead of its own.
      devices: Instead of the config's: a run may go on with others than it began with.
      progress: Whether to show bars and one line per evaluation on stderr.

    Raises:
      UserError: for bad configs, data or folders, before anything is written; or if another process runs in the folder.
      TooLarge: a `UserError`, if memory does not hold the run; `cfdg_jax.sweep.sweep` makes it in groups of its seeds.
      Interrupted: after a checkpoint, if SIGINT or SIGTERM arrived.
      KeyboardInterrupt: at once, if a second one did; its text says what is kept.
      OSError: naming the file, if something cannot be written; what was complete is kept.
    """
    on = "is set, and single precision is all this package is tested in"
    require(jnp.zeros(0, float).dtype == np.float32, "JAX_ENABLE_X64", on, "unset it")
    bars, interrupts = Progress(progress), Interrupts()
    source = pathlib.Path(offline_from) if offline_from is not None else None
    with interrupts.watching():
        if resume is not None:
            folder = pathlib.Path(resume)
            config = read_config(folder, devices)
            with telling_what_is_kept(folder), only_process(folder):
                _run_phases(_continued(folder, config, source, bars, interrupts))
        else:
            require(config is not None, "config", "is missing", "give a TrainConfig or a folder to resume")
            assert config is not None
            plain = to_dict(config) | {"devices": devices or config.devices}
            config = from_dict(plain)  # NumPy's numbers become Python's
            folder = pathlib.Path(out) if out else default_folder(config)
            refuse_used(folder)
            with telling_what_is_kept(folder), claimed(folder):
                _run_phases(_new(folder, config, source, bars, interrupts))
    return load_run(folder)


def _new(
    folder: pathlib.Path, config: TrainConfig, source: pathlib.Path | None, bars: Progress, interrupts: Interrupts
) -> Session:
    """A session at its beginning; the folder holds config and origin from here on."""
    clock = Stopwatch()
    program = load_program(config, bars, clock)
    config = program.config
    memory_plan(program, bars)
    for remark in (*remarks(config), *environment_remarks(program)):
        bars.warn(f"warning: {remark}")
    if config.dataset and config.offline.steps == 0:
        bars.say(f"no pre-training; batches mix {config.dataset} with online rows ({choice(config, 'mix')})")
    origin = origin_of(program, source_of(source, config))
    write_origin(folder, origin)
    write_atomic(folder / "config.yaml", to_yaml(config))
    return _begin(folder, program, origin, bars, interrupts, clock)


def _begin(
    folder: pathlib.Path, program: Program, origin: Origin, bars: Progress, interrupts: Interrupts, clock: Stopwatch
) -> Session:
    checkpointer = Checkpointer(folder, program.config.checkpoint.keep)
    session = Session(program, folder, origin, init(program, "offline"), checkpointer, bars, interrupts)
    session.clock = clock
    return session


def source_of(folder: pathlib.Path | None, config: TrainConfig) -> Source | None:
    """What is recorded of another run's pre-training.

    Raises:
      UserError: if a run of `config` cannot start from it.
    """
    if folder is None:
        return None
    check_offline_agent(folder, config)
    of_source = from_yaml((folder / "config.yaml").read_text(encoding="utf-8"), str(folder / "config.yaml"))
    return Source(str(folder.resolve()), config_hash(of_source), _seal(folder))


def _seal(folder: pathlib.Path) -> str:
    try:
        return store.read_about(agent_place(folder))[1]
    except store.Damaged as damage:
        require(False, str(agent_place(folder)), f"is damaged ({damage})", "restore it, or pre-train again")
        raise


def _continued(
    folder: pathlib.Path, config: TrainConfig, source: pathlib.Path | None, bars: Progress, interrupts: Interrupts
) -> Session:
    """The session of the newest whole checkpoint; nothing is changed before all that it needs is found whole."""
    clock, origin = Stopwatch(), read_origin(folder)
    if source is not None:
        same = origin.offline_from is not None and _seal(source) == origin.offline_from.agent
        require(same, "--from-offline", "cannot change on --resume", "leave it out: the run knows what it started from")
    program = load_program(config, bars, clock, origin.transforms)
    require_same_data(origin, program, folder)
    memory_plan(program, bars)
    if origin.cores != cores():
        what = f"this run began on {origin.cores} cores and goes on with {cores()}"
        bars.warn(f"warning: {what}; its numbers will differ by rounding from those of an unbroken run")
    checkpointer = Checkpointer(folder, config.checkpoint.keep)
    if not checkpointer.numbers():
        begin_anew(folder, config, origin)
        return _begin(folder, program, origin, bars, interrupts, clock)
    found = checkpointer.whole(config, bars.warn)
    saved = checkpointer.restored(program, found)
    truncate_logs(folder, saved.record.logs)
    checkpointer.set_aside(found.passed)
    bars.say(f"resuming {folder}: {saved.record.phase} step {saved.record.step}")
    return Session(program, folder, origin, saved.state, checkpointer, bars, interrupts, saved)


def _run_phases(session: Session) -> None:
    with _summarised(session):
        if session.phase == "offline":
            _offline(session)
        if session.phase == "stratify":
            prepare_stratifier(session)
            _hand_over(session)
        if session.phase == "online":
            improve(session)
        save_samples(session)


@contextlib.contextmanager
def _summarised(session: Session) -> Iterator[None]:
    """Says in ``summary.json`` how the run stands, however the block ends."""
    try:
        session.summarise = lambda: summarise(session, "running")
        session.summarise()
        yield
        summarise(session, "done")
    except Interrupted:
        summarise(session, "interrupted")
        raise
    except Exception as error:
        with contextlib.suppress(OSError):
            summarise(session, "failed", error)
        raise
    finally:
        session.logger.close()


def _offline(session: Session) -> None:
    """Pre-training, the run's own or another's."""
    program, config, source = session.program, session.program.config, session.origin.offline_from
    if source is not None:
        folder = pathlib.Path(source.folder)
        session.state = session.state._replace(agent=load_offline_agent(folder, program, source.agent))
        _copy_offline_lines(folder, session)
    elif config.offline.steps > 0:
        pretrain(session)
    save_offline_agent(session.folder, session.state.agent, config)
    if config.online.steps > 0:
        session.start_phase("stratify", session.state)
        if program.stratifier.stages:
            session.checkpoint()


def _hand_over(session: Session) -> None:
    """From the offline agent to the online one; an agent that was never pre-trained begins as an online one."""
    program, state = session.program, session.state
    scratch = program.config.offline.steps == 0 and session.origin.offline_from is None
    online = init(program, "online") if scratch else go_online(program, state)
    session.start_phase("online", online._replace(stratifier=state.stratifier))


def _copy_offline_lines(source: pathlib.Path, session: Session) -> None:
    """The borrowed pre-training's evaluations belong to this run's curve too, to that of every value of an axis."""
    copies = copies_of(source, session.program.config)
    of_lanes = lambda values: np.concatenate([np.asarray(values)] * copies)
    for line in (source / "evaluations.jsonl").read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        phase, step = values.pop("phase"), values.pop("step")
        values.pop("seconds")
        if phase == "offline":
            to_array = {name: None if value is None else of_lanes(value) for name, value in values.items()}
            session.logger.evaluation(phase, step, to_array)


def default_folder(config: TrainConfig) -> pathlib.Path:
    """``runs/<dataset>-<label>-<hash>`` in the working directory."""
    name = f"{config.dataset or config.env.task}-{config.name}"
    return pathlib.Path("runs") / folder_name(name, config_hash(config))


def folder_name(name: str, end: str) -> str:
    """``<name>-<end>`` as the name of a folder: visible, of plain characters, and short enough for any file system."""
    visible = "".join(c if c.isalnum() or c in "-." else "_" for c in name)
    while len(visible.encode()) > 150:  # the end of a path says more than its beginning
        visible = visible[1:]
    return f"{visible.lstrip('._-')}-{end}"
