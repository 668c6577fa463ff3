"""PEX against released code, an independent re-statement, and its own promises."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement
from batches import random_batch
from train_helpers import toy_config
from variants import of_variant

import cfdg_jax
from cfdg_jax.agents import iql as base
from cfdg_jax.agents import pex as module
from cfdg_jax.agents.iql import IQLState
from cfdg_jax.agents.pex import VARIANTS, Noise, PEXConfig, PEXState, Switches, parts, pex, update_once
from cfdg_jax.errors import UserError
from cfdg_jax.fields import override
from cfdg_jax.presets import make_config
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=1000)
RELEASED = functools.partial(
    of_variant,
    PEXConfig,
    VARIANTS,
    "released",
    discount=float(np.float32(0.99)),  # the released code rounds it to float32, in its float64 run too
)
CASES = {"small": RELEASED(hidden=(32, 32), inverse_temperature=3.0), "full": RELEASED()}
EXACT = 1e-9  # float64


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions; the released code's reference run is the float64 one."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def golden_run(golden_of, variant, dtype):
    z, p = golden.load(golden_of(variant), "pex.npz"), parts(CASES[variant], SPEC, "online", 1)
    init = f"{variant}/init"
    critic, target = (golden.stacked(z, [f"{init}/{q}1", f"{init}/{q}2"], dtype) for q in ("q", "tq"))
    value, policy = golden.params(z, f"{init}/v", dtype), golden.params(z, f"{init}/pi", dtype)
    iql = base.with_optimisers(p.iql, IQLState(critic, target, value, policy, None, None, None))
    state = PEXState(golden.params(z, f"{init}/pi_off", dtype), iql)
    return z, p, jax.tree.map(jnp.asarray, state), golden.batch(z, dtype)


def noise_of(z, prefix, dtype):
    greedy = (f"{prefix}/u_greedy_a2", f"{prefix}/u_greedy_select")
    drawn = np.stack([z[name] for name in greedy], axis=-1) if greedy[0] in z.files else np.zeros((64, 2))
    return Noise(*(jnp.asarray(x, dtype) for x in (z[f"{prefix}/eps_a2"], z[f"{prefix}/u_select"], drawn)))


def network(state, name):
    places = {"q1": ("critic", 0), "q2": ("critic", 1), "tq1": ("target", 0), "tq2": ("target", 1)}
    if name in places:
        field, index = places[name]
        return golden.member(getattr(state.iql, field), index)
    return {"v": state.iql.value, "pi": state.iql.policy, "pi_off": state.offline_policy}[name]


@pytest.mark.parametrize("variant", CASES)
def test_three_updates_equal_the_released_code(golden_of, variant, dtype):
    z, p, state, batch = golden_run(golden_of, variant, dtype)
    step = jax.jit(functools.partial(update_once, p))
    for k in (1, 2, 3):
        state, metrics = step(state, batch, noise_of(z, f"{variant}/noise/step{k}", dtype), jnp.asarray(k - 1))
        loss = lambda name, k=k: z[f"{variant}/f64/step{k}/loss/{name}"]
        rtol = EXACT if dtype == np.float64 else (2e-4 if k == 1 else 2e-3)  # the policy's mean cancels; steps add up
        np.testing.assert_allclose(metrics["value_loss"].mean(), loss("v"), rtol=rtol)
        np.testing.assert_allclose(metrics["critic_loss"].mean(), loss("q"), rtol=rtol)
        np.testing.assert_allclose(metrics["policy_loss"].mean(), loss("pi"), rtol=rtol, atol=rtol)
        if k in (1, 3):
            for name in ("q1", "q2", "tq1", "tq2", "v", "pi", "pi_off"):
                for leaf, value in golden.flatten(network(state, name)).items():
                    reference = f"{variant}/f64/after{k}/{name}/{leaf}"
                    golden.compare(z, reference, value, 5e-4 if dtype == np.float32 else EXACT)


@pytest.mark.parametrize("variant", CASES)
def test_the_composite_action_equals_the_released_code(golden_of, variant, dtype):
    z, p, state, batch = golden_run(golden_of, variant, dtype)
    state, _ = jax.jit(functools.partial(module.update_critics, p))(state, batch, 0)
    noise, term = noise_of(z, f"{variant}/noise/step1", dtype), lambda name: z[f"{variant}/f64/step1/term/{name}"]
    choice = jax.jit(functools.partial(module.act_with, p), static_argnums=3)(state, batch.obs, noise, True)
    close = functools.partial(np.testing.assert_allclose, atol=EXACT if dtype == np.float64 else 3e-5)
    close(choice.proposals, np.stack([term("a1"), term("a2")]))
    close(choice.q, np.stack([term("qa1"), term("qa2")]))
    close(choice.probability.T, term("prob"))
    np.testing.assert_array_equal(noise.select >= choice.probability[0], term("selected"))
    close(choice.action, term("action"))


@pytest.mark.parametrize("how", ["act_train", "act_eval"])
def test_acting_equals_the_released_code(golden_of, how, dtype):
    z, p, state, batch = golden_run(golden_of, "small", dtype)
    noise = noise_of(z, f"small/f64/{how}", dtype)
    acting = jax.jit(functools.partial(module.act_with, p), static_argnums=3)
    choice = acting(state, batch.obs[:24], noise, how == "act_train")
    np.testing.assert_allclose(choice.proposals[0], z[f"small/f64/{how}/a1"], atol=1e-6)
    np.testing.assert_allclose(choice.action, z[f"small/f64/{how}/action"], atol=1e-6)


def gaussian_mean(params, obs):
    return np.tanh(restatement.forward({k: v for k, v in params.items() if k != "log_std"}, obs))


def restated(state, batch, noises, config):
    """Updates in float64 NumPy, gradients by complex steps."""
    double = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    critic, target, value, policy = map(double, state.iql[:4])
    frozen, adams = double(state.offline_policy), [restatement.Adam() for _ in range(3)]
    one = lambda params, i: restatement.rebuild((path, leaf[i]) for path, leaf in restatement.leaves(params))
    q_min = lambda params, action: np.minimum(
        *(restatement.critic(one(params, i), batch.obs, action).real for i in (0, 1))
    )
    v_of = lambda params, obs: restatement.forward(params, obs)[:, 0]
    for noise in noises:
        y = batch.reward + 0.99 * (1 - batch.terminal) * v_of(value, batch.next_obs).real
        regressed = q_min(target, batch.action)

        def loss_v(params, regressed=regressed):
            error = regressed - v_of(params, batch.obs)
            return (np.where(error.real > 0, config.expectile, 1 - config.expectile) * error**2).mean()

        def loss_q(params, y=y):
            return (
                sum(((restatement.critic(one(params, i), batch.obs, batch.action) - y) ** 2).mean() for i in (0, 1)) / 2
            )

        value = adams[0].step(value, restatement.gradient(loss_v, value))
        critic = adams[1].step(critic, restatement.gradient(loss_q, critic))
        target = restatement.average(target, critic)
        first, mean = gaussian_mean(frozen, batch.obs), gaussian_mean(policy, batch.obs)
        second = np.clip(mean + np.exp(policy["log_std"]) * noise.action, -1, 1)
        better = config.inverse_temperature * (q_min(critic, second) - q_min(critic, first))
        take_second = noise.select >= 1 / (1 + np.exp(better))
        action = np.where(take_second[:, None], second, first)
        advantage = q_min(target, action) - v_of(value, batch.obs).real
        weight = np.minimum(np.exp(config.temperature * advantage), 100)

        def loss_pi(params, action=action, weight=weight):
            z = (action - gaussian_mean(params, batch.obs)) / np.exp(params["log_std"])
            log_prob = (-0.5 * z**2 - params["log_std"] - 0.5 * np.log(2 * np.pi)).sum(axis=1)
            return -(weight * log_prob).mean()

        policy = adams[2].step(policy, restatement.gradient(loss_pi, policy))
    return critic, target, value, policy


def test_three_updates_equal_an_independent_restatement():
    rng, config = np.random.default_rng(0), PEXConfig(hidden=(4,))
    p = parts(config, SPEC, "online", 1)
    critic, target = (restatement.ensemble(rng, (8, 4, 1), 2) for _ in range(2))
    value = restatement.network(rng, (5, 4, 1))
    policies = [restatement.network(rng, (5, 4, 3)) | {"log_std": np.full(3, -0.5, np.float32)} for _ in range(2)]
    iql = base.with_optimisers(p.iql, IQLState(critic, target, value, policies[0], None, None, None))
    state, batch = PEXState(policies[1], iql), random_batch(rng)
    draw = lambda: Noise(rng.normal(size=(6, 3)), rng.random(6), rng.random((6, 2)))
    noises = [jax.tree.map(np.float32, draw()) for _ in range(3)]
    new = jax.tree.map(jnp.asarray, state)
    for k, noise in enumerate(noises):
        new, _ = jax.jit(functools.partial(update_once, p))(new, batch, noise, jnp.asarray(k))
    expected = restated(state, batch, noises, config)
    for ours, theirs in zip(new.iql[:4], expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), ours, theirs)


@pytest.mark.parametrize(
    ("alpha", "gap", "epsilon", "expected"),
    [(10.0, 0.1, 1.0, 0.73106), (10.0, 0.1, 0.1, 0.97311), (3.0, 0.1, 1.0, 0.57444), (10.0, 0.0, 1.0, 0.5)],
)
def test_how_often_the_better_proposal_is_chosen(alpha, gap, epsilon, expected):
    """Check 36; epsilon 1 never chooses greedily."""
    switches = Switches(evaluation="eps_greedy", epsilon=epsilon)
    p = parts(PEXConfig(hidden=(4,), inverse_temperature=alpha), SPEC, "online", 1, switches)
    state, draws = module.init_online(p, jax.random.key(0)), 100_000
    q = jnp.array([0.0, gap])
    critic = lambda params, obs, action: jnp.broadcast_to(q[:, None], (2, 2, draws))
    p = p._replace(iql=p.iql._replace(critic=p.iql.critic._replace(apply=critic)))
    obs = jnp.ones((draws, 5))
    noise = module.draw_noise(p, obs, jax.random.key(1))
    choice = jax.jit(functools.partial(module.act_with, p), static_argnums=3)(state, obs, noise, False)
    second = (choice.action == choice.proposals[1]).all(axis=-1).mean()
    assert second == pytest.approx(expected, abs=0.005)


def test_the_offline_policy_is_frozen_and_the_batchs_action_is_not_cloned():
    """Check 37."""
    agent = pex(PEXConfig(hidden=(16, 16)), SPEC, "online")
    state, rng = agent.init(jax.random.key(0)), np.random.default_rng(1)
    batch = random_batch(rng, 8)
    batches = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 1000), batch)
    new, _ = jax.jit(agent.update)(state, batches, jax.random.key(1), jnp.asarray(0))
    jax.tree.map(np.testing.assert_array_equal, new.offline_policy, state.offline_policy)
    assert not np.array_equal(new.iql.policy["l0"]["kernel"], state.iql.policy["l0"]["kernel"])
    p = parts(PEXConfig(hidden=(16, 16)), SPEC, "online", 1)
    noise = module.draw_noise(p, batch.obs, jax.random.key(2))
    step = jax.jit(functools.partial(module.update_policy, p))
    losses = [
        step(state, batch._replace(action=action), noise, 0)[1]["policy_loss"].mean()
        for action in (batch.action, -batch.action)
    ]
    assert losses[0] == losses[1]


def test_rows_without_conserve_regress_v_at_the_free_level():
    """A row's `conserve` picks between two losses of V, each of which an all-conservative batch can show."""
    config = PEXConfig(hidden=(16, 16), free_expectile=0.99, free_target="min")
    batch = random_batch(np.random.default_rng(3), 8)

    def value_after(config, conserve):
        p = parts(config, SPEC, "online", 1)
        marked = batch._replace(conserve=np.asarray(conserve, np.float32))
        state = module.init_online(p, jax.random.key(0))
        new, metrics = jax.jit(functools.partial(module.update_critics, p))(state, marked, 0)
        return new.iql.value, metrics["value_loss"].mean()

    free, free_loss = value_after(config, np.zeros(8))
    same, same_loss = value_after(dataclasses.replace(config, expectile=0.99), np.ones(8))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), free, same)
    np.testing.assert_allclose(free_loss, same_loss, rtol=1e-5, atol=1e-6)
    _, twin_loss = value_after(dataclasses.replace(config, free_target="twin"), np.zeros(8))
    _, base_loss = value_after(config, np.ones(8))
    half = np.arange(8) % 2
    _, half_loss = value_after(config, half)
    _, other_loss = value_after(config, 1 - half)
    assert twin_loss != free_loss != base_loss
    np.testing.assert_allclose(half_loss + other_loss, free_loss + base_loss, rtol=1e-5)


