"""The critics of conservative agents step over the rows in parts: which, that nothing else changes, and the memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import random_batch

from cfdg_jax.agents import cql, penalty
from cfdg_jax.agents.calql import CalQLConfig
from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.bench.kernels import update_kernels
from cfdg_jax.bench.programs import program_of
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=100)
CONFIG = CalQLConfig(hidden=(8, 8), critic_hidden=(8, 8), actions=2)


def update(monkeypatch, at_once, conserve):
    """One update of Cal-QL, with Lagrange's multiplier, on twelve rows and 7 actions of each."""
    monkeypatch.setattr(penalty, "AT_ONCE", at_once)
    p = cql.parts(CONFIG, SPEC, "offline")
    batch = jax.tree.map(jnp.asarray, random_batch(np.random.default_rng(0), 12, conserve=conserve))
    noise = cql.draw_noise(p, jax.random.key(1), 12)
    state = cql.init_state(p, jax.random.key(0))
    return cql.update_once(p, state, batch, noise, 0)


@pytest.mark.parametrize("conserve", [np.ones(12), (np.arange(12) < 5).astype(np.float32)])
def test_an_update_is_the_same_in_any_number_of_parts(monkeypatch, conserve):
    """With rows that carry no penalty too: a part may hold none that do."""
    whole, whole_metrics = update(monkeypatch, 10**6, conserve)
    for at_once in (1, 4 * 7):
        cut, metrics = update(monkeypatch, at_once, conserve)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), cut, whole)
        assert metrics.keys() == whole_metrics.keys()
        for name, value in metrics.items():
            np.testing.assert_allclose(value, whole_metrics[name], rtol=2e-4, atol=1e-5, err_msg=name)


def test_parts_hold_every_row_once_with_its_own_actions():
    batch = jax.tree.map(jnp.asarray, random_batch(np.random.default_rng(0), 12))
    action = jnp.arange(300.0)[:, None, None] + jnp.arange(12.0)[None, :, None] / 100 + jnp.zeros((1, 1, 3))
    proposals = penalty.Proposals(action, action[..., 0], 2 * action[..., 0])
    rows, asked, target = penalty.row_parts(batch, proposals, batch.reward)
    assert asked.action.shape == (4, 300, 3, 3)  # three rows of 300 actions are the most under 1,024 pairs
    np.testing.assert_array_equal(rows.obs.reshape(12, 5), batch.obs)
    np.testing.assert_array_equal(target.reshape(12), rows.reward.reshape(12))
    np.testing.assert_array_equal(asked.action[1, 7, 2], action[7, 5])
    np.testing.assert_array_equal(asked.bound[3, 299, 0], proposals.bound[299, 9])


def test_five_seeds_of_calibrated_critics_need_little_memory():
    """At the sizes of the paper, 31 actions of each of 256 rows: 755 MB when all went through the critics at once."""
    name = next(name for name, entry in AGENTS.items() if entry.config is CalQLConfig)
    described = update_kernels(program_of("halfcheetah", 5, 1_000, {"augment.width": 64}, name))
    assert described["temp_megabytes"] < 150
