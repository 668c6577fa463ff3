"""Returns-to-go: closed forms, brute force, and online episodes against a dataset that holds the same episodes."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train_helpers import toy_config

import cfdg_jax
from cfdg_jax.core import ring
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.data.returns import ReturnRule, close_episodes, mc_returns
from cfdg_jax.data.transforms import fit_transforms
from cfdg_jax.errors import UserError
from cfdg_jax.fields import override
from cfdg_jax.training.act import end_episodes, to_rows
from cfdg_jax.training.build import build_program
from cfdg_jax.training.prepare import init
from cfdg_jax.types import RowLayout, Source, Spec

LAYOUT = RowLayout(1, 1)


def test_returns_of_the_reference():
    ends3, none3 = np.array([0, 0, 1], bool), np.zeros(3, bool)
    fails, plain = ReturnRule(0.99, -5.0), ReturnRule(0.99)
    win = mc_returns(fails, np.array([-5.0, -5, 5]), ends3, ends3)
    np.testing.assert_allclose(win, [-5.0495, -0.05, 5.0], atol=1e-5)
    assert (mc_returns(fails, np.full(3, -5.0), ends3, none3) == -500).all()
    assert mc_returns(plain, np.full(3, -5.0), ends3, none3)[0] == pytest.approx(-14.8505, abs=1e-4)
    long = np.arange(1000) == 999
    assert mc_returns(ReturnRule(0.99, -1.0), np.full(1000, -1.0), long, long)[0] == pytest.approx(-100)
    assert mc_returns(plain, np.full(1000, -1.0), long, long)[0] == pytest.approx(-99.9957, abs=1e-4)


def test_mean_reward_continues_truncated_trajectories_only():
    rewards, ends = np.array([1.0, 3.0, 1.0, 3.0]), np.array([0, 1, 0, 1], bool)
    terminals = np.array([0, 0, 0, 1], bool)
    returns = mc_returns(ReturnRule(0.5, truncation="mean_reward"), rewards, ends, terminals)
    # The first trajectory is worth its mean reward 2 for ever after its end: 2 / (1 - 0.5) = 4, discounted once.
    np.testing.assert_allclose(returns, [1 + 0.5 * 5.0, 3 + 0.5 * 4.0, 1 + 0.5 * 3.0, 3.0])
    # Or its last reward 3 for ever: 3 / (1 - 0.5) = 6 from there on, its own row included (Cal-QL on kitchen).
    returns = mc_returns(ReturnRule(0.5, truncation="last_reward"), rewards, ends, terminals)
    np.testing.assert_allclose(returns, [1 + 0.5 * 6.0, 6.0, 1 + 0.5 * 3.0, 3.0])


def test_discount_one_needs_finite_sums():
    ends = np.array([True])
    assert mc_returns(ReturnRule(1.0), np.ones(1), ends, ends) == 1.0
    for kwargs in ({"failure_reward": 0.0}, {"truncation": "mean_reward"}):
        with pytest.raises(UserError, match="discount"):
            mc_returns(ReturnRule(1.0, **kwargs), np.ones(1), ends, ends)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 2.5]), st.booleans(), st.booleans()), min_size=1, max_size=40),
    discount=st.sampled_from([0.0, 0.5, 0.99]),
    failure=st.sampled_from([None, -1.0]),
    truncation=st.sampled_from(["none", "mean_reward", "last_reward"]),
    rule=st.sampled_from(["all", "last"]),
)
def test_returns_equal_brute_force(rows, discount, failure, truncation, rule):
    rewards, ends, terminals = (np.array(x) for x in zip(*rows, strict=True))
    terminals = terminals & ends
    ends[-1] = True
    expected, start = [], 0
    for last in np.flatnonzero(ends):
        part = rewards[start : last + 1]
        onwards = {"none": 0.0, "mean_reward": part.mean(), "last_reward": part[-1]}[truncation]
        tail = 0.0 if terminals[last] else onwards / (1 - discount)
        for t in range(len(part)):
            total = sum(discount**k * r for k, r in enumerate(part[t:])) + discount ** (len(part) - t) * tail
            judged = part.max() if rule == "all" else part[-1]
            expected.append(failure / (1 - discount) if failure is not None and judged <= failure else total)
        start = last + 1
    found = mc_returns(ReturnRule(discount, failure, rule, truncation), rewards, ends, terminals)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


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
        online = close_episodes(ReturnRule(0.9, **rule), online, LAYOUT, done, lived, min(12, capacity))
    return np.asarray(online.rows)


@pytest.mark.parametrize("truncation", ["none", "mean_reward", "last_reward"])
@pytest.mark.parametrize(("sparse", "rule"), [(None, "all"), (0.0, "all"), (0.0, "last")])
def test_online_returns_equal_the_datasets(truncation, sparse, rule):
    rng = np.random.default_rng(0)
    lengths, terminal = [3, 7, 1, 5], [True, False, True, False]
    rewards = np.where(np.arange(16) < 3, 0.0, rng.integers(0, 3, 16)).astype(np.float32)
    rows = play(lengths, rewards, terminal, 32, failure_reward=sparse, truncation=truncation, failure_rule=rule)
    ends = np.isin(np.arange(16), np.cumsum(lengths) - 1)
    flags = np.zeros(16, bool)
    flags[np.cumsum(lengths)[np.array(terminal)] - 1] = True
    expected = mc_returns(ReturnRule(0.9, sparse, rule, truncation), rewards, ends, flags)
    np.testing.assert_allclose(rows[0, :16, LAYOUT.mc_return], expected, rtol=1e-5)
    assert np.isneginf(rows[1, :16, LAYOUT.mc_return]).all(), "the other seed's episode goes on"


def test_an_episode_that_wraps_around_the_ring():
    rewards = np.arange(1.0, 14.0, dtype=np.float32)
    rows = play([6, 7], rewards, [True, True], 10)
    expected = mc_returns(ReturnRule(0.9), rewards, np.isin(np.arange(13), [5, 12]), np.ones(13, bool))
    for t in range(3, 13):  # rows 0 to 2 are overwritten by rows 10 to 12
        assert rows[0, t % 10, LAYOUT.obs][0] == t
        assert rows[0, t % 10, LAYOUT.mc_return] == pytest.approx(expected[t], rel=1e-5)


def test_the_reference_numbers_of_a_sparse_task():
    rows = play([3, 3], np.array([-5, -5, 5, -5, -5, -5], np.float32), [True, False], 8, failure_reward=-5.0)
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
    expected = pack(dataset, alike, ReturnRule(config.agent.discount, -1.0, rule))
    program = build_program(config, Spec(4, 2, 20), transforms, expected)
    state, start = init(program, "online"), 0
    for t in range(12):
        one = (x[None, t] for x in (obs, dataset.actions, rewards, next_obs, dataset.terminals))
        row = to_rows(program, *map(jnp.asarray, one))
        state = state._replace(online=ring.insert(state.online, row[:, None]))
        if ends[t]:
            state = end_episodes(program, state, jnp.array([True]), jnp.array([t + 1 - start]), jnp.zeros(1))
            start = t + 1
    np.testing.assert_allclose(state.online.rows[0, :12, :-1], expected[:, :-1], rtol=1e-4, atol=1e-5)
    assert (state.online.rows[0, :12, -1] == Source.ONLINE).all()
    assert np.unique(expected[:, -2]).size > 3 and np.abs(expected[:, 0]).max() < 4.0
