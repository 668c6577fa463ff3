"""TD3+BC and APL's GCTD3BC against released code, an independent re-statement, and their own promises."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement
from batches import random_batch
from variants import of_variant

from cfdg_jax.agents import td3bc as module
from cfdg_jax.agents.td3bc import (
    ONE_VARIANT,
    VARIANTS,
    APLTD3BCConfig,
    TD3BCConfig,
    TD3BCState,
    TD3Config,
    parts,
    policy_loss,
    td3bc,
    update_once,
)
from cfdg_jax.core.seeds import over_seeds, seed_keys
from cfdg_jax.errors import UserError
from cfdg_jax.training.session import per_group
from cfdg_jax.types import Batch, Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=1000)
SMALL = TD3BCConfig(hidden=(32, 32))
CORL = functools.partial(of_variant, TD3BCConfig, VARIANTS, "corl")
APL = functools.partial(of_variant, APLTD3BCConfig, ONE_VARIANT)
CASES = {
    "td3bc small": ("td3bc_corl.npz", "small", CORL(hidden=(32, 32)), 1.0),
    "td3bc full": ("td3bc_corl.npz", "full", CORL(), 1.0),
    "apl offline": ("apl_gctd3bc.npz", "small", APL(hidden=(32, 32)), 1.0),
    "apl online": ("apl_gctd3bc.npz", "small_online", APL(hidden=(32, 32)), 0.0),
    "apl full": ("apl_gctd3bc.npz", "full", APL(), 0.0),
}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions; the released code's reference run is the float64 one."""
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def golden_run(golden_of, case, dtype):
    """The file, the parts, the state at the start and the batch of a case."""
    file, variant, config, conserve = CASES[case]
    z, p = golden.load(golden_of(variant), file), parts(config, SPEC)
    init = f"{variant}/init" if f"{variant}/init/q1/l0/W" in z.files else "small/init"
    critic, target = (golden.stacked(z, [f"{init}/{q}1", f"{init}/{q}2"], dtype) for q in ("q", "tq"))
    policy, target_policy = golden.params(z, f"{init}/pi", dtype), golden.params(z, f"{init}/tpi", dtype)
    state = TD3BCState(critic, target, policy, target_policy, p.optimiser.init(critic), p.optimiser.init(policy))
    batch = golden.batch(z, dtype)
    batch = batch._replace(conserve=jnp.full(batch.conserve.shape, conserve, dtype))
    return z, variant, p, jax.tree.map(jnp.asarray, state), batch


def network(state, name):
    places = {"q1": ("critic", 0), "q2": ("critic", 1), "tq1": ("target", 0), "tq2": ("target", 1)}
    if name in places:
        field, index = places[name]
        return golden.member(getattr(state, field), index)
    return {"pi": state.policy, "tpi": state.target_policy}[name]


@pytest.mark.parametrize("case", CASES)
def test_losses_and_parameters_over_four_steps_equal_the_released_code(golden_of, case, dtype):
    z, variant, p, state, batch = golden_run(golden_of, case, dtype)
    rtol = 1e-9 if dtype == np.float64 else 1e-5
    step = jax.jit(functools.partial(update_once, p))
    for k in range(1, 5):
        noise = jnp.asarray(z[f"{variant}/noise/step{k}/eps_target"], dtype)
        state, metrics = step(state, batch, noise, jnp.asarray(k - 1))
        loss = lambda name, k=k: z[f"{variant}/f64/step{k}/loss/{name}"]
        assert metrics["critic_loss"].dtype == dtype
        np.testing.assert_allclose(metrics["critic_loss"].mean(), loss("q"), rtol=rtol)
        if k % 2 == 0:
            np.testing.assert_allclose(metrics["policy_loss@moves"].mean(), loss("pi"), rtol=rtol * 20)
        else:
            assert metrics["policy_loss@moves"].mean() == metrics["@moves"] == 0.0, "the policy waits"
        if k <= 3:
            for name in ("q1", "q2", "tq1", "tq2", "pi", "tpi"):
                for leaf, value in golden.flatten(network(state, name)).items():
                    near_zero = 5e-4 if dtype == np.float32 else 1e-9  # Adam makes +-lr of a gradient's rounding
                    golden.compare(z, f"{variant}/f64/after{k}/{name}/{leaf}", value, near_zero)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_released_code(golden_of, case, dtype):
    z, variant, p, state, batch = golden_run(golden_of, case, dtype)
    noise = lambda k: jnp.asarray(z[f"{variant}/noise/step{k}/eps_target"], dtype)

    @jax.jit
    def gradients(state):
        target = module.bootstrap(p, state, batch, noise(1))
        critic = jax.grad(lambda x: module.critic_loss(p, x, batch, target)[0].mean())(state.critic)
        for k in (0, 1):
            state, _ = module.update_critic(p, state, batch, noise(k + 1), k)
        return critic, jax.grad(lambda x: policy_loss(p, x, state.critic, batch, 0)[0].mean())(state.policy)

    critic, policy = gradients(state)
    grads = {"q1": golden.member(critic, 0), "q2": golden.member(critic, 1), "pi": policy}
    for name, gradient in grads.items():
        for leaf, value in golden.flatten(gradient).items():
            scale = np.abs(value).max()
            reference = f"{variant}/f64/step{2 if name == 'pi' else 1}/grad/{name}/{leaf}"
            golden.compare(z, reference, value, (1e-8 if dtype == np.float64 else 2e-4) * scale + 1e-12)


