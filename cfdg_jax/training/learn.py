"""Learning: rows are drawn, marked by the stratifier, and learnt from in K updates of all seeds.

An online batch is chosen from the rows drawn, where the mixing rule chooses; then marked; then learnt from; and the
stratifier learns last. The offline phase is conservative throughout: its rows are neither chosen nor marked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core import ring
from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.training.devices import placed
from cfdg_jax.training.meters import Meters, accumulate
from cfdg_jax.training.prepare import each_stratifier, init
from cfdg_jax.training.program import Program, agent_of, at_once, compiled
from cfdg_jax.types import Array, Buffer, Counts, Key, Metrics, Pool, TrainState


def marked_update(
    program: Program, phase: str, shared: Any, own: Any, mix_state: Any, agent_state: Any, key: Key, rows: Array,
    step: Array,
) -> tuple[Any, Any, Any, Metrics]:  # fmt: skip
    """K updates of one seed on rows `[K, B, D]`; returns the states of stratifier, mixing rule and agent."""
    mark_key, update_key, fit_key, choose_key = jax.random.split(key, 4)
    agent, mix, stratifier = agent_of(program, phase), program.mix, program.stratifier
    layout, online = program.spec.layout, phase == "online"
    batch = layout.unpack(rows)
    marks: Metrics = {}
    fitted: Metrics = {}
    if online and mix.choose is not None:
        value = functools.partial(agent.value, agent_state)
        act = lambda obs, key: agent.act(agent_state, obs, key, True)
        mix_state, index, weight, fitted = mix.choose(mix_state, batch, value, act, choose_key)
        batch = layout.unpack(rows.reshape(-1, rows.shape[-1])[index].reshape(rows.shape))
        batch = batch._replace(weight=weight.reshape(rows.shape[:2]))
    if online:
        mark_keys = jax.random.split(mark_key, rows.shape[0])
        conserve, marks = jax.vmap(stratifier.mark, (None, None, 0, 0))(shared, own, batch, mark_keys)
        batch = batch._replace(conserve=conserve)
    agent_state, metrics = agent.update(agent_state, batch, update_key, step)
    if online and stratifier.fit is not None:
        value = functools.partial(agent.value, agent_state)
        own, learnt = stratifier.fit(shared, own, batch, value, fit_key)
        fitted = fitted | learnt
    return own, mix_state, agent_state, metrics | jax.tree.map(jnp.mean, marks) | fitted


def update_all(program: Program, phase: str, state: TrainState, keys: Key, rows: Array) -> tuple[TrainState, Metrics]:
    """K updates of all seeds on rows `[S, K, B, D]`."""
    stratifier, mix_state, agent, metrics = _updates(program, phase, rows.shape[1] > 1)(
        state.stratifier, state.mix, state.agent, keys, rows, state.step
    )
    state = state._replace(agent=agent, stratifier=stratifier, mix=mix_state, step=state.step + rows.shape[1])
    return state, metrics


def _updates(program: Program, phase: str, several: bool) -> Callable:
    """`marked_update` of all seeds, `several` updates or one. It is traced once for all programs that it is part of, at
    one K."""
    update = lambda lane, *args: marked_update(lane, phase, *args)
    of_all = each_stratifier(program, update, (0, 0, 0, 0, None), several)
    if program.settings:  # which are traced themselves
        return of_all
    return program.kept.setdefault((update_all, phase, several), jax.jit(of_all, inline=True))


@compiled(static=("updates", "phase"), donate=("state", "meters"))
def offline_chunk(
    program: Program, state: TrainState, meters: Meters, offline_rows: Array, updates: int, phase: str = "offline"
) -> tuple[TrainState, Meters]:
    """K = `updates` updates of all seeds on offline rows; `phase` says whose, a benchmark times "online" too."""
    batch, width = program.config.mix.batch_size, offline_rows.shape[1]

    def draw_offline(key: Key) -> Array:
        index = jax.random.randint(key, (updates * batch,), 0, offline_rows.shape[0])
        return ring.take(offline_rows, index).reshape(updates, batch, width)

    draw_keys = purpose_keys(state.key, "offline_draw", state.step)
    update_keys = purpose_keys(state.key, "offline_update", state.step)
    state, metrics = update_all(program, phase, state, update_keys, jax.vmap(draw_offline)(draw_keys))
    return state, accumulate(meters, metrics, updates)


def learn_online(
    program: Program, state: TrainState, meters: Meters, offline_rows: Array, counts: Counts, updates: int
) -> tuple[TrainState, Meters]:
    """K = `updates` updates of all seeds on batches put together as `counts` says."""
    online, synthetic = state.online, state.synthetic

    def draw_one(lane: Program, key: Key, online_rows: Array, synthetic_rows: dict[int, Array]) -> Array:
        pool = Pool(
            offline_rows,
            Buffer(online_rows, online.position, online.size),
            {source: Buffer(rows, *synthetic[source][1:]) for source, rows in synthetic_rows.items()},
        )
        return lane.mix.draw(counts, pool, key, updates)

    draw_keys = purpose_keys(state.key, "online_draw", state.step)
    update_keys = purpose_keys(state.key, "online_update", state.step)
    rows = at_once(program, draw_one)(draw_keys, online.rows, {source: b.rows for source, b in synthetic.items()})
    state, metrics = update_all(program, "online", state, update_keys, rows)
    return state, accumulate(meters, metrics, updates)


@compiled(static=("counts", "updates"), donate=("state", "meters"))
def learn(
    program: Program, state: TrainState, meters: Meters, offline_rows: Array, counts: Counts, updates: int
) -> tuple[TrainState, Meters]:
    """`learn_online` as a dispatch of its own, for blocks of updates."""
    return learn_online(program, state, meters, offline_rows, counts, updates)


def traced_update(program: Program, phase: str) -> tuple[jax.extend.core.ClosedJaxpr, Metrics]:
    """A dispatch's updates in `phase`, traced and not run: their program, and the shapes of its metrics."""
    if (traced_update, phase) not in program.kept:
        config = program.config
        updates = {"offline": config.offline.updates_per_call, "online": config.online.utd}[phase]
        shape = (len(config.lanes), updates, config.mix.batch_size, program.spec.layout.width)
        state = jax.eval_shape(lambda: init(program, phase))
        update = lambda state, rows: update_all(program, phase, state, state.key, rows)[1]
        traced = jax.make_jaxpr(update, return_shape=True)(state, jax.ShapeDtypeStruct(shape, np.float32))
        program.kept[traced_update, phase] = traced
    return program.kept[traced_update, phase]


def metric_names(program: Program, phase: str) -> list[str]:
    """Names of the metrics of an update of `phase`; none where the phase makes no updates."""
    return list(traced_update(program, phase)[1]) if phase in ("offline", "online") else []


def no_meters(program: Program, phase: str) -> Meters:
    """Zeroed meters with the metric names of `phase`."""
    lanes = len(program.config.lanes)
    sums = {name: jnp.zeros(lanes, jnp.float32) for name in metric_names(program, phase)}
    return placed(program.mesh, Meters(sums, jnp.zeros((), jnp.float32)))
