"""A3RL: importance weights, the density ratio, and which rows are chosen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_helpers import toy_config

from cfdg_jax.agents import crossq
from cfdg_jax.agents.crossq import CrossQConfig
from cfdg_jax.agents.registry import AGENTS, make_agent
from cfdg_jax.config import remarks, resolved
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.errors import UserError
from cfdg_jax.methods import Agent, Mix, Stratifier
from cfdg_jax.mix.a3rl import A3RLConfig, a3rl, importance_weights, log_priority, ratio_loss
from cfdg_jax.presets import make_config
from cfdg_jax.training.build import build_program
from cfdg_jax.training.learn import marked_update
from cfdg_jax.types import Batch, Source, Spec

SPEC = Spec(obs_dim=1, act_dim=1, horizon=10)
K, B = 4, 64


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights_average_to_one_under_the_draw(beta):
    """At beta = 1 with weights 1 / (N p) themselves."""
    p = np.random.default_rng(0).dirichlet(np.full(50, 0.3)) + 1e-6
    p /= p.sum()
    weights = np.asarray(importance_weights(jnp.log(p), beta), np.float64)
    assert (p * weights).sum() == pytest.approx(1.0, abs=1e-5)
    plain = (1.0 / (50 * p)) ** beta
    np.testing.assert_allclose(weights, plain / (p * plain).sum(), rtol=1e-4)
    if beta == 1.0:
        np.testing.assert_allclose(weights, 1.0 / (50 * p), rtol=1e-4)


def test_an_even_draw_weighs_every_row_the_same():
    np.testing.assert_allclose(importance_weights(jnp.full(7, -np.log(7.0)), 0.7), np.ones(7), rtol=1e-5)


def test_priorities_follow_a_restatement_in_numpy():
    rng = np.random.default_rng(1)
    log_ratio, advantage, offline = rng.normal(size=9), rng.normal(size=9), rng.random(9) < 0.5
    expected = [0.3 * ((w if off else 0.0) + 0.03 * a) for w, a, off in zip(log_ratio, advantage, offline, strict=True)]
    np.testing.assert_allclose(log_priority(A3RLConfig(), *map(jnp.asarray, (log_ratio, advantage, offline))), expected)


def test_the_ratio_s_loss_is_least_at_the_ratio_of_the_densities():
    """Three symbols: at w = p_on / p_off the loss is -2 JS, and its gradient is zero."""
    p_off, p_on = np.array([0.5, 0.4, 0.1]), np.array([0.1, 0.4, 0.5])
    symbols = np.repeat(np.arange(3), 10)
    offline = np.concatenate([np.arange(10) < round(10 * p) for p in p_off])
    rows = np.concatenate([symbols[offline], np.repeat(np.arange(3), np.round(10 * p_on).astype(int))])
    is_off = jnp.arange(rows.size) < offline.sum()
    loss = lambda log_w: ratio_loss(log_w[rows], is_off, ~is_off)
    best = jnp.log(p_on / p_off)
    middle = (p_off + p_on) / 2
    twice_js = (p_off * np.log(p_off / middle)).sum() + (p_on * np.log(p_on / middle)).sum()
    assert float(loss(best)) == pytest.approx(-twice_js, abs=1e-5)
    np.testing.assert_allclose(jax.grad(loss)(best), np.zeros(3), atol=1e-6)
    assert float(loss(jnp.zeros(3))) == pytest.approx(0.0, abs=1e-6)
    released = lambda w: (
        -np.log(2 / (1 + w[rows[: offline.sum()]])).mean()
        - np.log(2 * w[rows[offline.sum() :]] / (w[rows[offline.sum() :]] + 1)).mean()
    )
    other = np.array([0.3, -0.2, 0.9])
    assert float(loss(jnp.asarray(other))) == pytest.approx(released(np.exp(other)), abs=1e-5)


def rows_of(key) -> Batch:
    """Half offline with actions about -0.5, half online about 0.5."""
    source = jnp.tile(jnp.array([Source.OFFLINE, Source.ONLINE]), B // 2)
    action = 0.3 * jax.random.normal(key, (K, B, 1)) + jnp.where(source == Source.ONLINE, 0.5, -0.5)[:, None]
    zeros, obs = jnp.zeros((K, B)), jnp.zeros((K, B, 1))
    return Batch(obs, action, zeros, obs, zeros, zeros, jnp.broadcast_to(source, (K, B)), jnp.ones((K, B)))


def chooser(**fields):
    config = A3RLConfig(**{"hidden": (32,), "learning_rate": 1e-2, "correction_updates": 300_000} | fields)
    mix = a3rl(config, SPEC)
    value = lambda obs, action: 10.0 * action[..., 0]
    act = lambda obs, key: 0.1 * jax.random.normal(key, (*obs.shape[:-1], 1))
    return mix, jax.jit(lambda state, batch, key: mix.choose(state, batch, value, act, key))


def test_offline_rows_that_look_online_are_chosen_more_and_weigh_less():
    """The ratio of two Gaussians is known: log w(a) = a / 0.09 for means -0.5 and 0.5 and deviation 0.3."""
    mix, choose = chooser(sharpness=1.0, advantage_scale=0.0)
    state = mix.init(jax.random.key(0))
    for i in range(300):
        state, *_ = choose(state, rows_of(jax.random.fold_in(jax.random.key(1), i)), jax.random.key(i))
    batch = rows_of(jax.random.key(9))
    state, index, weight, metrics = choose(state, batch, jax.random.key(10))
    action, offline = batch.action.reshape(-1), batch.source.reshape(-1) == Source.OFFLINE
    assert index.shape == weight.shape == (K * B,)
    chosen = np.asarray(action)[np.asarray(index)]
    kept = np.asarray(offline)[np.asarray(index)]
    assert chosen[kept].mean() > np.asarray(action)[np.asarray(offline)].mean() + 0.2
    assert np.corrcoef(chosen[kept], np.asarray(weight)[kept])[0, 1] < -0.3
    assert float(metrics["chosen_offline"]) < 0.3 and float(metrics["effective_rows"]) < 0.9
    assert float(metrics["ratio_loss"]) < -0.9, "2 JS of the two is 1.1 of at most 1.39"


def test_rows_of_more_advantage_are_chosen_as_often_as_their_probability_says():
    mix, choose = chooser(sharpness=1.0, advantage_scale=0.1)
    state = mix.init(jax.random.key(0))
    batch = rows_of(jax.random.key(3))._replace(source=jnp.full((K, B), Source.ONLINE))
    many = jax.vmap(lambda key: choose(state, batch, key)[1])(jax.random.split(jax.random.key(4), 400))
    counts = np.bincount(np.asarray(many).ravel(), minlength=K * B) / many.size
    logits = np.asarray(batch.action).ravel()  # 0.1 * 10 * a; E_pi Q is the same for all but for its noise
    expected = np.exp(logits) / np.exp(logits).sum()
    assert np.abs(counts - expected).max() < 0.25 * expected.max()
    assert np.corrcoef(counts, expected)[0, 1] > 0.95


def test_the_correction_rises_with_the_updates_to_its_end():
    mix, choose = chooser(sharpness=1.0, advantage_scale=0.1, correction_updates=2 * K)
    state = mix.init(jax.random.key(0))
    batch, spreads = rows_of(jax.random.key(3)), []
    for _ in range(4):
        state, _, weight, _ = choose(state._replace(ratio=mix.init(jax.random.key(0)).ratio), batch, jax.random.key(5))
        spreads.append(float(jnp.log(weight).std()))
    assert int(state.updates) == 4 * K
    assert spreads[1] / spreads[0] == pytest.approx(0.7 / 0.4, rel=0.1) and spreads[2] / spreads[0] == pytest.approx(
        1 / 0.4, rel=0.1
    )
    assert spreads[3] == pytest.approx(spreads[2], rel=0.1)


def test_sharpness_zero_draws_evenly_with_weights_of_one():
    mix, choose = chooser(sharpness=0.0)
    _, index, weight, metrics = choose(mix.init(jax.random.key(0)), rows_of(jax.random.key(3)), jax.random.key(5))
    np.testing.assert_allclose(weight, np.ones(K * B), rtol=1e-5)
    assert (
        float(metrics["effective_rows"]) == pytest.approx(1.0, rel=1e-5)
        and len(set(np.asarray(index).tolist())) > K * B // 2
    )


def test_the_ratio_is_fitted_by_adam_on_the_rows_as_drawn():
    mix, choose = chooser()
    state = mix.init(jax.random.key(0))
    batch = rows_of(jax.random.key(3))
    new, *_ = choose(state, batch, jax.random.key(5))
    optimiser = optax.adam(1e-2)
    params, opt_state = state.ratio, optimiser.init(state.ratio)
    apply = lambda params, x: (
        jax.nn.relu(x @ params["l0"]["kernel"] + params["l0"]["bias"]) @ params["l1"]["kernel"] + params["l1"]["bias"]
    )[:, 0]
    loss = lambda params, off, on: (
        -jnp.log(2 / (1 + jnp.exp(apply(params, off)))).mean() - jnp.log(2 / (1 + jnp.exp(-apply(params, on)))).mean()
    )
    for k in range(K):
        x, off = jnp.concatenate([batch.obs[k], batch.action[k]], axis=-1), batch.source[k] == Source.OFFLINE
        updates, opt_state = optimiser.update(jax.grad(loss)(params, x[off], x[~off]), opt_state)
        params = optax.apply_updates(params, updates)
    for a, b in zip(jax.tree.leaves(new.ratio), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_correction_ends_with_the_run_unless_told_otherwise():
    values = {"dataset": "d4rl:hopper-medium-v2", "agent": "rlpd", "mix": "a3rl", "preset": "paper"}
    config = make_config(**values)
    made = lambda config: resolved(config)["mix"].correction_updates
    assert made(config) == (250_000 - config.online.start_steps) * 20
    assert made(make_config(**values, mix__correction_updates=9)) == 9


@pytest.mark.parametrize(
    "field",
    [
        {"sharpness": -1.0},
        {"correction_start": 2.0},
        {"value_actions": 0},
        {"hidden": (0,)},
        {"correction_updates": 0},
        {"offline_share": 1.0},
    ],
)
def test_impossible_constants_are_refused(field):
    with pytest.raises(UserError, match=f"mix.{next(iter(field))}"):
        A3RLConfig(**field)


def test_the_agent_learns_from_the_chosen_rows_with_their_weights():
    """A rule that turns the rows around and weighs row i by i, and an agent that keeps what it is given."""
    spec = Spec(4, 2, 50)
    config = toy_config("none", "iql", "none")
    serial = np.arange(16.0)
    rows = spec.layout.pack(np.zeros((16, 4)), np.zeros((16, 2)), serial, np.zeros((16, 4)), 0, 0, 0, xp=np)
    program = build_program(config, spec, identity_transforms(4), rows)
    seen = {}

    def choose(state, batches, value, act, key):
        seen["shapes"] = (value(batches.obs, batches.action).shape, act(batches.obs, key).shape)
        count = batches.reward.size
        return state + 1, jnp.arange(count)[::-1], jnp.arange(count, dtype=jnp.float32), {"chosen": jnp.float32(2)}

    mark = lambda shared, own, batch, key: (0.1 * batch.reward, {})
    keeper = Agent(
        init=lambda key: (),
        update=lambda state, batches, key, step: (batches, {}),
        act=lambda state, obs, key, explore: obs[..., :2],
        go_online=lambda state, key: state,
        value=lambda state, obs, action: obs[..., 0],
    )
    rule = Mix(counts=program.mix.counts, draw=program.mix.draw, init=lambda key: 0, choose=choose)
    marks = Stratifier(init=lambda key, seed: (), mark=mark)
    program = dataclasses.replace(program, mix=rule, stratifier=marks, online_agent=keeper)
    drawn = jnp.asarray(rows, jnp.float32).reshape(2, 8, -1)
    _, state, kept, metrics = marked_update(program, "online", (), (), 0, (), jax.random.key(0), drawn, 0)
    assert state == 1 and seen["shapes"] == ((2, 8), (2, 8, 2)) and float(metrics["chosen"]) == 2.0
    np.testing.assert_array_equal(kept.reward, serial[::-1].reshape(2, 8))
    np.testing.assert_array_equal(kept.weight, serial.reshape(2, 8))
    np.testing.assert_allclose(kept.conserve, 0.1 * serial[::-1].reshape(2, 8), rtol=1e-6)
    offline = marked_update(
        dataclasses.replace(program, offline_agent=keeper), "offline", (), (), 0, (), jax.random.key(0), drawn, 0
    )
    assert offline[2].weight is None, "the offline phase learns from the rows drawn"


def test_a_row_without_weight_moves_no_policy_of_sac_s():
    """Its observation is in no gradient; the temperature is held, whose loss is of all rows."""
    agent = make_agent(dataclasses.replace(AGENTS["sac"].config(), policy_delay=1, hidden=(16,)), SPEC, "online", 10)
    batch = jax.tree.map(lambda x: x[:1], rows_of(jax.random.key(0)))._replace(
        weight=jnp.ones((1, B)).at[0, 3].set(0.0)
    )
    moved = batch._replace(obs=batch.obs.at[0, 3].add(2.0))
    state = agent.init(jax.random.key(1))
    of = lambda batch: agent.update(state, batch, jax.random.key(2), jnp.int32(0))[0].policy
    unweighted = lambda batch: of(batch._replace(weight=None))
    largest = lambda a, b: max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    assert largest(unweighted(batch), unweighted(moved)) > 1e-5
    assert largest(of(batch), of(moved)) < 1e-7


def test_crossq_s_policy_loss_leaves_out_a_row_without_weight():
    """The loss alone: its critics are normalised over the batch, which the row is in."""
    p = crossq.parts(CrossQConfig(hidden=(16,)), SPEC)
    state = crossq.init_state(p, jax.random.key(1))
    batch = jax.tree.map(lambda x: x[0], rows_of(jax.random.key(0)))
    weight, moved = jnp.ones(B).at[3].set(0.0), batch._replace(obs=batch.obs.at[3].add(2.0))
    noise = jax.random.normal(jax.random.key(2), batch.action.shape)
    loss = lambda batch, weight: float(
        crossq.policy_loss(p, state.policy, state, batch._replace(weight=weight), noise)[0].mean()
    )
    assert loss(batch, None) != pytest.approx(loss(moved, None), abs=1e-6)
    assert loss(batch, weight) == pytest.approx(loss(moved, weight), abs=1e-6)


def test_a_batch_of_one_origin_teaches_the_ratio_nothing():
    mix, choose = chooser()
    state = mix.init(jax.random.key(0))
    alone = rows_of(jax.random.key(3))._replace(source=jnp.full((K, B), Source.ONLINE))
    new, *_, metrics = choose(state, alone, jax.random.key(5))
    assert float(metrics["ratio_loss"]) == 0.0
    for a, b in zip(jax.tree.leaves(new.ratio), jax.tree.leaves(state.ratio), strict=True):
        np.testing.assert_array_equal(a, b)


def test_many_rows_need_no_square_of_memory():
    mix, choose = chooser()
    many = jax.tree.map(lambda x: jnp.tile(x, (1, 200, *(1 for _ in x.shape[2:]))), rows_of(jax.random.key(3)))
    compiled = choose.lower(mix.init(jax.random.key(0)), many, jax.random.key(5)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 1_000 * 4 * K * B * 200


def test_what_it_cannot_work_with_is_refused_and_its_own_use_is_not_warned_of():
    for dataset, fields in (("d4rl:hopper-medium-v2", {"mix__offline_share": 0.0}), ("", {"env__task": "hopper"})):
        with pytest.raises(UserError, match=r"mix(\.offline_share)?: .*(strictly between 0 and 1|no dataset)"):
            make_config(dataset, "rlpd", mix="a3rl", **fields)
    config = toy_config("none", "sac", mix="a3rl")
    assert not any("marks change nothing" in remark for remark in remarks(config))
    assert any("marks change nothing" in remark for remark in remarks(toy_config("none", "sac", "by_source")))