def restated(config, state, batch, noises):
    """Three updates in float64 NumPy, gradients by complex steps."""
    critic, target, policy, slow = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), x)
        for x in (state.critic, state.target, state.policy, state.target_policy)
    )
    adam_q, adam_pi = restatement.Adam(), restatement.Adam()
    one = lambda params, i: restatement.rebuild((path, leaf[i]) for path, leaf in restatement.leaves(params))
    q_of = lambda params, i, action: restatement.critic(one(params, i), batch.obs, action)
    for k, noise in enumerate(noises):
        raw = np.tanh(restatement.forward(slow, batch.next_obs)) + np.clip(0.2 * noise, -0.5, 0.5)
        next_action = np.clip(raw, -1, 1)
        next_q = [restatement.critic(one(target, i), batch.next_obs, next_action).real for i in (0, 1)]
        y = batch.reward + 0.99 * (1 - batch.terminal) * np.minimum(*next_q)
        loss_q = lambda c, y=y: sum(((q_of(c, i, batch.action) - y) ** 2).mean() for i in (0, 1))
        critic = adam_q.step(critic, restatement.gradient(loss_q, critic))
        if (k + 1) % config.delay:
            continue
        scale = config.alpha / np.abs(q_of(critic, 0, np.tanh(restatement.forward(policy, batch.obs)))).mean()

        def loss_pi(params, scale=scale, critic=critic):
            action = np.tanh(restatement.forward(params, batch.obs))
            cloning = ((action - batch.action) ** 2).mean(axis=1)
            return -scale * q_of(critic, 0, action).mean() + (batch.conserve * cloning).mean()

        policy = adam_pi.step(policy, restatement.gradient(loss_pi, policy))
        target, slow = restatement.average(target, critic), restatement.average(slow, policy)
    return critic, target, policy, slow


def test_three_updates_equal_an_independent_restatement():
    rng = np.random.default_rng(0)
    config = TD3BCConfig(hidden=(4,))
    p = parts(config, SPEC)
    networks = lambda: (restatement.ensemble(rng, (8, 4, 1), 2), restatement.network(rng, (5, 4, 3)))
    (critic, policy), (target, slow) = networks(), networks()
    state = TD3BCState(critic, target, policy, slow, p.optimiser.init(critic), p.optimiser.init(policy))
    batch = random_batch(rng, conserve=np.linspace(0, 1, 6).astype(np.float32))
    noises = rng.normal(size=(3, 6, 3)).astype(np.float32)
    new = jax.tree.map(jnp.asarray, state)
    for k in range(3):
        new, _ = jax.jit(functools.partial(update_once, p))(new, batch, noises[k], jnp.asarray(k))
    expected = restated(config, state, batch, noises)
    for ours, theirs in zip((new.critic, new.target, new.policy, new.target_policy), expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), ours, theirs)


def test_scaling_the_critics_leaves_the_policys_loss():
    """Check 48."""
    p = parts(SMALL, SPEC)
    state, batch = module.init_state(p, jax.random.key(0)), random_batch(np.random.default_rng(1))
    tenfold = {
        name: leaf if name != "l2" else jax.tree.map(lambda x: 10 * x, leaf) for name, leaf in state.critic.items()
    }
    loss = jax.jit(lambda critic: policy_loss(p, state.policy, critic, batch, 0)[0].mean())
    np.testing.assert_allclose(loss(state.critic), loss(tenfold), rtol=1e-5)
    plain, free = parts(TD3Config(hidden=(32, 32)), SPEC), batch._replace(conserve=0.0)
    loss = jax.jit(lambda critic: policy_loss(plain, state.policy, critic, free, 0)[0].mean())
    unscaled = loss(state.critic), loss(tenfold)
    np.testing.assert_allclose(10 * unscaled[0], unscaled[1], rtol=1e-5)


