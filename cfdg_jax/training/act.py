"""Acting: exploring and evaluating actions, and the online step that takes in a transition and answers with actions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cfdg_jax.core import ring
from cfdg_jax.core.seeds import purpose_keys
from cfdg_jax.data.returns import close_episodes as close_rows
from cfdg_jax.data.transforms import apply_observation, apply_reward
from cfdg_jax.training.devices import for_host
from cfdg_jax.training.learn import learn_online
from cfdg_jax.training.meters import Meters
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import each_stratifier
from cfdg_jax.training.program import Program, agent_of, at_once, compiled
from cfdg_jax.types import Array, Counts, Key, Source, TrainState


def _policy(program: Program, phase: str, agent_state: Any, obs: Array, keys: Key, explore: bool) -> Array:
    """Actions `[S, ..., A]` at raw observations `[S, ..., O]`; a seed that went non-finite acts with zeros."""
    action = at_once(program, lambda lane, state, obs, key: agent_of(lane, phase).act(state, obs, key, explore))(
        agent_state, apply_observation(program.transforms.observation, obs), keys
    )
    return jnp.where(jnp.isfinite(action), action, 0.0)


def explore(program: Program, state: TrainState, obs: Array, t: Array, random: bool) -> Array:
    """Exploring actions `[S, A]` for environment step `t` at raw observations `[S, O]`."""
    keys = purpose_keys(state.key, "act", t)
    if random:
        uniform = lambda key: jax.random.uniform(key, (program.spec.act_dim,), minval=-1.0, maxval=1.0)
        return jax.vmap(uniform)(keys)
    return _policy(program, "online", state.agent, obs, keys, True)


@compiled(static=("random",))
def act(program: Program, state: TrainState, obs: Array, t: Array, random: bool) -> Array:
    """`explore` as a dispatch of its own, for the first action."""
    return explore(program, state, obs, t, random)


@compiled(static=("phase",))
def evaluate_act(program: Program, agent_state: Any, obs: Array, keys: Key, t: Array, phase: str) -> Array:
    """Actions `[S, E, A]` of the evaluation policy at raw observations `[S, E, O]` in step `t`."""
    return _policy(program, phase, agent_state, obs, purpose_keys(keys, "evaluate", t), False)


def to_rows(program: Program, obs: Array, action: Array, reward: Array, next_obs: Array, terminal: Array) -> Array:
    """Raw transitions with any leading axes as transformed rows `[..., D]` of source ONLINE."""
    return program.spec.layout.pack(
        apply_observation(program.transforms.observation, obs),
        action,
        apply_reward(program.transforms.online_reward, reward),
        apply_observation(program.transforms.observation, next_obs),
        terminal,
        -jnp.inf,
        float(Source.ONLINE),
    )


def insert_learn_act(
    program: Program, state: TrainState, meters: Meters, packet: Array, t: Array, offline_rows: Array,
    counts: Counts | None, random: bool,
) -> tuple[TrainState, Meters, Array]:  # fmt: skip
    """Inserts one raw step of all seeds, makes ``utd`` updates unless `counts` is None, returns the next actions.

    With ``online.overlap`` the actions are those of the parameters before these updates.

    Args:
      program: The run.
      state: Of all seeds.
      meters: Of the online phase.
      packet: A packed `Packet`.
      t: `[]` int32, environment steps made including this one.
      offline_rows: `[N, D]`.
      counts: Rows of a batch by origin.
      random: Whether the next actions are uniform noise.
    """
    current = Packet.unpack(packet, program.spec).current
    learnt, meters = insert_learn(program, state, meters, packet, t, offline_rows, counts)
    acting = state if program.config.online.overlap else learnt
    return learnt, meters, explore(program, acting, current, t, random)


def insert_learn(
    program: Program, state: TrainState, meters: Meters, packet: Array, t: Array, offline_rows: Array,
    counts: Counts | None,
) -> tuple[TrainState, Meters]:  # fmt: skip
    """`insert_learn_act` without the actions."""
    step = Packet.unpack(packet, program.spec)
    rows = to_rows(program, *step[:5])
    state = state._replace(online=ring.insert(state.online, rows[:, None, :]))
    if program.stratifier.observe is not None:
        keys, met = purpose_keys(state.key, "observe", t), program.spec.layout.unpack(rows).obs
        take_in = lambda lane, *args: (lane.stratifier.observe(*args),)
        (observed,) = each_stratifier(program, take_in, (0, 0))(state.stratifier, met, keys)
        state = state._replace(stratifier=observed)
    if counts is not None:
        state, meters = learn_online(program, state, meters, offline_rows, counts, program.config.online.utd)
    return state, meters


@compiled(static=("counts", "random"), donate=("state", "meters"))
def online_step(
    program: Program, state: TrainState, meters: Meters, packet: ArrayLike, t: ArrayLike, offline_rows: Array,
    counts: Counts | None, random: bool,
) -> tuple[TrainState, Meters, Array]:  # fmt: skip
    """`insert_learn_act` as a dispatch of its own, for simulators of the host."""
    packet, t = jnp.asarray(packet), jnp.asarray(t)
    state, meters, action = insert_learn_act(program, state, meters, packet, t, offline_rows, counts, random)
    return state, meters, for_host(action)


@compiled(static=("counts",), donate=("state", "meters"))
def learning_step(
    program: Program, state: TrainState, meters: Meters, packet: ArrayLike, t: ArrayLike, offline_rows: Array,
    counts: Counts | None,
) -> tuple[TrainState, Meters]:  # fmt: skip
    """`insert_learn` as a dispatch of its own, which goes on while simulators step."""
    return insert_learn(program, state, meters, jnp.asarray(packet), jnp.asarray(t), offline_rows, counts)


@compiled(static=("random",))
def acting_step(program: Program, state: TrainState, packet: ArrayLike, t: ArrayLike, random: bool) -> Array:
    """The next actions by the parameters as they are, before `learning_step` takes in the same packet."""
    current = Packet.unpack(jnp.asarray(packet), program.spec).current
    return for_host(explore(program, state, current, jnp.asarray(t), random))


def close_episodes(program: Program, state: TrainState, done: Array, lengths: Array, returns: Array) -> TrainState:
    """Writes the returns-to-go of the episodes that ended with the newest row; `done`, `lengths`, `returns` `[S]`.

    `returns` are the raw sums of rewards, which the stratifier may ask for.
    """
    rule = program.returns.transformed(program.transforms.online_reward)
    window = min(program.spec.horizon, program.config.online.capacity)
    online = close_rows(rule, state.online, program.spec.layout, done, lengths, window)
    if program.stratifier.judge is not None:

        def judge(lane: Program, shared: Any, own: Any, done: Array, *episode: Array) -> tuple:
            assert lane.stratifier.judge is not None, "all lanes are of one kind"
            judged = lane.stratifier.judge(own, *episode)
            return (jax.tree.map(lambda new, old: jnp.where(done, new, old), judged, own),)

        learning = done & (state.step > 0)  # what the policy does before updates begin judges nothing
        (judged,) = each_stratifier(program, judge, (0, 0, 0))(state.stratifier, learning, returns, lengths)
        state = state._replace(stratifier=judged)
    return state._replace(online=online)


@compiled(donate=("state",))
def end_episodes(
    program: Program, state: TrainState, done: ArrayLike, lengths: ArrayLike, returns: ArrayLike
) -> TrainState:
    """`close_episodes` as a dispatch of its own."""
    return close_episodes(program, state, *map(jnp.asarray, (done, lengths, returns)))
