"""Small runs for the tests of the loops."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import threading
from collections.abc import Iterable

import jax
import numpy as np
import pytest

from cfdg_jax.augment import denoiser
from cfdg_jax.config import TrainConfig
from cfdg_jax.diffusion.network import resmlp
from cfdg_jax.fields import override
from cfdg_jax.presets import make_config
from cfdg_jax.training.progress import Interrupted, Interrupts
from cfdg_jax.training.session import Session

WALL_CLOCK = {"seconds", "steps_per_second", "refresh_seconds"}

optimised = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 2})
"""For what runs longer than it compiles; see the flags in conftest.py."""

TOY = "local:toy-dense-medium-replay-v0"
TINY = {  # what happens comes at multiples of 20 steps, since every other number of steps is a program to compile
    "mix.batch_size": 32,
    "offline.steps": 60,
    "offline.updates_per_call": 20,
    "online.steps": 120,
    "online.start_steps": 40,
    "online.capacity": 100,  # smaller than the run: the ring wraps around
    "refresh.every": 60,
    "refresh.min_online": 40,
    "refresh.rows": 60,
    "refresh.capacity": 100,
    "refresh.chunk": 30,
    "refresh.fit_steps_per_call": 10,
    "evaluate.offline_every": 20,
    "evaluate.online_every": 40,
    "evaluate.episodes": 2,
    "log.every": 20,
}


def toy_config(augment="cfdg", agent="iql", stratify="none", mix=None, **values) -> TrainConfig:
    """Offline to online on the pure-JAX toy, two seeds, a second or two of work."""
    steps = 17 if augment == "edis" else 20  # its energies have three more
    small = {"steps": steps, "pretrain_steps": 0, "batch": 16, "sampler_steps": 3}
    tiny = dict(TINY)
    if augment != "none":  # updates begin at the first refresh: without generated rows they are another program
        tiny |= {f"augment.{name}": value for name, value in small.items()} | {"online.start_steps": 60}
    if mix == "oorb" or (mix is None and agent.startswith("apl")):
        tiny |= {"mix.gate": 50}
    given = {name.replace("__", "."): value for name, value in values.items()}
    return shallow(make_config(TOY, agent, augment, mix, stratify, "smoke", **(tiny | given)), given)


def shallow(config: TrainConfig, given: Iterable[str]) -> TrainConfig:
    """`config` with networks of one hidden layer, where none are `given`: each layer is traced and compiled."""
    choices = ("agent", "augment", "stratify", "mix")
    fields = [(room, field.name) for room in choices for field in dataclasses.fields(getattr(config, room))]
    deep = [f"{room}.{name}" for room, name in fields if name.endswith(("hidden", "widths"))]
    return override(config, {name: (32,) for name in deep if name not in given})


def hopper_config(**values) -> TrainConfig:
    """SAC from scratch on MuJoCo, two seeds."""
    tiny = TINY | {"env.task": "hopper", "offline.steps": 0, "online.random_steps": 40}
    given = {name.replace("__", "."): value for name, value in values.items()}
    return make_config("", "sac", preset="smoke", **(tiny | given))


def make_generators_shallow(patch: pytest.MonkeyPatch) -> None:
    """Denoisers of generated rows get one block, not six."""
    patch.setattr(denoiser, "resmlp", functools.partial(resmlp, blocks=1))


@contextlib.contextmanager
def compilations():
    """A list that grows by the thread of each program that is compiled or loaded within the block."""
    found = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(threading.get_ident())

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def interrupted_at(number: int, monkeypatch):
    """Makes the check for signals number `number` find one."""
    checks = itertools.count(1)

    def check(self):
        if next(checks) == number:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "check", check)
        yield


@contextlib.contextmanager
def stopped_in(phase: str, step: int, monkeypatch):
    """Asks the run to stop once it has made `step` steps of `phase`; gives the list of the steps where it did."""
    original, asked = Session.stop_if_asked, []

    def ask(self):
        if self.phase == phase and self.step >= step and not asked:
            asked.append(self.step)
            self.interrupts.requested = True
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "stop_if_asked", ask)
        yield asked


def seed_alone(config: TrainConfig, seed: int) -> TrainConfig:
    """The single run of one seed."""
    return dataclasses.replace(config, seeds=1, first_seed=config.first_seed + seed)


def lines(folder: pathlib.Path, name: str) -> list[dict]:
    """A jsonl file without its wall-clock fields."""
    text = (folder / name).read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in WALL_CLOCK} for line in text]


def mean_difference(a, b) -> float:
    """The mean of |x - y| / (1 + |y|) over all floats of two trees.

    Two compilations round apart, and Adam turns a gradient that rounding alone made into a whole step: single elements
    may differ by the rate, so their mean is what tells equal updates from others.
    """
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    pairs = [
        (np.asarray(x, float), np.asarray(y, float)) for x, y in pairs if jax.numpy.issubdtype(x.dtype, np.floating)
    ]
    return float(np.concatenate([(np.abs(x - y) / (1 + np.abs(y))).ravel() for x, y in pairs]).mean())


def final_leaves(run) -> list[np.ndarray]:
    """All arrays of a run's newest checkpoint."""
    _, saved = run.restore()
    leaves = jax.tree.leaves(saved.state)
    return [
        np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x) for x in leaves
    ]


def assert_same_run(one, other) -> None:
    """Bit-identical logs and final state."""
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert lines(one.folder, name) == lines(other.folder, name)
    for a, b in zip(final_leaves(one), final_leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def flip(path, share=0.5):
    """Changes a bit of a file, or of the largest under a folder."""
    if path.is_dir():
        path = max((each for each in path.rglob("*") if each.is_file()), key=lambda each: each.stat().st_size)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= 1
    path.write_bytes(data)
