"""IQL against the released code's numbers, an independent re-statement, and its own promises."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement
from variants import of_variant

from cfdg_jax.agents import iql as module
from cfdg_jax.agents.iql import (
    VARIANTS,
    IQLConfig,
    IQLState,
    Switches,
    iql,
    parts,
    policy_loss,
    update_once,
    value_loss,
)
from cfdg_jax.core.losses import awr_weight, expectile, td_target
from cfdg_jax.core.seeds import over_seeds
from cfdg_jax.errors import UserError
from cfdg_jax.types import Batch, Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=1000)
EXACT = 5e-7  # float64: the released code rounds the expectile's weights to float32
made_as = functools.partial(of_variant, IQLConfig, VARIANTS)
CORL, PEX = (functools.partial(made_as, name) for name in ("corl", "pex"))
RELEASES = {
    "corl small": ("iql_corl.npz", "small", CORL(hidden=(32, 32))),
    "corl small_antmaze": ("iql_corl.npz", "small_antmaze", CORL(hidden=(32, 32), expectile=0.9, temperature=10.0)),
    "corl small_det": ("iql_corl.npz", "small_det", CORL(hidden=(32, 32), policy="deterministic")),
    "corl full": ("iql_corl.npz", "full", CORL()),
    "pex small": ("iql_pex.npz", "small", PEX(hidden=(32, 32))),
    "pex full": ("iql_pex.npz", "full", PEX()),
}
"""By case: the file, its variant, and the config with the variant of this package that meets it."""
NAMES = {"q1": ("critic", 0), "q2": ("critic", 1), "tq1": ("target", 0), "tq2": ("target", 1)}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions; the released code's reference run is the float64 one."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def golden_run(golden_of, case, dtype):
    """The file, its variant, the parts, the state at the start and the batch of a case."""
    file, variant, config = RELEASES[case]
    z, p = golden.load(golden_of(variant), file), parts(config, SPEC, "offline", 1_000_000)
    return z, variant, p, golden_state(z, p, variant, dtype), golden.batch(z, dtype)


def golden_state(z, p, variant, dtype):
    init = f"{variant}/init" if f"{variant}/init/q1/l0/W" in z.files else "small/init"
    critic, target = (golden.stacked(z, [f"{init}/{q}1", f"{init}/{q}2"], dtype) for q in ("q", "tq"))
    value, policy = golden.params(z, f"{init}/v", dtype), golden.params(z, f"{init}/pi", dtype)
    if p.config.policy == "deterministic":
        policy.pop("log_std", None)
    return with_moments(p, critic, target, value, policy)


def with_moments(p, *networks):
    state = IQLState(*networks, None, None, None)
    return jax.tree.map(jnp.asarray, module.with_optimisers(p, state))


def golden_network(state, name):
    if name in NAMES:
        field, index = NAMES[name]
        return golden.member(getattr(state, field), index)
    return {"v": state.value, "pi": state.policy}[name]


def terms(p, state, batch):
    """The released code's per-sample quantities, from this package's functions."""
    target_q = p.critic.apply(state.target, batch.obs, batch.action)
    q = p.critic.apply(state.critic, batch.obs, batch.action)
    v, next_v = p.value.apply(state.value, jnp.stack([batch.obs, batch.next_obs]))
    advantage = target_q.min(axis=0) - v
    weight, _ = awr_weight(advantage, p.config.temperature)
    target = td_target(batch.reward, batch.terminal, next_v, 0.99)
    squares = jnp.square(q - target)
    values = {
        "target_q1": target_q[0], "target_q2": target_q[1], "v": v, "next_v": next_v, "adv": advantage,
        "v_loss": expectile(advantage, p.config.expectile), "target": target, "q1": q[0], "q2": q[1],
        "q1_sq_err": squares[0], "q2_sq_err": squares[1], "exp_adv": weight,
    }  # fmt: skip
    policy = p.policy.apply(state.policy, batch.obs)
    if p.config.policy == "deterministic":
        return values | {"pi": policy, "pi_loss": weight * jnp.sum(jnp.square(policy - batch.action), axis=-1)}
    log_prob = policy.log_prob(batch.action)
    return values | {"mu": policy.mean, "log_prob": log_prob, "pi_loss": -weight * log_prob}


def gradients(p, state, batch):
    """Gradients of the three losses, by the golden files' network names."""
    target_q = p.critic.apply(state.target, batch.obs, batch.action)
    v, next_v = p.value.apply(state.value, jnp.stack([batch.obs, batch.next_obs]))
    weight, _ = awr_weight(target_q.min(axis=0) - v, p.config.temperature)
    target = td_target(batch.reward, batch.terminal, next_v, 0.99)
    critic = jax.grad(lambda x: module.critic_loss(p, x, batch, target)[0].mean())(state.critic)
    return {
        "v": jax.grad(lambda x: value_loss(p, x, batch, target_q)[0].mean())(state.value),
        "pi": jax.grad(lambda x: policy_loss(p, x, batch, weight).mean())(state.policy),
        "q1": golden.member(critic, 0),
        "q2": golden.member(critic, 1),
    }


