"""Adaptive behaviour cloning: the controller, and that runs steer it by their episodes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import hopper_config, lines, toy_config

import cfdg_jax
from cfdg_jax.agents.td3bc import TD3BCConfig, parts, policy_loss
from cfdg_jax.config import remarks
from cfdg_jax.errors import UserError
from cfdg_jax.mix.uniform import UniformConfig
from cfdg_jax.presets import make_config
from cfdg_jax.stratify.adaptive_bc import AdaptiveBCConfig, AdaptiveBCState, adaptive_bc, alpha_change
from cfdg_jax.types import Batch, Spec

SPEC = Spec(obs_dim=3, act_dim=2, horizon=1000, reference=(-20.0, 180.0))
CONFIG = AdaptiveBCConfig()


def state_of(alpha: float, mean_return: float, episodes: int = 7) -> AdaptiveBCState:
    return AdaptiveBCState(jnp.float32(alpha), jnp.float32(mean_return), jnp.int32(episodes))


@pytest.mark.parametrize(("score", "change"), [(0.6, -0.0165), (0.3, 0.0035)])
def test_an_episode_changes_alpha_by_the_reference_s_numbers(score, change):
    """Check 49: 1,000 steps, a running mean of 0.5."""
    assert float(alpha_change(CONFIG, jnp.float32(0.5), score, 1000)) == pytest.approx(change, abs=1e-7)
    judged = adaptive_bc(CONFIG, SPEC).judge(state_of(0.2, 0.5), jnp.float32(-20.0 + 200.0 * score), jnp.float32(1000))
    assert float(judged.alpha) == pytest.approx(0.2 + change, abs=1e-6)
    assert float(judged.mean_return) == pytest.approx(0.95 * 0.5 + 0.05 * score, abs=1e-6)


def test_alpha_stays_between_zero_and_its_largest():
    judge = adaptive_bc(CONFIG, SPEC).judge
    assert float(judge(state_of(0.01, 0.5), jnp.float32(80.0), jnp.float32(1000)).alpha) == 0.0
    assert float(judge(state_of(0.39, 0.9), jnp.float32(-20.0), jnp.float32(1000)).alpha) == pytest.approx(0.4)


def test_a_sequence_of_episodes_follows_a_restatement_in_numpy():
    rng = np.random.default_rng(0)
    episodes = list(zip(rng.uniform(-20, 180, 40), rng.integers(1, 1000, 40), strict=True))
    config = AdaptiveBCConfig(most=2.0, proportional=2e-4, derivative=6e-4, goal=0.9, rate=0.2)
    judge = jax.jit(adaptive_bc(config, SPEC).judge)
    state = adaptive_bc(config, SPEC).init(jax.random.key(0))
    alpha, mean, seen = 2.0, None, []
    for episode_return, length in episodes:
        state = judge(state, jnp.float32(episode_return), jnp.float32(length))
        score = (episode_return + 20.0) / 200.0
        mean = score if mean is None else mean  # the first episode is its own mean
        alpha = min(max(alpha + length * (6e-4 * max(mean - score, 0.0) - 2e-4 * (0.9 - mean)), 0.0), 2.0)
        mean = 0.8 * mean + 0.2 * score
        seen.append(alpha)
        np.testing.assert_allclose([state.alpha, state.mean_return], [alpha, mean], rtol=1e-4, atol=1e-5)
    assert np.diff(seen).min() < -0.03 and np.diff(seen).max() > 0.03, "it moved both ways"


def test_with_td3bc_the_policy_s_loss_is_the_authors():
    """``- Q / mean |Q| + alpha mean (pi(s) - a)^2``."""
    config = TD3BCConfig(alpha=1.0, bc_weight=0.4, hidden=(8,))
    p = parts(config, SPEC)
    rng = np.random.default_rng(1)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    zeros = jnp.zeros(5)
    batch = Batch(normal(5, 3), normal(5, 2), zeros, normal(5, 3), zeros, zeros, zeros.astype(jnp.int32), zeros)
    conserve, metrics = adaptive_bc(CONFIG, SPEC).mark((), state_of(0.13, 0.5), batch, jax.random.key(0))
    assert conserve.shape == (5,) and float(metrics["conserve"]) == pytest.approx(0.13 / 0.4)
    policy, critic = p.policy.init(jax.random.key(0)), p.critic.init(jax.random.key(1))
    loss, _ = policy_loss(p, policy, critic, batch._replace(conserve=conserve), 0)
    action = p.policy.apply(policy, batch.obs)
    q = np.asarray(p.critic.apply(critic, batch.obs, action))[0]
    cloning = np.square(np.asarray(action - batch.action)).mean()
    assert float(loss.mean()) == pytest.approx(-q.mean() / np.abs(q).mean() + 0.13 * cloning, rel=1e-5)


def test_a_run_steers_by_its_own_episodes_on_both_kinds_of_environment(tmp_path):
    """`returns` so low and gains so large that every episode lets go by its length, whatever the seed does."""
    fields = {"stratify__returns": (-2000.0, -1000.0), "stratify__goal": 1000.0, "stratify__proportional": 1e-6}
    toy = toy_config("none", "td3bc", "adaptive_bc", **fields)
    hopper = dataclasses.replace(hopper_config(), stratify=toy.stratify)
    for name, config in (("toy", toy), ("hopper", hopper)):
        run = cfdg_jax.train(config, tmp_path / name, progress=False)
        state = run.restore()[1].state.stratifier.own
        assert (np.asarray(state.episodes) > 0).all() and (np.asarray(state.alpha) < 0.4).all()
        shares = [line["conserve"] for line in lines(run.folder, "metrics.jsonl") if "conserve" in line]
        assert np.shape(shares)[1] == 2 and max(shares[-1]) < 1.0 and max(shares[-1]) <= min(shares[0])


def test_a_task_without_reference_scores_is_refused_with_what_would_do():
    with pytest.raises(UserError, match=r"stratify\.returns"):
        adaptive_bc(CONFIG, dataclasses.replace(SPEC, reference=None))
    free = dataclasses.replace(CONFIG, returns=(0.0, 10.0))
    state = adaptive_bc(free, dataclasses.replace(SPEC, reference=None)).judge(
        state_of(0.2, 0.5), jnp.float32(6.0), jnp.float32(1000)
    )
    assert float(state.alpha) == pytest.approx(0.2 - 0.0165, abs=1e-6)


@pytest.mark.parametrize("field", [{"most": 0.0}, {"rate": 0.0}, {"derivative": -1.0}, {"returns": (1.0, 0.0)}])
def test_impossible_constants_are_refused(field):
    with pytest.raises(UserError, match=f"stratify.{next(iter(field))}"):
        AdaptiveBCConfig(**field)


def test_presets_give_the_authors_numbers_and_no_second_schedule():
    values = {"dataset": "d4rl:hopper-medium-v2", "agent": "td3bc", "stratify": "adaptive_bc"}
    paper, reduced = make_config(**values, preset="paper"), make_config(**values, preset="reduced")
    assert (paper.agent.alpha, paper.agent.bc_weight, paper.online.utd) == (1.0, 0.4, 10)
    assert isinstance(paper.mix, UniformConfig)
    for config in (paper, reduced):
        assert (config.agent.online_bc_share, config.agent.bc_decay) == (1.0, 0)
        assert config.agent.bc_weight == config.stratify.most
    fields = {"stratify.most": 8.0, "agent.bc_weight": 8.0}
    adroit = make_config(**values, preset="paper", **fields)
    assert adroit.agent.bc_weight == 8.0 and not any("bc_weight" in remark for remark in remarks(adroit))
    apart = make_config(**values, preset="paper", stratify__most=8.0)
    assert any("agent.bc_weight is 0.4 and stratify.most 8.0" in remark for remark in remarks(apart))