def test_conserve_weighs_each_rows_cloning():
    p = parts(of_variant(TD3BCConfig, VARIANTS, "paper", hidden=(32, 32)), SPEC)
    state, rng = module.init_state(p, jax.random.key(0)), np.random.default_rng(2)
    batch = random_batch(rng)
    loss = lambda conserve: policy_loss(
        p, state.policy, state.critic, batch._replace(conserve=np.float32(conserve)), 0
    )[0].mean()
    action = np.asarray(p.policy.apply(state.policy, batch.obs))
    squares = ((action - batch.action) ** 2).sum(axis=1)
    half = np.array([1, 1, 1, 0, 0, 0])
    np.testing.assert_allclose(loss(half) - loss(np.zeros(6)), (half * squares).mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "phase", "weights"),
    [
        ({}, "online", [2.0, 2.0, 2.0]),
        ({"online_bc_share": 0.25}, "offline", [2.0, 2.0, 2.0]),
        ({"online_bc_share": 0.25}, "online", [0.5, 0.5, 0.5]),
        ({"online_bc_share": 0.25, "bc_decay": 8}, "online", [2.0, 1.25, 0.5]),
    ],
)
def test_cloning_fades_in_the_online_phase_alone(fields, phase, weights):
    """In the loss, and in what an agent's own updates do with the steps they are told."""
    config = dataclasses.replace(SMALL, bc_weight=2.0, delay=1, **fields)
    p, agent = parts(config, SPEC, phase), td3bc(config, SPEC, phase)
    state, batch = module.init_state(p, jax.random.key(0)), random_batch(np.random.default_rng(2))
    square = np.square(np.asarray(p.policy.apply(state.policy, batch.obs)) - batch.action).mean()
    update, one = jax.jit(agent.update), jax.tree.map(lambda x: jnp.asarray(x)[None], batch)
    for step, weight in zip((0, 4, 100), weights, strict=True):
        marked = [batch._replace(conserve=np.full(6, c, np.float32)) for c in (1, 0)]
        with_cloning, without = (policy_loss(p, state.policy, state.critic, b, step)[0].mean() for b in marked)
        np.testing.assert_allclose(with_cloning - without, weight * square, rtol=1e-4)
        _, metrics = update(state, one, jax.random.key(0), jnp.asarray(step))
        np.testing.assert_allclose(metrics["bc_weight"], weight, rtol=1e-6)


@pytest.mark.parametrize(("delay", "first", "count"), [(2, 0, 5), (2, 1, 4), (3, 4, 7), (1, 0, 2)])
def test_the_policy_moves_at_every_delayth_update_whatever_the_calls(delay, first, count):
    agent = td3bc(dataclasses.replace(SMALL, delay=delay), SPEC, "offline")
    state = agent.init(jax.random.key(0))
    batches = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * count), random_batch(np.random.default_rng(3)))
    new, metrics = jax.jit(agent.update)(state, batches, jax.random.key(1), jnp.asarray(first))
    due = sum((first + i + 1) % delay == 0 for i in range(count))
    assert int(jax.tree.leaves(new.policy_opt)[0]) == due
    told = per_group({name: np.asarray(value) for name, value in metrics.items()})
    assert np.isfinite(told["policy_loss"]) and told["q_scale"] > 0.0
    if delay > 1:
        assert metrics["@moves"] == pytest.approx(due / count)