@pytest.mark.parametrize("case", RELEASES)
def test_terms_and_losses_equal_the_released_code(golden_of, case, dtype):
    z, variant, p, state, batch = golden_run(golden_of, case, dtype)
    ref = lambda name: z[f"{variant}/f64/step1/term/{name}"]
    ours = jax.jit(functools.partial(terms, p))(state, batch)
    rtol = EXACT if dtype == np.float64 else 1e-5
    for name, value in ours.items():
        assert value.dtype == dtype
        np.testing.assert_allclose(value, ref(name), rtol=rtol, atol=rtol * np.abs(ref(name)).max(), err_msg=name)


@pytest.mark.parametrize("case", RELEASES)
def test_gradients_equal_the_released_code(golden_of, case, dtype):
    z, variant, p, state, batch = golden_run(golden_of, case, dtype)
    grads = jax.jit(functools.partial(gradients, p))(state, batch)
    compared = 0
    for net, network in grads.items():
        for name, value in golden.flatten(network).items():
            atol = (EXACT if dtype == np.float64 else 2e-5) * np.abs(value).max()
            golden.compare(z, f"{variant}/f64/step1/grad/{net}/{name}", value, atol + 1e-12)
            compared += 1
    assert compared == 24 + (p.config.policy == "gaussian")
    if case in ("corl small", "pex small"):
        assert grads["pi"]["log_std"][2] == 0.0  # beyond the clip


@pytest.mark.parametrize("case", RELEASES)
def test_three_updates_equal_the_released_code(golden_of, case, dtype):
    z, variant, p, state, batch = golden_run(golden_of, case, dtype)
    exact = dtype == np.float64
    once = jax.jit(functools.partial(update_once, p))
    for step in range(3):
        state, metrics = once(state, batch, step)
        for name, metric in (("v", "value_loss"), ("q", "critic_loss"), ("pi", "policy_loss")):
            reference = z[f"{variant}/f64/step{step + 1}/loss/{name}"]
            near = 2e-4 if (variant, name) == ("full", "pi") else 1e-5 * (1 + step)  # that mean cancels
            rtol = EXACT if exact else near
            np.testing.assert_allclose(metrics[metric].mean(), reference, rtol=rtol, err_msg=name)
        if step in (0, 2):
            for net in ("q1", "q2", "tq1", "tq2", "v", "pi"):
                for name, value in golden.flatten(golden_network(state, net)).items():
                    compare_parameters(z, variant, step + 1, f"{net}/{name}", value, exact)


