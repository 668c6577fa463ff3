"""Checkpoints through orbax: complete or absent, and enough to continue bit for bit.

What is saved            where
agent, optimisers,       ``train``: the `TrainState`, buffers cut to the rows they hold
generator, buffers
simulators, pending      ``loop``: arrays of the host loop, meters included
actions, episode sums
phase, step, log         ``meta``: a `Record` as JSON
lengths, config hash

Hours of work between two steps, such as a refresh, are kept by `Kept` on the way.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cfdg_jax.config import TrainConfig, get_path
from cfdg_jax.errors import UserError, require
from cfdg_jax.fields import from_yaml
from cfdg_jax.training.generate import start_generator
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program
from cfdg_jax.training.record import Record
from cfdg_jax.types import Buffer, TrainState

DISK_FULL = ("No space left", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE: Error writing", "File too large", "quota")
"""What the messages of a failed write contain when the disk, a quota or a file-size limit is reached."""


@dataclasses.dataclass
class Saved:
    """A restored checkpoint: the state, the loop's arrays ``{name: array}`` and the host's record."""

    state: TrainState
    loop: dict[str, np.ndarray]
    record: Record


class Checkpointer:
    """The checkpoints of one run folder."""

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(
            self._folder / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False),
        )

    def save(self, state: TrainState, loop: Mapping[str, np.ndarray], record: Record) -> None:
        """Writes a checkpoint and returns once it is complete on disk.

        It is synchronous on purpose: the next dispatch donates the very buffers being written.
        """
        latest = self._manager.latest_step()
        number = 0 if latest is None else latest + 1
        record = dataclasses.replace(record, buffers={name: int(b.size) for name, b in _buffers(state).items()})
        args = ocp.args.Composite(
            train=ocp.args.StandardSave(_cut(state)),
            loop=ocp.args.StandardSave({name: np.asarray(value) for name, value in loop.items()}),
            meta=ocp.args.JsonSave(record.to_json()),
        )
        with _room_for(_cut(state), self._folder / "checkpoints"):
            self._manager.save(number, args=args)
            self._manager.wait_until_finished()

    def numbers(self) -> list[int]:
        """The complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def record(self, number: int) -> Record:
        """The host's record of a checkpoint."""
        plain = self._manager.restore(number, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        return Record.from_json(plain, str(self._folder / "checkpoints" / str(number)))

    def restore(self, program: Program, number: int | None = None) -> Saved:
        """Checkpoint `number`, by default the newest, of a run of `program`'s config.

        Raises:
          UserError: if there is none, or if its arrays do not fit the config.
        """
        known = self.numbers()
        if not known or number not in (None, *known):
            raise UserError(str(self._folder), "holds no such complete checkpoint", f"complete ones: {known or 'none'}")
        number = known[-1] if number is None else number
        record = self.record(number)
        template = _template(program, record)
        try:
            items = self._manager.restore(
                number,
                args=ocp.args.Composite(train=ocp.args.StandardRestore(template), loop=ocp.args.StandardRestore()),
            )
        except (ValueError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                str(self._folder),
                f"its checkpoint does not fit its config.yaml ({reason})",
                "restore the original file",
            ) from error
        loop = {name: np.asarray(value) for name, value in items["loop"].items()}
        return Saved(_uncut(items["train"], program, record), loop, record)

    def close(self) -> None:
        self._manager.close()


class Kept:
    """A pytree of arrays that long work moves forward, kept on disk so that a stop costs a minute of it at most.

    Args:
      place: Its folder; complete or absent.
      seconds: Least time between two writes, and never under twenty times what a write takes.
    """

    def __init__(self, place: pathlib.Path, seconds: float = 60.0):
        self.place, self._seconds, self._written = place.resolve(), seconds, time.monotonic()

    def load(self, shapes: Any) -> Any | None:
        """What was kept, of the structure of `shapes`; None if nothing was.

        Raises:
          UserError: if what was kept has other shapes.
        """
        if not self.place.is_dir():
            return None
        with ocp.StandardCheckpointer() as loader:
            try:
                return loader.restore(self.place, shapes)
            except ValueError as error:
                raise UserError(str(self.place), "was kept by a run of other settings", "delete it") from error

    def save(self, tree: Any, now: bool = False) -> None:
        """Writes `tree`, unless it was written a moment ago and not `now`; `OSError` if the disk is full."""
        if not now and time.monotonic() - self._written < self._seconds:
            return
        start = time.monotonic()
        with _room_for(tree, self.place.parent), ocp.StandardCheckpointer() as saver:
            saver.save(self.place, tree, force=True)
        self._written = time.monotonic()
        self._seconds = max(self._seconds, 20.0 * (self._written - start))

    def clear(self) -> None:
        """Forgets what was kept."""
        shutil.rmtree(self.place, ignore_errors=True)


@contextmanager
def _room_for(tree: Any, folder: pathlib.Path) -> Iterator[None]:
    """Raises `OSError` if the disk cannot hold `tree`: before the block writes, or when its writing fails."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + 1_000_000:
        raise full
    try:
        yield
    except ValueError as error:  # tensorstore's way to say that a write failed
        if not any(sign in str(error) for sign in DISK_FULL):
            raise
        raise full from error


def save_offline_agent(folder: pathlib.Path, state: TrainState) -> None:
    """Keeps the agent as it was at the end of pre-training, for runs that start from it."""
    with ocp.StandardCheckpointer() as saver:
        saver.save(folder.resolve() / "checkpoints" / "offline_agent", state.agent, force=True)


def check_offline_agent(folder: pathlib.Path, config: TrainConfig) -> None:
    """Refuses a pre-training that a run of `config` cannot go on from.

    Raises:
      UserError: if the folder has no finished one, or it saw other data or other units.
    """
    found = (folder / "checkpoints" / "offline_agent").is_dir()
    require(found, str(folder), "holds no finished pre-training", "name a run whose offline phase is complete")
    source = from_yaml((folder / "config.yaml").read_text(encoding="utf-8"), str(folder / "config.yaml"))
    units = [f"transform.{field.name}" for field in dataclasses.fields(source.transform)]
    for name in ("dataset", "first_seed", *units):
        here, there = get_path(config, name), get_path(source, name)
        same = here == there or name == "transform.online_reward"
        require(same, name, f"is {here}, and {folder} was pre-trained with {there}", "use the same")


def load_offline_agent(folder: pathlib.Path, program: Program) -> Any:
    """The agent state `save_offline_agent` kept; the config must build the same arrays.

    Raises:
      UserError: if it has other shapes.
    """
    path = folder.resolve() / "checkpoints" / "offline_agent"
    shapes = jax.eval_shape(lambda: init(program, "offline"))
    with ocp.StandardCheckpointer() as loader:
        try:
            return loader.restore(path, shapes.agent)
        except ValueError as error:
            raise UserError(
                str(folder), "its pre-trained agent does not fit this config", "use the same agent, dataset and seeds"
            ) from error


def _buffers(state: TrainState) -> dict[str, Buffer]:
    return {"online": state.online} | {f"synthetic{source}": b for source, b in state.synthetic.items()}


def _cut(state: TrainState) -> TrainState:
    """Rings cut to the rows they hold; orbax wants string keys."""
    cut = lambda b: b._replace(rows=b.rows[:, : max(int(b.size), 1)])
    synthetic: Any = {str(source): cut(b) for source, b in state.synthetic.items()}
    return state._replace(online=cut(state.online), synthetic=synthetic)


def _uncut(state: TrainState, program: Program, record: Record) -> TrainState:
    def uncut(buffer: Buffer, capacity: int) -> Buffer:
        missing = capacity - buffer.rows.shape[1]
        return buffer._replace(rows=jnp.pad(buffer.rows, ((0, 0), (0, missing), (0, 0))))

    capacity = program.config.online.capacity if record.phase == "online" else 1
    synthetic = {int(source): buffer for source, buffer in state.synthetic.items()}
    return state._replace(online=uncut(state.online, capacity), synthetic=synthetic)


def _template(program: Program, record: Record) -> TrainState:
    """The shapes of the saved state, from the config and the recorded buffer sizes."""
    shapes = jax.eval_shape(lambda: init(program, record.phase))
    seeds, width = program.config.seeds, program.spec.layout.width
    counter: Any = jax.ShapeDtypeStruct((), np.int32)

    def rows(size: int) -> Buffer:
        matrix: Any = jax.ShapeDtypeStruct((seeds, max(size, 1), width), np.float32)
        return Buffer(matrix, counter, counter)

    sizes = dict(record.buffers)
    online = rows(sizes.pop("online"))
    synthetic: Any = {name.removeprefix("synthetic"): rows(size) for name, size in sizes.items()}
    shapes = shapes._replace(online=online, synthetic=synthetic)
    if synthetic:
        generator = jax.eval_shape(start_generator.of(program), shapes, shapes.key, program.offline_rows)
        shapes = shapes._replace(generator=generator)
    return shapes
