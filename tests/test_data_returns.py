"""Returns written at the ends of online episodes equal those of a dataset that holds the same episodes."""

import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import toy_config

import cfdg_jax
from cfdg_jax.core import ring
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.returns import close_episodes
from cfdg_jax.data.transforms import fit_transforms, mc_returns, pack
from cfdg_jax.fields import override
from cfdg_jax.training.build import build_program
from cfdg_jax.types import RowLayout, Source, Spec

LAYOUT = RowLayout(1, 1)


def play(lengths, rewards, terminal, capacity, **rule):
    """Two seeds, inserting row by row; seed 0's episodes have `lengths`, seed 1 has one that never ends."""
    online = ring.empty(capacity, LAYOUT.width, 2)
    ends, t = np.cumsum(lengths), 0
    for episode, length in enumerate(lengths):
        for _ in range(length):
            last = t + 1 == ends[episode]
            flag = np.array([float(last and terminal[episode]), 0.0])
            row = LAYOUT.pack(
                np.full((2, 1), t), np.zeros((2, 1)), np.array([rewards[t], 1.0]), np.zeros((2, 1)), flag, -np.inf, 1.0
            )
            online = ring.insert(online, jnp.asarray(row)[:, None])
            t += 1
        done = jnp.array([True, False])
        lived = jnp.array([length, t])
        online = close_episodes(online, LAYOUT, done, lived, min(12, capacity), 0.9, **rule)
    return np.asarray(online.rows)


@pytest.mark.parametrize("truncation", ["none", "mean_reward", "last_reward"])
@pytest.mark.parametrize(("sparse", "rule"), [(None, "all"), (0.0, "all"), (0.0, "last")])
def test_online_returns_equal_the_datasets(truncation, sparse, rule):
    rng = np.random.default_rng(0)
    lengths, terminal = [3, 7, 1, 5], [True, False, True, False]
    rewards = np.where(np.arange(16) < 3, 0.0, rng.integers(0, 3, 16)).astype(np.float32)
    rows = play(lengths, rewards, terminal, 32, sparse_failure=sparse, truncation=truncation, failure_rule=rule)
    ends = np.isin(np.arange(16), np.cumsum(lengths) - 1)
    flags = np.zeros(16, bool)
    flags[np.cumsum(lengths)[np.array(terminal)] - 1] = True
    expected = mc_returns(rewards, ends, flags, 0.9, sparse, truncation, rule)
    np.testing.assert_allclose(rows[0, :16, LAYOUT.mc_return], expected, rtol=1e-5)
    assert np.isneginf(rows[1, :16, LAYOUT.mc_return]).all(), "the other seed's episode goes on"


def test_an_episode_that_wraps_around_the_ring():
    rewards = np.arange(1.0, 14.0, dtype=np.float32)
    rows = play([6, 7], rewards, [True, True], 10)
    expected = mc_returns(rewards, np.isin(np.arange(13), [5, 12]), np.ones(13, bool), 0.9)
    for t in range(3, 13):  # rows 0 to 2 are overwritten by rows 10 to 12
        assert rows[0, t % 10, LAYOUT.obs][0] == t
        assert rows[0, t % 10, LAYOUT.mc_return] == pytest.approx(expected[t], rel=1e-5)


def test_the_reference_numbers_of_a_sparse_task():
    rows = play([3, 3], np.array([-5, -5, 5, -5, -5, -5], np.float32), [True, False], 8, sparse_failure=-5.0)
    np.testing.assert_allclose(rows[0, :3, LAYOUT.mc_return], [-5 - 4.5 + 4.05, -5 + 4.5, 5], rtol=1e-5)
    np.testing.assert_allclose(rows[0, 3:6, LAYOUT.mc_return], -50.0, rtol=1e-5)


def test_online_rewards_may_stay_raw(tmp_path):
    """implicit_q_learning scales the dataset's rewards alone on locomotion; returns are of the rows' own rewards."""
    linear = {"transform.reward": "scale_bias", "transform.scale": 3.0, "transform.bias": -1.0}
    config = override(toy_config("none", "iql", seeds=1), {"offline.steps": 10, "online.steps": 40} | linear)
    offline, online = {}, {}
    for kind, changes in {"same": {}, "raw": {"transform.online_reward": "raw"}}.items():
        run = cfdg_jax.train(override(config, changes), tmp_path / kind, progress=False)
        program, saved = run.restore()
        column = program.spec.layout.reward
        offline[kind] = np.asarray(program.offline_rows[:, column])
        online[kind] = np.asarray(saved.state.online.rows[0, :40, column])
    np.testing.assert_array_equal(offline["same"], offline["raw"])
    assert len(np.unique(online["raw"])) > 10, "no update was made yet, so both made the same steps"
    np.testing.assert_allclose(online["same"], 3.0 * online["raw"] - 1.0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rule", "online_reward"), [("all", "same"), ("last", "same"), ("all", "raw")])
def test_online_rows_end_up_as_the_same_transitions_of_a_dataset_do(rule, online_reward):
    """Transformed rewards and observations and returns-to-go: a run's own insertion against `pack`."""
    rng, ends = np.random.default_rng(0), np.isin(np.arange(12), [3, 6, 11])
    rewards = np.array([0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0], np.float32) - 1
    obs, next_obs = (rng.normal(3.0, 2.0, (12, 4)).astype(np.float32) for _ in range(2))
    dataset = Dataset(
        obs, rng.uniform(-1, 1, (12, 2)).astype(np.float32), rewards, next_obs, ends & (rewards == 0), ends, "toy"
    )
    transforms = fit_transforms(dataset, "scale_bias", "standardise", online_reward=online_reward)
    config = override(
        toy_config(augment="none", seeds=1),
        {"transform.failure_reward": -1.0, "transform.failure_rule": rule, "online.capacity": 60},
    )
    alike = transforms._replace(reward=transforms.online_reward)
    expected = pack(dataset, alike, config.agent.discount, -1.0, failure_rule=rule)
    program = build_program(config, Spec(4, 2, 20), transforms, expected)
    state, start = program.init("online"), 0
    for t in range(12):
        one = (x[None, t] for x in (obs, dataset.actions, rewards, next_obs, dataset.terminals))
        row = program.to_rows(*map(jnp.asarray, one))
        state = state._replace(online=ring.insert(state.online, row[:, None]))
        if ends[t]:
            state = program.end_episodes(state, jnp.array([True]), jnp.array([t + 1 - start]), jnp.zeros(1))
            start = t + 1
    np.testing.assert_allclose(state.online.rows[0, :12, :-1], expected[:, :-1], rtol=1e-4, atol=1e-5)
    assert (state.online.rows[0, :12, -1] == Source.ONLINE).all()
    assert np.unique(expected[:, -2]).size > 3 and np.abs(expected[:, 0]).max() < 4.0