def compare_parameters(z, variant, step, name, value, exact):
    """Within 1e-7 in float64; in float32 within 2e-6 but where Adam turns a vanishing gradient into a whole step."""
    full = f"{variant}/f64/after{step}/{name}"
    if exact:
        return golden.compare(z, full, value, 1e-7)
    gradient = f"{variant}/f64/step1/grad/{name.removeprefix('t')}"
    whole = full in z.files and gradient in z.files
    vanishing = np.abs(z[gradient]) < 1e-5 * np.abs(z[gradient]).max() if whole else np.zeros((), bool)
    for suffix, reference in golden.expected(z, full).items():
        ours = golden.summaries(value)[suffix] if suffix else value
        if suffix in ("", "@s"):
            error = np.abs(ours - reference)
            assert error[~np.broadcast_to(vanishing, error.shape)].max() < (2e-6 if whole else 5e-5), name
            assert error.max() < 1e-3, name
        else:
            np.testing.assert_allclose(ours, reference, rtol=2e-5, atol=2e-3, err_msg=name + suffix)


def test_cosine_schedule_of_the_released_code(golden_dir, dtype):
    z = golden.load(golden_dir, "iql_corl.npz")
    p = parts(CORL(hidden=(32, 32)), SPEC, "offline", phase_updates=4)
    state, batch = golden_state(z, p, "small_sched", dtype), golden.batch(z, dtype)
    once = jax.jit(functools.partial(update_once, p))
    for step in range(3):
        state, _ = once(state, batch, step)
    for name, value in golden.flatten(state.policy).items():
        if dtype == np.float64:
            golden.compare(z, f"small_sched/f64/after3/pi/{name}", value, 1e-7)
        else:
            compare_parameters(z, "small_sched", 3, f"pi/{name}", value, False)


# -- an independent re-statement ------------------------------------------------------------------------------------


def restated_step(nets, batch, adams, step, config, switches):
    """One IQL step in NumPy; `nets` holds q1, q2, tq1, tq2, v, pi and is replaced."""
    s, a, r, s2, d = batch
    q = restatement.smaller(restatement.critic(nets["tq1"], s, a), restatement.critic(nets["tq2"], s, a))

    def loss_v(v):
        u = q - restatement.forward(v, s)[:, 0]
        return np.mean(np.where(u.real > 0, config.expectile, 1 - config.expectile) * u * u)

    old_v = nets["v"]
    new_v = adams["v"].step(old_v, restatement.gradient(loss_v, old_v))
    used_v = new_v if switches.order == "jax" else old_v
    advantage = q - restatement.forward(used_v, s)[:, 0]
    weight = np.minimum(np.exp(config.temperature * advantage), 100.0)
    y = r + 0.99 * (1 - d) * restatement.forward(used_v, s2)[:, 0]

    def loss_q(name):
        scale = 1.0 if switches.q_loss == "sum" else 0.5
        return lambda q_net: scale * np.mean((restatement.critic(q_net, s, a) - y) ** 2)

    def loss_pi(pi):
        mean, log_std = np.tanh(restatement.forward(pi, s)), pi["log_std"]
        log_std = np.where(log_std.real > 2, 2, np.where(log_std.real < -5, -5, log_std))
        log_prob = -0.5 * ((a - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
        return -np.mean(weight * log_prob.sum(axis=1))

    losses = {"v": loss_v(old_v), "pi": loss_pi(nets["pi"]), "q": loss_q("q1")(nets["q1"]) + loss_q("q2")(nets["q2"])}
    new = {"v": new_v, "pi": adams["pi"].step(nets["pi"], restatement.gradient(loss_pi, nets["pi"]))}
    for name in ("q1", "q2"):
        new[name] = adams[name].step(nets[name], restatement.gradient(loss_q(name), nets[name]))
        new["t" + name] = restatement.average(nets["t" + name], new[name])
    return new, losses


@pytest.mark.parametrize("order, q_loss", [("jax", "sum"), ("torch", "mean")])
def test_three_updates_equal_an_independent_restatement(order, q_loss):
    config, switches = IQLConfig(hidden=(6, 5)), Switches(order=order, q_loss=q_loss, init="pytorch")
    with jax.enable_x64(True):
        spec = Spec(4, 2, 100)
        p = parts(config, spec, "offline", 5, switches)
        state = fresh(p, spec=spec)
        state = state._replace(policy={**state.policy, "log_std": jnp.array([-0.5, 2.5])})
        state = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, state)
        arrays = jax.tree.map(np.asarray, state)
        nets = {name: golden.member(getattr(arrays, field), i) for name, (field, i) in NAMES.items()}
        nets |= {"v": arrays.value, "pi": arrays.policy}
        cosine = lambda step: 3e-4 * 0.5 * (1 + np.cos(np.pi * step / 5))
        adams = {"v": restatement.Adam(), "q1": restatement.Adam(), "q2": restatement.Adam()}
        adams["pi"] = restatement.Adam(cosine)
        once = jax.jit(functools.partial(update_once, p))
        for step in range(3):
            rng = np.random.default_rng(step)
            s, a, r, s2 = (rng.normal(size=shape) for shape in ((16, 4), (16, 2), (16,), (16, 4)))
            a, d = np.tanh(a), (rng.random(16) < 0.2).astype(float)
            ones = np.ones(16)
            batch = Batch(*map(jnp.asarray, (s, a, r, s2, d, -np.inf * ones, np.zeros(16, np.int32), ones)))
            state, metrics = once(state, batch, step)
            nets, losses = restated_step(nets, (s, a, r, s2, d), adams, step, config, switches)
            for name, metric in (("v", "value_loss"), ("q", "critic_loss"), ("pi", "policy_loss")):
                np.testing.assert_allclose(metrics[metric].mean(), losses[name], rtol=1e-10)
        for net, reference in nets.items():
            ours = golden.flatten(golden_network(state, net))
            for name, value in golden.flatten(reference).items():
                np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-9, err_msg=f"{net}/{name}")