def test_the_policies_start_by_xavier_and_the_critics_as_in_pytorch():
    """In both phases: PEX's policy has no biases at first, its critics do."""
    for phase in ("offline", "online"):
        state = pex(PEXConfig(hidden=(16, 16)), SPEC, phase).init(jax.random.key(0))
        iql = state if phase == "offline" else state.iql
        assert not any(np.any(iql.policy[layer]["bias"]) for layer in ("l0", "l1", "l2"))
        assert all(np.all(iql.critic[layer]["bias"]) for layer in ("l0", "l1", "l2"))


@pytest.mark.parametrize(("copy", "reset"), [(False, True), (True, False)])
def test_the_hand_over_expands_the_policy_and_keeps_the_critics(copy, reset):
    config = PEXConfig(hidden=(16, 16))
    switches = Switches(iql=base.PEX_SWITCHES._replace(copy_to_target=copy, reset_optimiser_online=reset))
    offline, online = (pex(config, SPEC, phase, switches=switches) for phase in ("offline", "online"))
    batches = jax.tree.map(lambda x: jnp.asarray(x)[None], random_batch(np.random.default_rng(2)))
    before, _ = offline.update(offline.init(jax.random.key(0)), batches, jax.random.key(1), jnp.asarray(0))
    after = offline.go_online(before, jax.random.key(3))
    assert jax.tree.structure(after) == jax.tree.structure(online.init(jax.random.key(0)))
    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    same(after.iql.critic, before.critic)
    same(after.iql.value, before.value)
    same(after.iql.target, before.critic if copy else before.target)
    same(after.offline_policy, before.policy)
    moments = lambda tree: [np.any(leaf) for leaf in jax.tree.leaves(tree)]
    assert not any(moments(after.iql.policy_opt)), "a fresh policy has no past"
    for kept, old in ((after.iql.critic_opt, before.critic_opt), (after.iql.value_opt, before.value_opt)):
        assert any(moments(old)) and any(moments(kept)) != reset
        if not reset:
            same(kept, old)
    obs = jax.random.normal(jax.random.key(4), (9, 5))
    p = parts(config, SPEC, "online", 1, switches)
    proposals = module.propose(p, after, obs, jnp.zeros((9, 3)))
    np.testing.assert_allclose(proposals[0], offline.act(before, obs, jax.random.key(0), False), rtol=1e-5, atol=1e-6)
    chosen = online.act(after, obs, jax.random.key(5), False)
    assert all(
        any(np.allclose(a, q) for q in pair) for a, pair in zip(chosen, np.swapaxes(proposals, 0, 1), strict=True)
    )


