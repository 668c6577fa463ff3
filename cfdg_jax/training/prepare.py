"""States of a run: fresh ones, those of the stratifier's stages, and the hand-over to the online phase."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cfdg_jax.core import ring
from cfdg_jax.core.seeds import purpose_key, purpose_keys
from cfdg_jax.methods import Stage
from cfdg_jax.training.devices import allocated, placed
from cfdg_jax.training.program import Program, agent_of, at_once, compiled, each_seed, keys_of
from cfdg_jax.types import Array, Buffer, Key, Metrics, StratifierState, TrainState

SMALL = 16_384
"""Most numbers of a seed's leaf that is checked beside the others: a reduction of its own takes long to compile, and
larger leaves are too large to copy."""


def each_stratifier(program: Program, fn: Callable, in_axes: Sequence[int | None], repeats: bool = False) -> Callable:
    """`each_seed` of ``fn(program, shared, own, *args) -> (own, *rest)`` as a function of a `StratifierState` and the
    rest."""

    def run(stratifier: StratifierState, *args: Any) -> tuple:
        own, *rest = each_seed(program, fn, (None, 0, *in_axes), repeats)(*stratifier, *args)
        return stratifier._replace(own=own), *rest

    return run


def init(program: Program, phase: str) -> TrainState:
    """Fresh state of `phase`; buffers are allocated for the online phase only."""
    config, keys = program.config, keys_of(program)
    agent_state = _init_agent(program, purpose_keys(keys, "agent_init"), phase)
    decide_keys = purpose_keys(keys, "stratifier_init")
    mix_state, stratifier_state = _init_mix(program, decide_keys), _init_stratifier(program, decide_keys)
    capacity = config.online.capacity if phase == "online" else 1
    rows, counter = empty_rings(program, capacity), jnp.zeros((), jnp.int32)
    state = TrainState(agent_state, (), stratifier_state, mix_state, rows, {}, keys, counter)
    return placed(program.mesh, state)


def empty_rings(program: Program, capacity: int) -> Buffer:
    """Empty rings of all lanes, which keep rows as the offline ones are kept."""
    width, lanes, dtype = program.spec.layout.width, len(program.config.lanes), program.offline_rows.dtype
    return allocated(program.mesh, lambda: ring.empty(capacity, width, lanes, dtype))


@compiled(static=("phase",))
def _init_agent(program: Program, keys: Key, phase: str) -> Any:
    return at_once(program, lambda lane, key: agent_of(lane, phase).init(key))(keys)


@compiled()
def _init_mix(program: Program, keys: Key) -> Any:
    return at_once(program, lambda lane, key: lane.mix.init(key))(keys)


@compiled()
def _init_stratifier(program: Program, keys: Key) -> StratifierState:
    """Fresh states; what serves all seeds starts from the run's key."""
    run_key = purpose_key(jax.random.key(program.config.run_key), "stratifier_init")
    own = at_once(program, lambda lane, key: lane.stratifier.init(key))(keys)
    return StratifierState(program.stratifier.init_shared(run_key), own)


@compiled(static=("stage", "count"))
def prepare_stratifier(
    program: Program, state: TrainState, offline_rows: Array, step: Array, stage: Stage, count: int
) -> tuple[StratifierState, Metrics]:
    """`count` steps of a stage; `step` `[]` counts the steps of all stages before this call. Metrics are `[S]`."""

    def one(lane: Program, shared: Any, own: Any, agent: Any, key: Key) -> tuple[Any, Metrics]:
        prepare = lane.stratifier.prepare
        assert prepare is not None, "a stratifier with stages prepares them"
        value = functools.partial(lane.offline_agent.value, agent)
        return prepare(shared, own, stage.name, offline_rows, value, key, count)

    if not stage.shared:
        keys = purpose_keys(state.key, "stratifier_prepare", step)
        return each_stratifier(program, one, (0, 0))(state.stratifier, state.agent, keys)
    shared, own = state.stratifier
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
    key = purpose_key(jax.random.key(program.config.run_key), "stratifier_prepare", step)
    trained, metrics = one(program, shared, first(own), first(state.agent), key)
    shown = jax.tree.map(lambda value: jnp.broadcast_to(value, (state.key.shape[0], *value.shape)), metrics)
    return StratifierState(trained, own), shown


@compiled()
def _agents_go_online(program: Program, agent: Any, keys: Key) -> Any:
    return at_once(program, lambda lane, *args: lane.offline_agent.go_online(*args))(agent, keys)


def go_online(program: Program, state: TrainState) -> TrainState:
    """The hand-over: the agent's own rule, fresh rings, the update count at zero."""
    agent_state = _agents_go_online(program, state.agent, purpose_keys(state.key, "go_online"))
    online = empty_rings(program, program.config.online.capacity)
    return placed(program.mesh, state._replace(agent=agent_state, online=online, step=jnp.zeros((), jnp.int32)))


@compiled()
def finite(program: Program, state: TrainState) -> Array:
    """``[S]`` bool: every floating leaf of a seed's agent, stratifier and mixing rule is finite."""
    del program
    seeds = state.key.shape[0]

    def checked(rows: int, *trees: Any) -> Array:
        floats = [x.reshape(rows, -1) for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.floating)]
        small = [x.astype(jnp.float32) for x in floats if x.shape[1] <= SMALL]
        parts = [jnp.concatenate([jnp.zeros((rows, 0)), *small], axis=1), *(x for x in floats if x.shape[1] > SMALL)]
        return jnp.stack([jnp.isfinite(x).all(axis=1) for x in parts]).all(axis=0)

    return checked(seeds, state.agent, state.stratifier.own, state.mix) & checked(1, state.stratifier.shared)