# -- promises --------------------------------------------------------------------------------------------------------

SMALL, PYTORCH = IQLConfig(hidden=(16, 16)), Switches(init="pytorch")


def fresh(p, seed=1, spec=SPEC):
    """A state with random NumPy parameters, targets apart from their critics (compiling `init` takes seconds)."""
    rng, hidden = np.random.default_rng(seed), p.config.hidden
    critic, target = (restatement.ensemble(rng, (spec.obs_dim + spec.act_dim, *hidden, 1), 2) for _ in range(2))
    value = restatement.network(rng, (spec.obs_dim, *hidden, 1))
    policy = restatement.network(rng, (spec.obs_dim, *hidden, spec.act_dim))
    if p.config.policy == "gaussian":
        policy["log_std"] = np.zeros(spec.act_dim, np.float32)
    return with_moments(p, critic, target, value, policy)


def made(config, phase="offline", phase_updates=100, switches=PYTORCH):
    """Parts, agent and a fresh state of a config."""
    p = parts(config, SPEC, phase, phase_updates, switches)
    return p, iql(config, SPEC, phase, phase_updates, switches), fresh(p)


def random_batches(seed, updates=2, rows=32):
    layout = SPEC.layout
    packed = np.random.default_rng(seed).normal(size=(updates, rows, layout.width)).astype(np.float32)
    packed[..., layout.terminal] = 0.0
    return layout.unpack(jnp.asarray(packed))


def test_actor_weight_uses_the_value_after_its_step_in_jax_order_and_before_in_torch_order():
    """Reference check 35: with a large rate the two advantages are far apart."""
    batch = jax.tree.map(lambda x: x[0], random_batches(0))
    advantages = {}
    for order in ("jax", "torch"):
        p = parts(dataclasses.replace(SMALL, learning_rate=0.1), SPEC, "offline", 100, Switches(order=order))
        state = fresh(p)
        new, metrics = jax.jit(functools.partial(update_once, p))(state, batch, 0)
        q = p.critic.apply(state.target, batch.obs, batch.action).min(axis=0)
        used = new.value if order == "jax" else state.value
        advantages[order] = float(metrics["advantage"].mean())
        np.testing.assert_allclose(metrics["advantage"], q - p.value.apply(used, batch.obs), rtol=1e-4, atol=1e-5)
    assert abs(advantages["jax"] - advantages["torch"]) > 0.05