def test_the_online_expectile_and_temperature_hold_from_the_hand_over_on():
    own = dict(expectile=0.7, temperature=3.0, hidden=(16, 16))
    split = PEXConfig(**own, online_expectile=0.9, online_temperature=30.0)
    sharp = PEXConfig(**own | {"expectile": 0.9, "temperature": 30.0})
    batches = jax.tree.map(lambda x: jnp.asarray(x)[None], random_batch(np.random.default_rng(5)))

    def after(config, phase):
        agent = pex(config, SPEC, phase)
        return agent.update(agent.init(jax.random.key(0)), batches, jax.random.key(1), jnp.asarray(0))

    same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
    same(after(split, "offline"), after(PEXConfig(**own), "offline"))
    same(after(split, "online"), after(sharp, "online"))
    mild, sharper = after(PEXConfig(**own), "online")[1], after(split, "online")[1]
    assert mild["value_loss"] != sharper["value_loss"] and mild["weight"] != sharper["weight"]


def test_exploring_actions_lie_in_the_box_and_are_drawn():
    agent = pex(PEXConfig(hidden=(16, 16)), SPEC, "online")
    state = agent.init(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (200, 5))
    first, second = (agent.act(state, obs, jax.random.key(k), True) for k in (2, 3))
    assert np.abs(first).max() <= 1.0 and (first != second).any()
    mean, again = (agent.act(state, obs, jax.random.key(k), False) for k in (2, 3))
    np.testing.assert_array_equal(mean, again)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inverse_temperature", -1.0, "agent.inverse_temperature: is -1.0"),
        ("variant", "corl", "agent.variant: 'corl' is unknown"),
        ("expectile", 1.0, "agent.expectile"),
        ("online_expectile", 0.0, "agent.online_expectile: is 0.0"),
        ("online_temperature", -1.0, "agent.online_temperature: is -1.0"),
    ],
)
def test_bad_values_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        PEXConfig(**{field: value})


