"""CrossQ: its policy's delay, and the averages that its policy is judged by."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from cfdg_jax.agents.crossq import VARIANTS, CrossQConfig, averaged, crossq, parts, update_actor
from cfdg_jax.errors import UserError
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=100)
SMALL = CrossQConfig(hidden=(6, 5), critic_hidden=(8, 8))


def batches(updates):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *(random_batch(rng, 8) for _ in range(updates)))


def counts(state):
    return [int(opt.count) for opt in (state.critic_opt, state.policy_opt, state.log_alpha_opt)]


def test_the_actor_steps_at_every_third_update_of_the_phase_on_its_minibatch():
    agent = crossq(SMALL, SPEC, "online")
    update, state = jax.jit(agent.update), agent.init(jax.random.key(0))
    early, metrics = update(state, batches(2), jax.random.key(1), jnp.int32(0))
    assert counts(early) == [2, 0, 0] and metrics["@moves"] == 0
    jax.tree.map(np.testing.assert_array_equal, early.policy, state.policy)
    later, metrics = update(early, batches(2), jax.random.key(2), jnp.int32(2))
    assert counts(later) == [4, 1, 1] and metrics["@moves"] == pytest.approx(1 / 2)
    assert {"critic_loss", "q", "target_q", "policy_loss@moves", "entropy@moves", "temperature@moves"} <= set(metrics)

    moving, metrics = update(early, jax.tree.map(lambda x: x[:1], batches(1)), jax.random.key(3), jnp.int32(2))
    one = jax.tree.map(lambda x: x[0], batches(1))
    before = early._replace(critic=moving.critic, averages=moving.averages, critic_opt=moving.critic_opt)
    p, noise = parts(SMALL, SPEC), jax.random.normal(jax.random.key(3), (1, 2, *one.action.shape))[0, 1]
    again, _ = jax.jit(functools.partial(update_actor, p))(before, one, noise, 2)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), moving, again)


def test_the_value_is_that_of_the_running_averages():
    agent, p = crossq(SMALL, SPEC, "online"), parts(SMALL, SPEC)
    state, _ = jax.jit(agent.update)(agent.init(jax.random.key(0)), batches(3), jax.random.key(1), jnp.int32(0))
    obs, action = jnp.ones((4, 5)), jnp.zeros((4, 3))
    np.testing.assert_array_equal(agent.value(state, obs, action), averaged(p, state, obs, action).min(axis=0))


def test_the_paper_s_critics_are_a_variant():
    assert dict(VARIANTS["wide"].fields) == {"critic_hidden": (2048, 2048)}


@pytest.mark.parametrize(
    "field, value",
    [("b1", 1.0), ("momentum", -0.1), ("policy_delay", 0), ("critics", 0), ("hidden", (0,)), ("variant", "paper")],
)
def test_a_bad_value_names_its_field(field, value):
    with pytest.raises(UserError, match=f"^agent.{field}: "):
        dataclasses.replace(SMALL, **{field: value})