def test_a_terminal_row_does_not_bootstrap_and_a_timeout_row_does():
    """Reference check 33, through the critic's loss at a known value."""
    p = parts(SMALL, SPEC, "offline", 100, Switches(order="torch"))
    state, once = fresh(p), jax.jit(functools.partial(update_once, p))
    batch = jax.tree.map(lambda x: x[0], random_batches(0))
    last = {**state.value["l2"], "bias": jnp.array([1000.0])}
    state = state._replace(value={**state.value, "l2": last})
    loss = lambda terminal: once(state, batch._replace(terminal=terminal), 0)[1]["critic_loss"].mean()
    assert loss(jnp.ones(32)) < 20.0 and loss(jnp.zeros(32)) > 1e6


def test_conserve_one_is_plain_iql_and_zero_is_the_free_expectile():
    p = parts(SMALL, SPEC, "offline", 100)
    state = fresh(p)
    batch = jax.tree.map(lambda x: x[0], random_batches(0))
    target_q = jnp.asarray(np.random.default_rng(3).normal(size=(2, 32)).astype(np.float32))
    v = p.value.apply(state.value, batch.obs)
    of = lambda conserve, config: value_loss(
        p._replace(config=config), state.value, batch._replace(conserve=conserve), target_q
    )[0].mean()
    compiled = jax.jit(of, static_argnums=1)
    loss = lambda conserve, config=SMALL: compiled(conserve, config)
    plain = expectile(target_q.min(axis=0) - v, 0.7)
    free = expectile(target_q.max(axis=0) - v, 0.99)
    np.testing.assert_allclose(loss(jnp.ones(32)), plain.mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss(jnp.zeros(32)), free.mean(), rtol=1e-5, atol=1e-6)
    half = (jnp.arange(32) < 16).astype(jnp.float32)
    np.testing.assert_allclose(loss(half), (plain[:16].sum() + free[16:].sum()) / 32, rtol=1e-5, atol=1e-6)
    same = dataclasses.replace(SMALL, free_expectile=0.7, free_target="min")
    np.testing.assert_allclose(loss(half, same), plain.mean(), rtol=1e-5, atol=1e-6)
    equal, marked = jnp.stack([target_q[0], target_q[0]]), batch._replace(conserve=half)  # docs/algorithms.md#checks
    with_min = p._replace(config=dataclasses.replace(SMALL, free_target="min"))
    np.testing.assert_array_equal(
        value_loss(p, state.value, marked, equal)[0], value_loss(with_min, state.value, marked, equal)[0]
    )


def test_conserve_one_leaves_no_trace_of_the_free_settings():
    """Bit for bit, and so operation by operation: two compiled programs round in orders of their own."""
    batches = random_batches(0)
    results = []
    for changes in ({}, {"free_expectile": 0.6, "free_target": "min"}):
        agent = iql(dataclasses.replace(SMALL, **changes), SPEC, "online", switches=PYTORCH)
        state = jax.jit(agent.init)(jax.random.key(1))
        with jax.disable_jit():
            results.append(agent.update(state, batches, jax.random.key(2), jnp.int32(0))[0])
    jax.tree.map(np.testing.assert_array_equal, *results)


def sampled_case(order="jax", policy="gaussian"):
    config = dataclasses.replace(SMALL, free_target="sampled", policy=policy)
    switches = Switches(free_actions=3, order=order)
    p = parts(config, SPEC, "online", 100, switches)
    batch = jax.tree.map(lambda x: x[0], random_batches(0))
    return p, fresh(p), batch, jax.jit(functools.partial(update_once, p))