def test_the_regression_weight_has_its_limit_and_its_critics():
    batches = jax.tree.map(lambda *x: jnp.stack(x), *(random_batch(np.random.default_rng(k)) for k in range(3)))

    def metrics_of(switches=Switches(), **changes):
        agent = pex(PEXConfig(hidden=(16, 16), **changes), SPEC, "online", switches=switches)
        return jax.jit(agent.update)(agent.init(jax.random.key(0)), batches, jax.random.key(1), jnp.int32(0))[1]

    free, limited = metrics_of(), metrics_of(advantage_limit=0.01)
    assert free["weight"] > 0.01 and limited["weight"] <= 0.01 * (1 + 1e-6) and limited["weight_limited"] > 0.5
    online = Switches(iql=Switches().iql._replace(advantage="online"))
    assert metrics_of(online)["advantage"] != free["advantage"], "critics have left their targets"


def test_what_only_iql_can_do_is_no_choice():
    """PEX proposes samples of Gaussians, and its critics bootstrap with V."""
    with pytest.raises(UserError, match=r"agent\.policy: is no config field"):
        make_config(agent="pex", agent__policy="deterministic")
    with pytest.raises(UserError, match=r"agent\.free_target: is 'sampled'.*valid: twin, min"):
        make_config(agent="pex", agent__free_target="sampled")