def test_where_a_call_ends_changes_nothing():
    """Four updates at once, or two and two; without noise, the calls' keys do not matter."""
    agent = td3bc(dataclasses.replace(SMALL, delay=3, target_noise=0.0), SPEC, "offline")
    rng = np.random.default_rng(5)
    batches = jax.tree.map(lambda *x: jnp.stack(x), *(random_batch(rng) for _ in range(4)))
    update, first = jax.jit(agent.update), agent.init(jax.random.key(0))
    whole, metrics = update(first, batches, jax.random.key(1), jnp.asarray(2))
    half, early = update(first, jax.tree.map(lambda x: x[:2], batches), jax.random.key(2), jnp.asarray(2))
    cut, late = update(half, jax.tree.map(lambda x: x[2:], batches), jax.random.key(3), jnp.asarray(4))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), whole, cut)
    for name, mean in metrics.items():
        np.testing.assert_allclose(mean, (early[name] + late[name]) / 2, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(("conserve", "best"), [(0.0, 0.5), (1.0, 0.31)])
def test_values_and_actions_of_a_task_with_a_known_solution(conserve, best):
    """One reward 1 - (a - 1/2)^2 and an end at s = -1; at s = 1 a reward of 1 and a time limit, so a return of 2.

    Cloning uniform actions adds a^2 to the policy's loss, which with lambda = 2.5 / 1.5 moves 1/2 to 1/2 / (1 + 0.6).
    """
    config = TD3BCConfig(hidden=(32, 32), discount=0.5, tau=0.05, learning_rate=1e-3)
    spec, rng, shape = Spec(obs_dim=1, act_dim=1, horizon=1), np.random.default_rng(0), (1500, 64)
    side, action = np.sign(rng.normal(size=shape)), rng.uniform(-1, 1, shape)
    row = lambda x: jnp.asarray(x, jnp.float32)
    batches = Batch(
        obs=row(side)[..., None], action=row(action)[..., None],
        reward=row(np.where(side < 0, 1 - (action - 0.5) ** 2, 1.0)), next_obs=row(side)[..., None],
        terminal=row(side < 0), mc_return=row(np.full(shape, -np.inf)), source=jnp.zeros(shape, jnp.int32),
        conserve=row(np.full(shape, conserve)),
    )  # fmt: skip
    agent = td3bc(config, spec, "online")
    state, _ = jax.jit(agent.update)(agent.init(jax.random.key(0)), batches, jax.random.key(1), jnp.asarray(0))
    at = lambda s, a: float(agent.value(state, jnp.array([s]), jnp.array([a])))
    assert at(-1.0, 0.5) == pytest.approx(1.0, abs=0.08), "a terminal cuts the bootstrap"
    assert at(-1.0, -0.5) == pytest.approx(0.0, abs=0.08)
    assert at(1.0, 0.0) == pytest.approx(2.0, abs=0.08), "a time limit does not"
    chosen = float(agent.act(state, jnp.array([-1.0]), jax.random.key(2), False)[0])
    assert chosen == pytest.approx(best, abs=0.12)


def test_the_policy_waits_for_all_seeds_at_once():
    """Under a seed axis the delay stays a real branch, not a selection after both sides ran."""
    agent, keys = td3bc(SMALL, SPEC, "offline"), seed_keys(0, 3)
    states = jax.eval_shape(jax.vmap(agent.init), keys)
    batches = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 4), random_batch(np.random.default_rng(3)))
    many = jax.jit(over_seeds(agent.update, (0, None, 0, None)))
    assert "stablehlo.case" in many.lower(states, batches, keys, jnp.asarray(0)).as_text()


def test_twenty_updates_compile_to_one_scan():
    agent = td3bc(SMALL, SPEC, "offline")
    state = jax.eval_shape(agent.init, jax.random.key(0))

    def size(count):
        batches = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * count), random_batch(np.random.default_rng(3)))
        lowered = jax.jit(agent.update).lower(state, batches, jax.random.key(1), jnp.asarray(0))
        return len(lowered.as_text())

    assert size(20) < 1.2 * size(1)


def test_the_hand_over_keeps_everything():
    agent = td3bc(SMALL, SPEC, "offline")
    state = agent.init(jax.random.key(0))
    assert agent.go_online(state, jax.random.key(2)) is state


@pytest.mark.parametrize(("field", "value"), [("alpha", 0.0), ("delay", 0), ("tau", 1.5), ("bc_decay", -1.0)])
def test_bad_values_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"agent.{field}: is {value}"):
        TD3BCConfig(**{field: value})


def test_exploration_adds_noise_of_its_standard_deviation():
    config = dataclasses.replace(SMALL, explore_noise=0.3)
    agent = td3bc(config, SPEC, "online")
    state = agent.init(jax.random.key(0))
    state = state._replace(policy=jax.tree.map(jnp.zeros_like, state.policy))  # whose action is 0
    obs = jnp.zeros((20_000, SPEC.obs_dim))
    drawn = np.asarray(jax.jit(lambda key: agent.act(state, obs, key, True))(jax.random.key(1)))
    assert drawn.std() == pytest.approx(0.3, rel=0.02) and abs(drawn.mean()) < 0.01