def test_sampled_targets_bootstrap_free_rows_with_the_best_sampled_action():
    """A network whose critics return 50 at s' whatever the action: y = r + 0.99 * 50 on free rows, V(s') on others."""
    p, state, batch, once = sampled_case(order="torch")
    q = p.critic.apply(state.critic, batch.obs, batch.action)
    flat = jax.tree.map(jnp.zeros_like, state.target)
    flat = {**flat, "l2": {**flat["l2"], "bias": jnp.array([[50.0], [70.0]])}}
    next_v = p.value.apply(state.value, batch.next_obs)
    half = (jnp.arange(32) < 16).astype(jnp.float32)
    _, metrics = once(state._replace(target=flat), batch._replace(conserve=half), 0, jax.random.key(3))
    y = batch.reward + 0.99 * (half * next_v + (1 - half) * 50.0)
    np.testing.assert_allclose(metrics["critic_loss"].mean(), jnp.square(q - y).sum(axis=0).mean(), rtol=1e-5)


def test_sampled_values_are_a_brute_force_maximum():
    p, state, batch, _ = sampled_case()
    key, obs = jax.random.key(4), batch.next_obs
    policy = p.policy.apply(state.policy, obs)
    noise = np.asarray(jax.random.normal(key, (3, 32, 3)))
    actions = [np.clip(policy.mean + np.exp(policy.log_std) * noise[j], -1, 1) for j in range(3)]
    q = [p.critic.apply(state.target, obs, a).min(axis=0) for a in actions]
    np.testing.assert_allclose(module.sampled_value(p, state, obs, key), np.max(q, axis=0), rtol=1e-5)


def test_sampled_targets_leave_conservative_rows_alone_and_regress_v_on_the_minimum():
    batches, key = random_batches(0), jax.random.key(2)
    results = {}
    for target in ("sampled", "min"):
        agent = iql(dataclasses.replace(SMALL, free_target=target), SPEC, "online", switches=PYTORCH)
        state = jax.jit(agent.init)(jax.random.key(1))
        for conserve in (0.0, 1.0):
            marked = batches._replace(conserve=jnp.full((2, 32), conserve))
            results[target, conserve], _ = jax.jit(agent.update)(state, marked, key, jnp.int32(0))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        results["sampled", 1.0],
        results["min", 1.0],
    )
    np.testing.assert_allclose(
        results["sampled", 0.0].value["l0"]["kernel"], results["min", 0.0].value["l0"]["kernel"], rtol=1e-4, atol=1e-6
    )
    assert not np.array_equal(
        results["sampled", 0.0].critic["l0"]["kernel"], results["min", 0.0].critic["l0"]["kernel"]
    )


@pytest.mark.parametrize("policy", ["gaussian", "deterministic"])
def test_sampled_targets_draw_afresh_in_every_update(policy):
    _, state, batch, once = sampled_case(policy=policy)
    free = batch._replace(conserve=jnp.zeros(32))
    losses = [float(once(state, free, 0, jax.random.key(i))[1]["critic_loss"].mean()) for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_jit_equals_no_jit():
    _, agent, state = made(dataclasses.replace(SMALL, hidden=(8,)))
    batches = random_batches(0, updates=1)
    compiled, _ = jax.jit(agent.update)(state, batches, jax.random.key(2), jnp.int32(0))
    with jax.disable_jit():
        plain, _ = agent.update(state, batches, jax.random.key(2), jnp.int32(0))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), compiled, plain)


def test_no_retrace():
    (_, agent, state), traces = made(SMALL), []

    def counted(*args):
        traces.append(1)
        return agent.update(*args)

    jitted = jax.jit(counted)
    for call in range(3):
        state, _ = jitted(state, random_batches(call), jax.random.key(call), jnp.int32(2 * call))
    assert len(traces) == 1


