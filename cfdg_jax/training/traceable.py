"""Whether the values of ``--vmap`` can share one program: tracing it with arrays in their place decides.

A field is refused where Python must know its value to write the program (sizes, counts, branches), where the host asks
a method for something that depends on it, and where it changes what all lanes share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from cfdg_jax.axis import points
from cfdg_jax.config import TrainConfig, at_point, resolved
from cfdg_jax.core import ring
from cfdg_jax.errors import require
from cfdg_jax.training.act import close_episodes, evaluate_act, insert_learn_act
from cfdg_jax.training.generate import adopt_generator, fit_generator, generate, scores_of, start_generator, told_alone
from cfdg_jax.training.lanes import with_settings
from cfdg_jax.training.learn import no_meters, traced_update
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import go_online, init, prepare_stratifier
from cfdg_jax.training.program import Program, at_setting, keys_of
from cfdg_jax.types import Array, TrainState


class OfTheHost(Exception):
    """What the host asks of a method depends on an array."""


def require_one_program(program: Program, shared_data: Callable[[TrainConfig], Any]) -> None:
    """Refuses an axis whose values cannot share the program.

    Args:
      program: With settings.
      shared_data: ``(config) -> what the offline rows are made by``, of which there is one set.

    Raises:
      UserError: naming the first field at fault.
    """
    remedy = "run its values one by one, such as a sweep over {}"
    for path in program.settings:
        _require_own(program.config, path, shared_data, remedy.format(path))
    if not _is_one(program):
        alone = {path: dataclasses.replace(program, settings={path: v}) for path, v in program.settings.items()}
        path = next((path for path, one in alone.items() if not _is_one(one)), ", ".join(alone))
        require(False, path, "shapes the program, so its values cannot share one", remedy.format(path))
    for path in program.settings:
        for part in _shared_parts(program, path):
            require(False, path, f"changes what one training gives to all seeds ({part})", remedy.format(path))


def _is_one(program: Program) -> bool:
    """Whether no Python asks for a value of the settings."""
    try:
        jax.eval_shape(lambda: _ask(program))
        _trace(program)
    except (jax.errors.JAXTypeError, OfTheHost):
        return False
    return True


def _require_own(config: TrainConfig, path: str, shared_data: Callable, remedy: str) -> None:
    """Refuses a field from which other fields follow, or the offline rows."""
    plain = dataclasses.replace(config, vmap={})
    for point in points({path: config.vmap[path]}):
        one = at_point(plain, point)
        require(with_settings(resolved(plain), point) == resolved(one), path, "decides other fields", remedy)
        require(shared_data(plain) == shared_data(one), path, "changes the offline rows, which lanes share", remedy)


def _ask(program: Program) -> None:
    """Asks the methods of a lane what the host does, whose answers have to be the same for all lanes."""
    lane = at_setting(program, {path: values[0] for path, values in program.settings.items()})
    augmenter, rows = lane.augmenter, program.offline_rows.shape[0]
    before = augmenter.pretraining
    counts = [lane.mix.counts(shares, rows) for shares in ({}, augmenter.shares)]
    stages = [tuple(stage) for stage in lane.stratifier.stages]
    answers = (dict(augmenter.shares), augmenter.fit_steps, before and before.fit_steps, counts, stages)
    if any(isinstance(answer, jax.Array) for answer in jax.tree.leaves(answers)):
        raise OfTheHost


def _trace(program: Program) -> None:
    """Traces every compiled function of a run that asks a method."""
    config, rows = program.config, program.offline_rows
    state = jax.eval_shape(lambda: init(program, "offline"))
    obs = jax.ShapeDtypeStruct((len(config.lanes), 1, program.spec.obs_dim), np.float32)
    evaluated = lambda state, obs: evaluate_act(program, state.agent, obs, keys_of(program), jnp.asarray(0), "offline")
    jax.eval_shape(evaluated, state, obs)
    if config.offline.steps:
        traced_update(program, "offline")
    if config.online.steps:
        for stage in program.stratifier.stages:
            prepared = lambda state, stage=stage: prepare_stratifier(program, state, rows, jnp.asarray(0), stage, 1)
            jax.eval_shape(prepared, state)
        jax.eval_shape(lambda state: _online(program, go_online(program, state), rows), state)


def _online(program: Program, state: TrainState, rows: Array) -> None:
    """A refresh and a step of the online phase."""
    lanes, layout, shares = len(program.config.lanes), program.spec.layout, program.augmenter.shares
    if shares:
        generator = start_generator(program, state.online, state.key, rows)
        generator, scores = (
            adopt_generator(program, generator, state.online, rows),
            scores_of(program, state, rows, state.key),
        )
        generator, _ = fit_generator(program, generator, state.online, rows, state.key, steps=1, scores=scores)
        made = {source: generate(program, generator, state.key, source, 2)[0] for source in shares}
        state = state._replace(generator=generator, synthetic={source: ring.full(made[source]) for source in shares})
    zeros = lambda *shape: jnp.zeros((lanes, *shape))
    obs, action = zeros(layout.obs_dim), zeros(layout.act_dim)
    packet = Packet(obs, action, zeros(), obs, zeros(), obs).pack(jnp)
    counts = program.mix.counts(shares, rows.shape[0])
    meters = no_meters(program, "online")
    state, _, _ = insert_learn_act(program, state, meters, packet, jnp.asarray(1), rows, counts, False)
    close_episodes(program, state, zeros() > 0, zeros(), zeros())


def _shared_parts(program: Program, path: str) -> Iterator[str]:
    """What serves all lanes and depends on the field at `path`."""

    def fresh(value: Array, state: TrainState) -> Any:
        return at_setting(program, {path: value}).stratifier.init_shared(state.key[0])

    def trained(stage: Any) -> Callable:
        def train(value: Array, state: TrainState) -> Any:
            lane = at_setting(program, {path: value})
            zero = jnp.zeros((), jnp.int32)
            return prepare_stratifier.plain(lane, state, program.offline_rows, zero, stage, 1)[0].shared

        return train

    def pretrained(value: Array, state: TrainState) -> Any:
        before, rows = at_setting(program, {path: value}).augmenter.pretraining, program.offline_rows
        assert before is not None, "asked where there is one"
        data = (rows, ring.full(rows))
        told = told_alone(before, *data, state.key[0])
        return before.fit(before.init(state.key[0], *data), *data, state.key[0], 1, **told)[0]

    state = jax.eval_shape(lambda: init(program, "offline"))
    value = jax.ShapeDtypeStruct((), np.float32)
    made = {stage.name: trained(stage) for stage in program.stratifier.stages if stage.shared}
    if program.augmenter.pretraining is not None and program.config.online.steps:
        made["generator"] = pretrained
    for name, make in {"its start": fresh, **made}.items():
        closed = jax.make_jaxpr(make)(value, state)
        _, used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
        if used[0]:
            yield name
