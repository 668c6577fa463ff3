"""Checkpoints: complete or absent, proven when read, and enough to continue bit for bit.

What is saved            where
agent, optimisers,       ``train``: the `TrainState`, buffers cut to the rows they hold
generator, buffers
simulators, pending      ``loop``: arrays of the host loop, meters included
actions, episode sums
phase, step, logs,       a `Record`
config hash

Hours of work between two steps, such as a refresh, are kept by `Kept` on the way. Both are folders of
`cfdg_jax.training.store`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.axis import points
from cfdg_jax.config import TrainConfig, choice, get_path
from cfdg_jax.errors import UserError, require
from cfdg_jax.fields import config_hash, from_yaml
from cfdg_jax.training import store
from cfdg_jax.training.generate import start_generator, synthetic_capacity
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program
from cfdg_jax.training.record import Record
from cfdg_jax.types import Buffer, TrainState

Warn = Callable[[str], None]


@dataclasses.dataclass
class Saved:
    """A restored checkpoint: the state, the loop's arrays ``{name: array}`` and the host's record."""

    state: TrainState
    loop: dict[str, np.ndarray]
    record: Record


class Whole(NamedTuple):
    """A checkpoint as read and proven, before it is fitted to a program."""

    place: pathlib.Path
    arrays: dict[str, np.ndarray]
    record: Record
    passed: tuple[pathlib.Path, ...]
    """Newer checkpoints that are damaged."""


class Checkpointer:
    """The numbered checkpoints of one run folder."""

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        self.folder, self._keep = folder / "checkpoints", keep

    def numbers(self) -> list[int]:
        """The complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and path.is_dir())

    def save(self, state: TrainState, loop: Mapping[str, np.ndarray], record: Record) -> None:
        """Writes a checkpoint, returns once it was read back, and removes the oldest.

        It is synchronous on purpose: the next dispatch donates the very buffers being written.

        Raises:
          OSError: if it cannot be written; those before stay.
        """
        known = self.numbers()
        record = dataclasses.replace(record, buffers={name: int(b.size) for name, b in _buffers(state).items()})
        place = self.folder / str(known[-1] + 1 if known else 0)
        store.write(place, {"train": _cut(state), "loop": dict(loop)}, record.to_json())
        for number in known[: len(known) + 1 - self._keep]:
            shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def whole(self, config: TrainConfig, warn: Warn, number: int | None = None) -> Whole:
        """Checkpoint `number`, by default the newest that is whole, of a run of `config`.

        Args:
          config: The run's.
          warn: Told of every newer checkpoint that is damaged and passed over.
          number: The only one that will do.

        Raises:
          UserError: if there is none, or none is whole.
        """
        known = self.numbers()
        if not known or number not in (None, *known):
            problem = "holds no such complete checkpoint"
            raise UserError(str(self.folder.parent), problem, f"complete ones: {known or 'none'}")
        passed: list[pathlib.Path] = []
        reasons = []
        for each in reversed(known) if number is None else [number]:
            place = self.folder / str(each)
            try:
                stored = store.read(place)
                record = Record.from_json(stored.about)
                if record.config_hash != config_hash(config):
                    raise store.Damaged(f"it is of another run, config hash {record.config_hash}")
            except store.Damaged as damage:
                passed.append(place)
                reasons.append(f"{each}: {damage}")
                continue
            for one, reason in zip(passed, reasons, strict=True):
                warn(f"warning: {one} is damaged and passed over ({reason}); checkpoint {each} is whole")
            return Whole(place, stored.arrays, record, tuple(passed))
        remedy = "restore a copy of the folder, or start a new run"
        raise UserError(str(self.folder), f"holds no whole checkpoint ({'; '.join(reasons)})", remedy)

    def restored(self, program: Program, found: Whole) -> Saved:
        """A whole checkpoint as the state of `program`.

        Raises:
          UserError: if its arrays do not fit.
        """
        shapes = template(program, found.record)
        state = store.fill(shapes, store.under(found.arrays, "train"), found.place)
        return Saved(_uncut(state, program, found.record), store.under(found.arrays, "loop"), found.record)

    def set_aside(self, passed: tuple[pathlib.Path, ...]) -> None:
        """Renames damaged checkpoints, so that the run goes on from the one before."""
        for place in passed:
            aside = place.with_name(place.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            place.rename(aside)


def kept(folder: pathlib.Path) -> str:
    """Where a run would go on, in words, by the record of its newest checkpoint: its arrays are not read."""
    checkpointer = Checkpointer(folder)
    for number in reversed(checkpointer.numbers()):
        with suppress(store.Damaged, UserError):
            record = Record.from_json(store.read_about(checkpointer.folder / str(number))[0])
            return f"the checkpoint at {record.phase} step {record.step:,}"
    return "nothing yet"


@contextmanager
def telling_what_is_kept(folder: pathlib.Path) -> Iterator[None]:
    """A `KeyboardInterrupt` in the block, such as a second Ctrl-C, says what is `kept` of the run in `folder`."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"kept of {folder}: {kept(folder)}") from None


class Kept:
    """A pytree of arrays that long work moves forward, kept on disk so that a stop costs a minute of it at most.

    Args:
      place: Its folder; complete or absent.
      identity: Of the work; what was kept of other work is not continued.
      warn: Told of what was kept and cannot be used.
      seconds: Least time between two writes, and never under twenty times what a write takes.
    """

    def __init__(self, place: pathlib.Path, identity: str, warn: Warn, seconds: float = 60.0):
        self.place, self._identity, self._warn = place, identity, warn
        self._seconds, self._written = seconds, time.monotonic()

    def load(self, shapes: Any) -> Any | None:
        """What was kept, of the structure of `shapes`; None if nothing was, or nothing that can be used."""
        if not self.place.is_dir():
            return None
        try:
            stored = store.read(self.place)
            if stored.about != {"identity": self._identity}:
                raise store.Damaged("it is of other work")
            return store.fill(shapes, stored.arrays, self.place)
        except (store.Damaged, UserError) as damage:
            self._warn(f"warning: {self.place} is damaged ({damage}); that work is done again")
            return None

    def save(self, tree: Any, now: bool = False) -> None:
        """Writes `tree`, unless it was written a moment ago and not `now`; `OSError` if the disk is full."""
        if not now and time.monotonic() - self._written < self._seconds:
            return
        start = time.monotonic()
        store.write(self.place, tree, {"identity": self._identity})
        self._written = time.monotonic()
        self._seconds = max(self._seconds, 20.0 * (self._written - start))

    def clear(self) -> None:
        """Forgets what was kept."""
        shutil.rmtree(self.place, ignore_errors=True)


def agent_place(folder: pathlib.Path) -> pathlib.Path:
    """Where a run keeps the agent as it was at the end of pre-training."""
    return folder / "checkpoints" / "offline_agent"


def save_offline_agent(folder: pathlib.Path, agent: Any, config: TrainConfig) -> None:
    """Keeps the agent at the end of pre-training, for runs that start from it."""
    store.write(agent_place(folder), agent, {"config_hash": config_hash(config)})


def check_offline_agent(folder: pathlib.Path, config: TrainConfig) -> None:
    """Refuses a pre-training that a run of `config` cannot go on from.

    Raises:
      UserError: if the folder has no finished one, or it saw other data or other units.
    """
    found = agent_place(folder).is_dir()
    require(found, str(folder), "holds no finished pre-training", "name a run whose offline phase is complete")
    source = _config_of(folder)
    axis = f"is {dict(config.vmap)}, and {folder} was pre-trained with {dict(source.vmap)}"
    same_axis = not source.vmap or list(source.vmap.items()) == list(config.vmap.items())
    require(same_axis, "vmap", axis, "use the same, or a pre-training without")
    seeds = f"is {config.seeds}, and {folder} pre-trained {source.seeds}"
    require(source.seeds == config.seeds, "seeds", seeds, "use as many")
    units = [f"transform.{field.name}" for field in dataclasses.fields(source.transform)]
    for name in ("dataset", "first_seed", *units):
        here, there = get_path(config, name), get_path(source, name)
        same = here == there or name == "transform.online_reward"
        require(same, name, f"is {here}, and {folder} was pre-trained with {there}", "use the same")


def copies_of(folder: pathlib.Path, config: TrainConfig) -> int:
    """How many points of the grid begin with each agent that `folder` has pre-trained."""
    return len(points(config.vmap)) if not _config_of(folder).vmap else 1


def _config_of(folder: pathlib.Path) -> TrainConfig:
    path = folder / "config.yaml"
    return from_yaml(path.read_text(encoding="utf-8"), str(path))


def load_offline_agent(folder: pathlib.Path, program: Program, seal: str | None = None) -> Any:
    """The agent's state that `save_offline_agent` kept; the config must build the same arrays.

    Of a pre-training without ``--vmap``, every value begins with the agent of its seed.

    Args:
      folder: The run that pre-trained it.
      program: Of this run.
      seal: What it must be, as this run recorded it when it began; None for any.

    Raises:
      UserError: if it is damaged, is another one than recorded, or has other shapes.
    """
    place = agent_place(folder)
    try:
        stored = store.read(place)
    except store.Damaged as damage:
        raise UserError(str(place), f"is damaged ({damage})", "restore it, or pre-train again") from None
    changed = f"is another pre-training ({stored.seal[:12]}) than the one this run began with ({(seal or '')[:12]})"
    require(seal in (None, stored.seal), str(place), changed, "restore it, or start a new run")
    shapes, seeds = jax.eval_shape(lambda: init(program, "offline").agent), len(program.config.lanes)
    own = seeds // copies_of(folder, program.config)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((own, *leaf.shape[1:]), leaf.dtype), shapes)
    try:
        agent = store.fill(shapes, stored.arrays, place)
        return agent if own == seeds else jax.tree.map(lambda leaf: leaf[jnp.arange(seeds) % own], agent)
    except UserError as error:
        here, there = (choice(each, "agent") for each in (program.config, _config_of(folder)))
        require(
            here == there, "agent", f"is {here}, and {folder} pre-trained {there}", "use an agent that goes on from it"
        )
        problem = f"its pre-trained agent does not fit this config: it {error.problem}"
        raise UserError(str(folder), problem, "use the same agent, dataset and seeds") from None


def _buffers(state: TrainState) -> dict[str, Buffer]:
    return {"online": state.online} | {f"synthetic{source}": b for source, b in state.synthetic.items()}


def _cut(state: TrainState) -> TrainState:
    """Rings cut to the rows they hold; on the host, where a new size is no new program."""
    cut = lambda b: b._replace(rows=np.asarray(b.rows)[:, : max(int(b.size), 1)])
    return state._replace(online=cut(state.online), synthetic={source: cut(b) for source, b in state.synthetic.items()})


def _uncut(state: TrainState, program: Program, record: Record) -> TrainState:
    capacity = program.config.online.capacity if record.phase == "online" else 1

    def whole(buffer: Buffer, capacity: int) -> Buffer:
        saved = buffer.rows
        rows = jnp.zeros((saved.shape[0], capacity, saved.shape[2]), saved.dtype).at[:, : saved.shape[1]].set(saved)
        return buffer._replace(rows=rows)

    held = synthetic_capacity(program)
    synthetic = {source: whole(buffer, held[source]) for source, buffer in state.synthetic.items()}
    return state._replace(online=whole(state.online, capacity), synthetic=synthetic)


def template(program: Program, record: Record) -> TrainState:
    """The shapes of the saved state, from the config and the recorded buffer sizes."""
    shapes = jax.eval_shape(lambda: init(program, record.phase))
    lanes, width, kept_as = len(program.config.lanes), program.spec.layout.width, program.offline_rows.dtype
    counter: Any = jax.ShapeDtypeStruct((), np.int32)

    def rows(size: int) -> Buffer:
        matrix: Any = jax.ShapeDtypeStruct((lanes, max(size, 1), width), kept_as)
        return Buffer(matrix, counter, counter)

    sizes = dict(record.buffers)
    online = rows(sizes.pop("online"))
    synthetic = {int(name.removeprefix("synthetic")): rows(size) for name, size in sizes.items()}
    shapes = shapes._replace(online=online, synthetic=synthetic)
    if synthetic:
        offline: Any = jax.ShapeDtypeStruct((record.offline_rows, width), kept_as)
        generator = jax.eval_shape(start_generator.of(program), shapes.online, shapes.key, offline)
        shapes = shapes._replace(generator=generator)
    return shapes