@pytest.mark.parametrize("how", ["vmap", "scan"])
def test_seed_i_of_many_equals_seed_i_alone(how):
    p, agent, _ = made(SMALL)
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(fresh(p, seed) for seed in range(3)))
    alone_update = jax.jit(agent.update)
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(random_batches(seed) for seed in range(3)))
    many, metrics = jax.jit(over_seeds(agent.update, (0, 0, 0, None), how))(states, batches, keys, jnp.int32(5))
    assert metrics["q"].shape == (3,)
    for i in range(3):
        pick = lambda tree, i=i: jax.tree.map(lambda x: x[i], tree)
        alone, _ = alone_update(pick(states), pick(batches), keys[i], jnp.int32(5))
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), pick(many), alone)
    assert not np.allclose(many.policy["l0"]["kernel"][0], many.policy["l0"]["kernel"][1])


@pytest.mark.parametrize("reset", [False, True])
def test_going_online_carries_the_optimiser_or_resets_it(reset):
    switches = PYTORCH._replace(reset_optimiser_online=reset)
    agent = iql(SMALL, SPEC, "offline", switches=switches)
    state = agent.init(jax.random.key(0))
    state, _ = jax.jit(agent.update)(state, random_batches(0), jax.random.key(2), jnp.int32(0))
    online = agent.go_online(state, jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, state[:4], online[:4])
    assert int(online.critic_opt.count) == (0 if reset else 2)
    fresh = jax.eval_shape(iql(SMALL, SPEC, "online", switches=switches).init, jax.random.key(1))
    assert jax.tree.structure(online) == jax.tree.structure(fresh)


def test_going_online_may_set_the_targets_to_the_critics():
    """As the PEX repository does for its IQL; the policy starts by its own rule there."""
    switches = PYTORCH._replace(copy_to_target=True, policy_init="xavier")
    _, agent, state = made(SMALL, switches=switches)
    state, _ = jax.jit(agent.update)(state, random_batches(0), jax.random.key(2), jnp.int32(0))
    online = agent.go_online(state, jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, online.target, state.critic)
    assert not np.array_equal(state.target["l1"]["kernel"], state.critic["l1"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, online.critic, state.critic)
    first = agent.init(jax.random.key(0))
    xavier = iql(SMALL, SPEC, "offline", switches=Switches(init="xavier")).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, first.policy, xavier.policy)
    assert not np.array_equal(first.critic["l0"]["kernel"], xavier.critic["l0"]["kernel"])


@pytest.mark.parametrize("policy", ["gaussian", "deterministic"])
def test_acting_is_bounded_deterministic_in_evaluation_and_noisy_in_exploration(policy):
    _, agent, state = made(dataclasses.replace(SMALL, policy=policy), "online")
    obs = jnp.asarray(np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32))
    compiled = jax.jit(agent.act, static_argnums=3)
    act = lambda key, explore: compiled(state, obs, jax.random.key(key), explore)
    np.testing.assert_array_equal(act(0, False), act(1, False))
    assert act(0, False).shape == (7, 3) and not np.array_equal(act(0, True), act(1, True))
    assert np.abs(act(0, True)).max() <= 1.0
    spread = np.std(act(0, True) - act(0, False))
    assert spread < 0.1 if policy == "deterministic" else spread > 0.3


def test_value_is_the_smaller_target_critic():
    p, agent, state = made(SMALL, "online")
    obs, action = jnp.ones((4, 5)), jnp.ones((4, 3))
    both = p.critic.apply(state.target, obs, action)
    np.testing.assert_array_equal(agent.value(state, obs, action), both.min(axis=0))


def test_the_regression_weight_has_its_limit_and_its_critics():
    def metrics_of(switches=PYTORCH, **changes):
        _, agent, state = made(dataclasses.replace(SMALL, **changes), switches=switches)
        return jax.jit(agent.update)(state, random_batches(0), jax.random.key(1), jnp.int32(0))[1]

    free, limited = metrics_of(), metrics_of(advantage_limit=0.01)
    assert free["weight"] > 0.01 and limited["weight"] <= 0.01 * (1 + 1e-6) and limited["weight_limited"] > 0.5
    assert VARIANTS["jax_corl"].switches.advantage == "online"
    assert metrics_of(PYTORCH._replace(advantage="online"))["advantage"] != free["advantage"], "targets are others"


