"""AWAC against an independent re-statement in every variant, and its own promises."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement
from batches import random_batch
from train_helpers import lines, toy_config
from variants import of_variant

import cfdg_jax
from cfdg_jax.agents import awac as module
from cfdg_jax.agents.awac import ENTRY, VARIANTS, AWACConfig, AWACState, Noise, awac, parts, update_once
from cfdg_jax.agents.base import restarted
from cfdg_jax.errors import UserError
from cfdg_jax.presets import make_config
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=1000)
made_as = functools.partial(of_variant, AWACConfig, VARIANTS)
TINY = dict(hidden=(6, 5), critic_hidden=(7,), layer_norm=False)


def state_of(p, critic, target, policy):
    """Given networks with zero moments."""
    state = restarted(AWACState(critic, target, policy, None, None), critic=p.optimiser, policy=p.optimiser)
    return jax.tree.map(jnp.asarray, state)


def random_state(p, rng, dtype=np.float32):
    """Networks with targets apart from their critics, and a spread near or beyond its range."""
    sizes = (8, *p.config.critic_hidden, 1)
    critic, target = (restatement.ensemble(rng, sizes, 2) for _ in range(2))
    policy = restatement.network(rng, (5, *p.config.hidden, 3)) | {"log_std": np.array([-0.5, 0.4, 2.5], np.float32)}
    return state_of(p, *(jax.tree.map(lambda x: x.astype(dtype), net) for net in (critic, target, policy)))


# -- an independent re-statement ------------------------------------------------------------------------------------

RELEASES = {
    "authors": dict(scale=2.0, weights="softmax", limit=None, seen="before", tanh=True, clip=False, decay=1e-4),
    "corl": dict(scale=0.3333, weights="exp", limit=100.0, seen="after", tanh=False, clip=True, decay=0.0),
    "jax_corl": dict(scale=1.0, weights="exp", limit=None, seen="after", tanh=False, clip=False, decay=0.0),
}
"""What each release does, as read from it."""


def restated_policy(rules, policy, obs):
    """Mean and log standard deviation."""
    mean = restatement.forward({k: v for k, v in policy.items() if k != "log_std"}, obs)
    raw = policy["log_std"]
    if rules["tanh"]:
        return np.tanh(mean), -6 + 6 / (1 + np.exp(-raw))
    return mean, np.where(raw.real > 2, 2, np.where(raw.real < -20, -20, raw))


def restated_step(rules, nets, batch, noise, adams):
    """One AWAC step; `nets` holds q1, q2, tq1, tq2 and pi."""
    s, a, r, s2, d = batch

    def smallest(names, obs, action):
        return restatement.smaller(*(restatement.critic(nets[name], obs, action) for name in names))

    def sampled(obs, draw):
        mean, log_std = restated_policy(rules, nets["pi"], obs)
        action = mean + np.exp(log_std) * draw
        return np.clip(action, -1, 1) if rules["clip"] else action

    y = r + 0.99 * (1 - d) * smallest(("tq1", "tq2"), s2, sampled(s2, noise[0]))
    of_critic = lambda net: np.mean((restatement.critic(net, s, a) - y) ** 2)
    old, new, grads = {name: nets[name] for name in ("q1", "q2")}, {}, {}
    for name in ("q1", "q2"):
        grads[name] = restatement.gradient(of_critic, nets[name])
        new[name] = adams[name].step(nets[name], grads[name])
        new["t" + name] = restatement.average(nets["t" + name], new[name])
    nets = nets | {name: (new if rules["seen"] == "after" else old)[name] for name in ("q1", "q2")}
    advantage = smallest(("q1", "q2"), s, a) - smallest(("q1", "q2"), s, sampled(s, noise[1]))
    weight = np.exp(advantage / rules["scale"])
    if rules["weights"] == "softmax":
        weight = len(a) * weight / weight.sum()
    elif rules["limit"]:
        weight = np.minimum(weight, rules["limit"])

    def of_policy(policy):
        mean, log_std = restated_policy(rules, policy, s)
        log_prob = (-0.5 * ((a - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(axis=1)
        return -np.mean(weight * log_prob)

    losses = {"q": of_critic(old["q1"]) + of_critic(old["q2"]), "pi": of_policy(nets["pi"]), "weight": weight.mean()}
    grads["pi"] = restatement.gradient(of_policy, nets["pi"])
    decay = lambda gradient, value: gradient + rules["decay"] * value
    new["pi"] = adams["pi"].step(nets["pi"], jax.tree.map(decay, grads["pi"], nets["pi"]))
    return new, losses, grads


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_gradients_and_three_updates_equal_an_independent_restatement(name):
    with jax.enable_x64(True):
        sharp = RELEASES[name] | {
            "scale": RELEASES[name]["scale"] / 20
        }  # small critics: the limit has to bind somewhere
        assert made_as(name).advantage_scale == RELEASES[name]["scale"]
        rng, p = np.random.default_rng(3), parts(made_as(name, **TINY, advantage_scale=sharp["scale"]), SPEC)
        state = random_state(p, rng, np.float64)
        arrays = jax.tree.map(np.asarray, state)
        nets = {"pi": arrays.policy} | {f"q{i + 1}": golden.member(arrays.critic, i) for i in (0, 1)}
        nets |= {f"tq{i + 1}": golden.member(arrays.target, i) for i in (0, 1)}
        adams = {net: restatement.Adam() for net in ("q1", "q2", "pi")}
        once = jax.jit(functools.partial(update_once, p))
        for step in range(3):
            rows = random_batch(rng, 16)
            rows = rows._replace(action=np.tanh(rng.normal(size=(16, 3))), reward=4 * rng.normal(size=16))
            batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), rows)
            noise = Noise(*(jnp.asarray(rng.normal(size=(16, 3))) for _ in range(2)))
            before = state
            state, metrics = once(state, batch, noise, step)
            plain = tuple(
                np.asarray(x) for x in (batch.obs, batch.action, batch.reward, batch.next_obs, batch.terminal)
            )
            nets, losses, grads = restated_step(sharp, nets, plain, noise, adams)
            for metric, loss in (("critic_loss", "q"), ("policy_loss", "pi"), ("weight", "weight")):
                np.testing.assert_allclose(np.mean(metrics[metric]), losses[loss], rtol=1e-10, err_msg=metric)
            if step == 0:
                compare_gradients(p, before, state, batch, noise, grads)
            assert name != "corl" or 0.0 < metrics["weight_limited"].mean() < 1.0
        ours = {"pi": state.policy} | {f"q{i + 1}": golden.member(state.critic, i) for i in (0, 1)}
        ours |= {f"tq{i + 1}": golden.member(state.target, i) for i in (0, 1)}
        for net, reference in nets.items():
            for leaf, value in golden.flatten(reference).items():
                np.testing.assert_allclose(golden.flatten(ours[net])[leaf], value, rtol=0, atol=1e-9, err_msg=net)


def compare_gradients(p, before, after, batch, noise, grads):
    """Those of both losses at the start; `after` has the stepped critics."""
    value = module.sampled_value(p, before.target, before.policy, batch.next_obs, noise.next_action)
    target = batch.reward + 0.99 * (1 - batch.terminal) * value
    critic = jax.grad(lambda x: module.critic_loss(p, x, batch, target)[0].mean())(before.critic)
    seen = before.critic if p.switches.seen == "before" else after.critic
    q = p.critic.apply(seen, batch.obs, batch.action).min(axis=0)
    weight, _ = module.regression_weight(p, q - module.sampled_value(p, seen, before.policy, batch.obs, noise.action))
    policy = jax.grad(lambda x: module.policy_loss(p, x, batch, weight)[1].mean())(before.policy)
    for net, ours in (("q1", golden.member(critic, 0)), ("q2", golden.member(critic, 1)), ("pi", policy)):
        for leaf, reference in golden.flatten(grads[net]).items():
            np.testing.assert_allclose(golden.flatten(ours)[leaf], reference, rtol=1e-9, atol=1e-12, err_msg=net + leaf)


# -- promises --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_the_policy_prefers_the_better_of_two_actions_by_the_scale_alone(name):
    """One state, rewards of the action itself, -1 or 1 equally often, an end at once.

    Q(s, a) = a, and V(s) cancels: the policy's mean is the mean under weights exp(+-1 / lambda), tanh(1 / lambda).
    """
    spec, scale = Spec(obs_dim=1, act_dim=1, horizon=1), 2.0
    config = made_as(
        name, advantage_scale=scale, hidden=(32,), critic_hidden=(32,), layer_norm=False, learning_rate=3e-3
    )
    agent = awac(config, spec, "offline")
    action = np.tile(np.array([[-1.0], [1.0]], np.float32), (32, 1))
    rows = spec.layout.pack(np.ones((64, 1)), action, action[:, 0], np.ones((64, 1)), 1.0, -np.inf, 0.0, xp=np)
    batches = spec.layout.unpack(jnp.broadcast_to(rows, (1500, *rows.shape)))
    state, _ = jax.jit(agent.update)(agent.init(jax.random.key(0)), batches, jax.random.key(1), jnp.int32(0))
    np.testing.assert_allclose(agent.value(state, jnp.ones((2, 1)), jnp.array([[-1.0], [1.0]])), [-1, 1], atol=0.03)
    mean = agent.act(state, jnp.ones(1), jax.random.key(2), False)
    assert mean[0] == pytest.approx(np.tanh(1 / scale), abs=0.06)


def test_marks_change_nothing_and_the_entry_says_so():
    agent = awac(made_as(**TINY), SPEC, "online")
    state, rng = agent.init(jax.random.key(0)), np.random.default_rng(1)
    batches = jax.tree.map(lambda x: jnp.asarray(x)[None], random_batch(rng, 8))
    free = batches._replace(conserve=jnp.zeros_like(batches.conserve))
    update = jax.jit(agent.update)
    first, second = (update(state, rows, jax.random.key(1), jnp.int32(0)) for rows in (batches, free))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert ENTRY.without is None and ENTRY.pretrains


@pytest.mark.parametrize("name", VARIANTS)
def test_actions_lie_in_the_box_and_only_exploring_ones_are_drawn(name):
    p = parts(made_as(name, **TINY), SPEC)
    agent, state = awac(p.config, SPEC, "online"), random_state(p, np.random.default_rng(5))
    obs = 5 * jax.random.normal(jax.random.key(1), (200, 5))
    act = jax.jit(agent.act, static_argnums=3)
    drawn, again, mean, same = (act(state, obs, jax.random.key(k), k < 2) for k in range(4))
    assert all(np.abs(x).max() <= 1.0 for x in (drawn, mean)) and (drawn != again).any()
    np.testing.assert_array_equal(mean, same)


def test_the_spread_starts_at_its_release_s():
    spread = lambda name: parts(made_as(name, **TINY), SPEC).policy.apply(
        awac(made_as(name, **TINY), SPEC, "offline").init(jax.random.key(0)).policy, jnp.ones((1, 5))
    )
    np.testing.assert_allclose(spread("authors").log_std, np.full((1, 3), -3.0))
    np.testing.assert_array_equal(spread("corl").log_std, np.zeros((1, 3)))


def test_it_pre_trains_and_goes_on_online(tmp_path):
    """On the toy, with batches of one pool, the targets and moments as they were at the hand-over."""
    config = toy_config("none", "awac")
    assert type(config.mix).__name__ == "UniformConfig"
    run = cfdg_jax.train(config, tmp_path / "run", progress=False)
    assert run.summary["status"] == "done" and not run.summary["failed_seeds"]
    phases = {line["phase"] for line in lines(run.folder, "metrics.jsonl")}
    assert {"offline", "online"} <= phases
    agent = awac(AWACConfig(**TINY), SPEC, "offline")
    state = agent.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, agent.go_online(state, jax.random.key(1)), state)


@pytest.mark.parametrize(
    ("task", "values"),
    [
        ("d4rl:antmaze-umaze-v2", {"advantage_scale": 0.1, "critic_hidden": (256, 256, 256)}),
        ("d4rl:hopper-medium-v2", {"advantage_scale": 0.3333, "hidden": (256, 256, 256)}),
    ],
)
def test_the_paper_preset_has_corls_numbers(task, values):
    config = make_config(task, "awac")
    assert config.agent.variant == "corl" and config.transform.observation == "standardise"
    assert {name: getattr(config.agent, name) for name in values} == values


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("advantage_scale", 0.0, "is 0.0; must be positive"),
        ("tau", 0.0, "is 0.0"),
        ("critic_hidden", (0,), "must hold positive widths"),
        ("variant", "pex", "'pex' is unknown; .*valid: authors, corl, jax_corl"),
    ],
)
def test_bad_values_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=f"^agent.{field}: .*{message}"):
        AWACConfig(**{field: value})
