"""Prints as JSON what 1, 8 and any numbers between of simulated devices compute. JAX counts devices once a process."""

import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_helpers import interrupted_at, lines, make_generators_shallow, toy_config

from cfdg_jax.core import ring
from cfdg_jax.core.flops import product_flop
from cfdg_jax.training import build
from cfdg_jax.training.build import load_program
from cfdg_jax.training.checkpoint import Kept
from cfdg_jax.training.devices import placed
from cfdg_jax.training.generate import fit_generator, generate, start_generator
from cfdg_jax.training.learn import learn, no_meters, offline_chunk
from cfdg_jax.training.memory import memory_plan
from cfdg_jax.training.once import before_online, fitted
from cfdg_jax.training.prepare import go_online, init, prepare_stratifier
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.training.run import train
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.types import TrainState

COLLECTIVE = re.compile(r"\b(all-reduce|all-gather|all-to-all|collective-permute|collective-broadcast|reduce-scatter)")
VALUES = {"agent.expectile": (0.6, 0.9)}
LANES = {"seeds": 4, "vmap": VALUES, "stratify": "stratdiff"}
SPREAD = {"seeds": 1, "vmap": VALUES, "augment.width": 128, "augment.pretrain_steps": 20}


def found(folder: pathlib.Path, between: Sequence[str], *flags: str) -> dict:
    """What this file prints of 1, 8 and the numbers `between`, with XLA's `flags` beside those of the environment."""
    tests = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    asked = " ".join([os.environ.get("XLA_FLAGS", ""), *flags, "--xla_force_host_platform_device_count=8"])
    done = subprocess.run(
        [sys.executable, __file__, str(folder), *between],
        env=os.environ | {"XLA_FLAGS": asked, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


class Start(NamedTuple):
    """What eight lanes hold before their first update, and before the online phase with a generator."""

    offline: TrainState
    online: TrainState
    generator: Any


def copied(tree: Any) -> Any:
    """Arrays that a program may take the place of."""
    return jax.tree.map(jnp.copy, tree)


def handed_over(program: Program, state: TrainState) -> tuple[TrainState, Any]:
    """`state` as the online phase begins, with some online rows, and an untrained generator."""
    rows = program.offline_rows
    for stage in program.stratifier.stages:
        stratifier, _ = prepare_stratifier(program, state, rows, jnp.asarray(0), stage, 2)
        state = state._replace(stratifier=stratifier)
    state = go_online(program, state)
    state = state._replace(online=jax.jit(ring.insert)(state.online, jnp.tile(rows[None, :80], (8, 1, 1))))
    return state, start_generator(program, state.online, state.key, rows)


def outcome(devices: str, start: Start | None = None) -> tuple[dict, Start]:
    """Programs, memory and numbers of eight lanes, from pre-training to an update on generated rows.

    Those of `start` are placed on the devices, where one is given; all else is made there.
    """
    program = load_program(toy_config(**LANES, devices=devices), Progress(False), Stopwatch())
    given = placed(program.mesh, copied(start)) if start else None
    rows, settings = program.offline_rows, program.settings
    state = given.offline if given else init(program, "offline")
    offline, meters = copied(state), no_meters(program, "offline")
    flop = product_flop(lambda state, meters: offline_chunk(program, state, meters, rows, 3), state, meters)
    programs = {"offline": offline_chunk.of(program).lower(state, meters, rows, updates=3).compile()}
    state, meters = programs["offline"](settings, state, meters, rows)
    state, generator = (given.online, given.generator) if given else handed_over(program, state)
    start = Start(offline, copied(state), copied(generator))
    programs["fit"] = fit_generator.of(program).lower(generator, state.online, rows, state.key, steps=5).compile()
    generator, _ = programs["fit"](settings, generator, state.online, rows, state.key)
    made = {source: generate(program, generator, state.key, source, 20)[0] for source in program.augmenter.shares}
    finite = float(np.nan_to_num(np.stack([np.asarray(each) for each in made.values()]), neginf=0.0).sum())
    state = state._replace(synthetic={source: ring.full(each) for source, each in made.items()})
    counts = program.mix.counts(program.augmenter.shares, len(rows))
    fresh = no_meters(program, "online")
    programs["online"] = learn.of(program).lower(state, fresh, rows, counts, updates=3).compile()
    held = {"ring": state.online.rows, "rows": rows, "critic": jax.tree.leaves(state.agent)[0]}
    shards = {name: [shard.data.nbytes for shard in array.addressable_shards] for name, array in held.items()}
    state, of_online = programs["online"](settings, state, fresh, rows)
    return {
        "metrics": {name: np.asarray(value).tolist() for name, value in (meters.sums | of_online.sums).items()},
        "made": finite,
        "flop": flop,
        "collectives": {name: sorted(set(COLLECTIVE.findall(each.as_text()))) for name, each in programs.items()},
        "memory": {name: each.memory_analysis().argument_size_in_bytes for name, each in programs.items()},
        "shards": shards,
    }, start


def refreshed(devices: str, folder: pathlib.Path) -> dict:
    """The fit, rows, memory and collectives of two lanes' generators, of their update and of their pre-training."""
    program = load_program(toy_config(**SPREAD, devices=devices), Progress(False), Stopwatch())
    state, rows, settings = init(program, "online"), program.offline_rows, program.settings
    online = jax.jit(ring.insert)(state.online, jnp.tile(rows[None, :80], (2, 1, 1)))
    before = fitted(before_online(program), Kept(folder / devices, "", print), Progress(False), Interrupts()).generator
    generator = start_generator(program, online, state.key, rows)
    fit = fit_generator.of(program).lower(generator, online, rows, state.key, steps=5).compile()
    generator, metrics = fit(settings, generator, online, rows, state.key)
    source = next(iter(program.augmenter.shares))
    make = generate.of(program).lower(generator, state.key, source=source, rows=800).compile()
    made, _ = make(settings, generator, state.key)
    programs = {"fit": fit, "generate": make}
    if devices != "1":
        meters = no_meters(program, "offline")
        programs["offline"] = (
            offline_chunk.of(program).lower(init(program, "offline"), meters, rows, updates=3).compile()
        )
    told, progress = [], Progress(False)
    progress.say = told.append
    plain = lambda tree: [np.asarray(leaf).ravel().tolist() for leaf in jax.tree.leaves(tree)]
    moments = lambda state: optax.tree.get(state.denoiser.opt_state, "mu")
    return {
        "pretrained": {"moments": plain(moments(before)), "weights": plain(before.denoiser.params)},
        "refreshed": {
            "moments": plain(moments(generator)),
            "weights": plain(generator.denoiser.params),
            "rows": plain((metrics, made[..., : program.spec.layout.mc_return])),
        },
        "collectives": {name: sorted(set(COLLECTIVE.findall(each.as_text()))) for name, each in programs.items()},
        "memory": {name: each.memory_analysis().temp_size_in_bytes for name, each in programs.items()},
        "plan": memory_plan(program, progress),
        "told": told[0],
    }


def resumed(folder: pathlib.Path) -> dict:
    """The evaluations of a run on one device, and of one that begins on two and goes on with eight."""
    config = toy_config("none", seeds=4, devices="1", **{"online.steps": 60, "evaluate.episodes": 1})
    whole = train(config, folder / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch, interrupted_at(4, patch), pytest.raises(Interrupted):
        train(dataclasses.replace(config, devices="2"), folder / "cut", progress=False)
    again = train(resume=folder / "cut", devices="8", progress=False)
    logs = {name: lines(run.folder, "metrics.jsonl") for name, run in (("whole", whole), ("resumed", again))}
    return logs | {"devices": [run.summary["devices"] for run in (whole, again)]}


if __name__ == "__main__":
    make_generators_shallow(pytest.MonkeyPatch())
    folder, between = pathlib.Path(sys.argv[1]), sys.argv[2:]
    of_one, start = outcome("1")
    spread = {"1": refreshed("1", folder / "generators")}
    build.require_one_program = lambda *_: None  # it was checked on one device
    outcomes = {"1": of_one, "8": outcome("8")[0]} | {count: outcome(count, start)[0] for count in between}
    spread |= {"8": refreshed("8", folder / "generators")}
    print(json.dumps({"outcomes": outcomes, "spread": spread, "resumed": resumed(folder)}))
