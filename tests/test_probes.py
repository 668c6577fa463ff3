"""Probe tasks with known values: every agent, without its offline regulariser, recovers them.

One state variable (-1 or 1), one action, six tasks (after the probe environments of rejax), trained in one program:

    constant    r = 1, ends                        Q = 1
    observed    r = s, ends                        Q(s) = s
    delayed     s = -1 -> s = 1, there r = 1       Q(1) = 1, Q(-1) = discount
    endless     r = 1 - discount, a time limit     Q = 1
    action      r = -(a - 1/2)^2, ends             Q(a) = r, policy 1/2
    policy      r = -(a - s/2)^2, ends             Q(s, a) = r, policy s/2
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import learns_values
from train_helpers import optimised

from cfdg_jax.agents.registry import AGENTS, make_agent
from cfdg_jax.types import Batch, Source, Spec

PROBES = ("constant", "observed", "delayed", "endless", "action", "policy")
SPEC = Spec(obs_dim=1, act_dim=1, horizon=2)
BATCH, UPDATES, DISCOUNT = 64, 125, 0.9
CALLS = 16

TOLERANCE = {"constant": 0.1, "observed": 0.1, "delayed": 0.1, "endless": 0.1, "action": 0.11, "policy": 0.11}
"""A twentieth of each task's range of rewards, for values and for what the policy falls short of."""
LOOSER = {"crossq": 2.0}
"""Batch-normalised critics without a target never rest: the error of the lower one moves between 0.02 and 0.18."""


def config_of(name: str):
    """The agent's own config, narrow, fast, and with next to no reward for entropy."""
    config = AGENTS[name].config()
    wanted = {"discount": DISCOUNT, "tau": 0.05, "temperature": 10.0, "init_temperature": 1e-3, "advantage_scale": 0.1}
    wanted |= {"learn_temperature": False, "policy_delay": 1, "actions": 2}
    values = {}
    for field in dataclasses.fields(config):
        if field.name.endswith("hidden"):
            values[field.name] = (32, 32)
        elif field.name.endswith("learning_rate"):
            values[field.name] = 1e-3
        elif field.name in wanted:
            values[field.name] = wanted[field.name]
    return dataclasses.replace(config, **values)


def transitions(probe: str, rng: np.random.Generator) -> Batch:
    """`UPDATES` minibatches of transitions with uniform actions."""
    shape = (UPDATES, BATCH)
    state, action = rng.choice([-1.0, 1.0], shape), rng.uniform(-1, 1, shape)
    terminal, next_state = np.ones(shape), rng.choice([-1.0, 1.0], shape)
    reward = {
        "constant": np.ones(shape),
        "observed": state,
        "delayed": (state > 0) * 1.0,
        "endless": np.full(shape, 1 - DISCOUNT),
        "action": -((action - 0.5) ** 2),
        "policy": -((action - state / 2) ** 2),
    }[probe]
    if probe == "endless":
        terminal = np.zeros(shape)
    if probe == "delayed":
        terminal, next_state = (state > 0) * 1.0, np.ones(shape)
    column = lambda x: np.asarray(x, np.float32)[..., None]
    plain = lambda x: np.asarray(x, np.float32)
    unknown, source = np.full(shape, -np.inf, np.float32), np.full(shape, Source.ONLINE, np.int32)
    ends, free = plain(terminal), np.zeros(shape, np.float32)
    return Batch(column(state), column(action), plain(reward), column(next_state), ends, unknown, source, free)


@functools.cache
def data() -> list[Batch]:
    """For each call the minibatches of all probes, stacked."""
    rng = np.random.default_rng(0)
    stack = lambda *batches: np.stack(batches)
    return [jax.tree.map(stack, *(transitions(probe, rng) for probe in PROBES)) for _ in range(CALLS)]


@pytest.mark.parametrize("name", list(filter(learns_values, AGENTS)))
def test_known_values_and_policies(name):
    config = config_of(name)
    offline, online = (make_agent(config, SPEC, phase, 1_000) for phase in ("offline", "online"))
    keys = jax.random.split(jax.random.key(0), len(PROBES))
    state = jax.vmap(offline.go_online)(jax.vmap(offline.init)(keys), keys)
    update = optimised(jax.vmap(online.update, in_axes=(0, 0, 0, None)))
    for call, batches in enumerate(data()):
        keys = jax.random.split(jax.random.key(call + 1), len(PROBES))
        state, _ = update(state, batches, keys, jnp.asarray(call * UPDATES))

    states, actions = np.meshgrid([-1.0, 1.0], [-0.5, 0.0, 0.5], indexing="ij")
    obs, action = (jnp.asarray(x.reshape(-1, 1), jnp.float32) for x in (states, actions))
    q = jax.vmap(lambda one: online.value(one, obs, action))(state).reshape(len(PROBES), *states.shape)
    known = {
        "constant": np.ones_like(states),
        "observed": states,
        "delayed": np.where(states > 0, 1.0, DISCOUNT),
        "endless": np.ones_like(states),
        "action": -((actions - 0.5) ** 2),
        "policy": -((actions - states / 2) ** 2),
    }
    for index, probe in enumerate(PROBES):
        np.testing.assert_allclose(q[index], known[probe], atol=LOOSER.get(name, 1.0) * TOLERANCE[probe], err_msg=probe)

    ends = jnp.asarray([[-1.0], [1.0]])
    policy = jax.vmap(lambda one: online.act(one, ends, jax.random.key(0), False))(state)[..., 0]
    for probe, best in (("action", np.array([0.5, 0.5])), ("policy", np.array([-0.5, 0.5]))):
        assert ((policy[PROBES.index(probe)] - best) ** 2 < TOLERANCE[probe]).all(), probe