def test_no_field_is_lost_between_pex_and_its_iql():
    """Each field that both configs have reaches the steps that PEX shares with IQL."""
    other = PEXConfig(
        expectile=0.6, temperature=5.0, advantage_limit=50.0, discount=0.9, tau=0.1, hidden=(8,), critics=3,
        layer_norm=True, learning_rate=1e-3, anneal="each", free_expectile=0.8, free_target="min",
    )  # fmt: skip
    for phase in ("offline", "online"):
        own = parts(other, SPEC, phase, 1).iql.config
        fields = {field.name for field in dataclasses.fields(own)} - {"variant", "policy"}
        assert {name: getattr(own, name) for name in fields} == {name: getattr(other, name) for name in fields}
        assert all(getattr(other, name) != getattr(PEXConfig(), name) for name in fields)


@pytest.mark.parametrize("released", [False, True])
def test_the_replay_holds_the_action_as_proposed_in_the_released_form_alone(released, tmp_path):
    """What the environment executes is clipped either way."""
    config = toy_config(
        "none", "pex", **{"agent__variant": "released" if released else "authors", "agent__hidden": (16,)}
    )
    config = override(config, {"offline.steps": 0, "online.steps": 90, "online.start_steps": 90})
    run = cfdg_jax.train(config, tmp_path / "run", progress=False)
    program, saved = run.restore()
    online = saved.state.online
    rows = np.asarray(online.rows)[:, : int(online.size)]
    layout = program.spec.layout
    largest = np.abs(rows[..., layout.action]).max()
    assert largest > 1.5 if released else largest <= 1.0
    fastest = np.abs(rows[..., layout.next_obs][..., 2:]).max()
    assert fastest <= 1.0 + 1e-5, "full thrust settles at speed 1"