def test_variants_start_and_are_shaped_as_their_releases():
    """The gain of the output layers, who is normalised, and the bounds of the policy's spread."""
    first = {name: iql(made_as(name, hidden=(16, 16)), SPEC, "offline").init(jax.random.key(0)) for name in VARIANTS}
    last = {name: np.linalg.norm(state.value["l2"]["kernel"]) for name, state in first.items()}
    assert last["authors"] == pytest.approx(1e-2, rel=1e-3)
    assert last["released"] == last["jax_corl"] == pytest.approx(2**0.5, rel=1e-3)
    jax.tree.map(np.testing.assert_array_equal, first["authors"].critic["l0"], first["released"].critic["l0"])
    assert {name for name, state in first.items() if "ln0" in state.value} == {"jax_corl"}
    assert not any("ln0" in state.critic for state in first.values())
    for name, lowest in (("authors", -5.0), ("pex", -5.0), ("corl", -20.0)):
        p = parts(made_as(name, hidden=(16, 16)), SPEC, "offline", 1)
        policy = p.policy.apply({**first[name].policy, "log_std": jnp.full(3, -50.0)}, jnp.ones((1, 5)))
        np.testing.assert_array_equal(policy.log_std, np.full((1, 3), lowest))


def test_known_values_of_a_two_state_chain():
    """s0 leads to s1 without reward; at s1 the reward is the action, -1 or 1 equally often, and the episode ends.

    V(s1) is the 0.7 expectile of {-1, 1}, 2 * 0.7 - 1; V(s0) is that, discounted; the policy's mean at s1 is the mean
    action under weights exp(+-beta), which is tanh(beta).
    """
    config = IQLConfig(hidden=(32,), expectile=0.7, temperature=1.0, learning_rate=3e-3, tau=0.05, anneal="never")
    spec = Spec(obs_dim=2, act_dim=1, horizon=2)
    agent, p = iql(config, spec, "online"), parts(config, spec, "online", 1)
    obs = np.repeat(np.eye(2, dtype=np.float32), 16, axis=0)
    action = np.tile(np.array([[-1.0], [1.0]], np.float32), (16, 1))
    reward, terminal = obs[:, 1] * action[:, 0], obs[:, 1]
    rows = spec.layout.pack(obs, action, reward, np.eye(2)[[1] * 32], terminal, -np.inf, 0.0, xp=np)
    batches = spec.layout.unpack(jnp.broadcast_to(rows, (1500, *rows.shape)))
    state, _ = jax.jit(agent.update)(fresh(p, spec=spec), batches, jax.random.key(0), jnp.int32(0))
    v0, v1 = p.value.apply(state.value, jnp.eye(2))
    assert v1 == pytest.approx(0.4, abs=0.02) and v0 == pytest.approx(0.99 * 0.4, abs=0.02)
    q = agent.value(state, jnp.array([[0.0, 1.0]] * 2), jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(q, [-1.0, 1.0], atol=0.03)
    mean = agent.act(state, jnp.eye(2)[1], jax.random.key(0), False)
    assert mean[0] == pytest.approx(np.tanh(1.0), abs=0.03)


@pytest.mark.parametrize(
    "field, value",
    [
        ("expectile", 1.2), ("free_expectile", 0.0), ("temperature", -1.0), ("tau", 0.0), ("discount", 1.5),
        ("learning_rate", 0.0), ("hidden", (0,)), ("critics", 0), ("advantage_limit", 0.0),
        ("variant", "corll"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(field, value):
    with pytest.raises(UserError, match=f"^agent.{field}: "):
        IQLConfig(**{field: value})
