"""RLPD by its variants' names against the released code's numbers."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from variants import of_variant

from cfdg_jax.agents import soft
from cfdg_jax.agents.rlpd import VARIANTS, RLPDConfig
from cfdg_jax.agents.sac import Noise, SACState, bootstrap, critic_loss, parts, update_critic, update_once
from cfdg_jax.types import Batch, Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=1000)
CONFIGS = {
    "small": of_variant(RLPDConfig, VARIANTS, hidden=(32, 32), policy_delay=1),
    "small_antmaze": of_variant(RLPDConfig, VARIANTS, "antmaze", hidden=(32, 32), policy_delay=1),
    "small_sac": of_variant(RLPDConfig, VARIANTS, "sac_learner", hidden=(32, 32), critics=10, policy_delay=1),
    "small_utd2": of_variant(RLPDConfig, VARIANTS, hidden=(32, 32), policy_delay=2),
    "full": of_variant(RLPDConfig, VARIANTS, policy_delay=1),
}
CASES = [*((variant, "float64") for variant in CONFIGS), ("small", "float32")]


def policy_params(z, prefix, dtype):
    """The released policy has a layer for the mean and one for log sigma; here they are one."""
    layers = golden.params(z, prefix, dtype)
    heads = layers.pop("l2"), layers.pop("l3")
    return layers | {"l2": {leaf: np.concatenate([head[leaf] for head in heads], axis=-1) for leaf in heads[0]}}


def flat_critics(ensemble):
    """As the released code stores them."""
    flat = golden.flatten(ensemble)
    return {name.removesuffix("/b") + "/bias" if name.startswith("ln") and name.endswith("/b") else name: x
            for name, x in flat.items()}  # fmt: skip


def flat_policy(network):
    """As the released code stores it."""
    flat = golden.flatten(network)
    for leaf in ("W", "b"):
        flat[f"l2/{leaf}"], flat[f"l3/{leaf}"] = np.split(flat[f"l2/{leaf}"], 2, axis=-1)
    return flat


def batch_of(z, name, dtype):
    get = lambda field: jnp.asarray(z[f"{name}/{field}"], dtype)
    rows = z[f"{name}/rew"].shape[0]
    unknown, source, conserve = jnp.full(rows, -jnp.inf, dtype), jnp.zeros(rows, jnp.int32), jnp.ones(rows, dtype)
    return Batch(*map(get, ("obs", "act", "rew", "next_obs", "term")), unknown, source, conserve)


@pytest.fixture
def case(golden_of, request):
    """(arrays, variant, dtype, parts, state) of one variant in one precision."""
    variant, dtype = request.param
    z, dtype = golden.load(golden_of(variant if dtype == "float64" else "full"), "rlpd.npz"), np.dtype(dtype)
    with jax.enable_x64(dtype == np.float64):
        p = parts(CONFIGS[variant], SPEC)
        init = f"{variant}/init" if f"{variant}/init/log_alpha" in z.files else "small/init"
        critic = golden.params(z, f"{init}/q", dtype)
        stored = f"{init}/tq/l0/W" in z.files
        target = golden.params(z, f"{init}/tq", dtype) if stored else jax.tree.map(lambda x: x[::-1], critic)
        params = (critic, target, policy_params(z, f"{init}/pi", dtype), z[f"{init}/log_alpha"].astype(dtype))
        critic, target, policy, log_alpha = jax.tree.map(jnp.asarray, params)
        moments = (p.optimiser.init(each) for each in (critic, policy, log_alpha))
        yield z, variant, dtype, p, SACState(critic, target, policy, log_alpha, *moments)


def inputs(z, variant, step, dtype, updates):
    """The minibatches of one released call, with the noise of each."""
    get = lambda name: jnp.asarray(z[f"{variant}/noise/step{step}/{name}"])
    every = f"{variant}/noise/step{step}/subset0" not in z.files
    for u in range(updates):
        subset = jnp.arange(10) if every else get(f"subset{u}").astype(jnp.int32)
        noise = Noise(get(f"eps_next{u}").astype(dtype), get("eps_pi").astype(dtype), subset)
        if updates == 1:
            yield batch_of(z, "batch", dtype), noise
        else:
            yield jax.tree.map(lambda x, u=u: x[64 * u : 64 * (u + 1)], batch_of(z, "batch128", dtype)), noise


@pytest.mark.parametrize("case", [each for each in CASES if each[0] != "small_utd2"], indirect=True, ids="-".join)
def test_terms_and_gradients_equal_the_released_code(case):
    z, variant, dtype, p, state = case
    exact = dtype == np.float64
    ((batch, noise),) = inputs(z, variant, 1, dtype, 1)

    @jax.jit
    def terms_and_gradients(state):
        target = bootstrap(p, state, batch, noise)
        q, grads = p.critic.apply(state.critic, batch.obs, batch.action), {}
        grads["q"] = jax.grad(lambda x: critic_loss(p, x, batch, target)[0].mean())(state.critic)
        critic = functools.partial(p.critic.apply, update_critic(p, state, batch, noise, 0)[0].critic)
        loss = lambda x: soft.policy_loss(p.soft, x, critic, state.log_alpha, batch, noise.action)[0].mean()
        grads["pi"] = jax.grad(loss)(state.policy)
        return {"target": target, "q": q}, grads

    terms, grads = terms_and_gradients(state)
    for name, value in terms.items():
        reference = z[f"{variant}/f64/step1/term/{name}"]
        assert value.dtype == dtype
        tolerance = (1e-9 if exact else 1e-5) * np.abs(reference).max()
        np.testing.assert_allclose(value, reference, rtol=0, atol=tolerance, err_msg=name)
    flat = {f"q/{name}": x for name, x in flat_critics(grads["q"]).items()}
    flat |= {f"pi/{name}": x for name, x in flat_policy(grads["pi"]).items()}
    assert len(flat) == 6 + 8 + 4 * p.config.layer_norm
    for name, value in flat.items() if variant in ("small", "full") else ():
        atol = (1e-9 if exact else 5e-5) * np.abs(value).max()
        golden.compare(z, f"{variant}/f64/step1/grad/{name}", value, atol + 1e-12)


@pytest.mark.parametrize("case", CASES, indirect=True, ids="-".join)
def test_three_calls_equal_the_released_code(case):
    z, variant, dtype, p, state = case
    once, exact, updates, count = jax.jit(functools.partial(update_once, p)), dtype == np.float64, p.soft.delay, 0
    for step in range(1, 4):
        for batch, noise in inputs(z, variant, step, dtype, updates):
            state, metrics = once(state, batch, noise, count)
            count += 1
        moved = "" if updates == 1 else "@moves"
        told = {"critic_loss": metrics["critic_loss"], "actor_loss": metrics[f"policy_loss{moved}"]}
        told |= {name: metrics[f"{name}{moved}"] for name in ("entropy", "temperature")}
        for name, value in told.items():
            reference = z[f"{variant}/f64/step{step}/loss/{name}"]
            np.testing.assert_allclose(np.mean(value), reference, rtol=1e-9 if exact else 2e-5, err_msg=name)
        if step != 2:
            compared = compare_parameters(z, variant, step, state, exact)
            assert compared >= (9 if step == 1 else 19 * (variant in ("small", "full")))


def compare_parameters(z, variant, step, state, exact):
    """How many arrays are stored and equal; in float32 Adam turns a vanishing gradient into a whole step."""
    flat = {"log_alpha": np.asarray(state.log_alpha)}
    flat |= {f"pi/{name}": x for name, x in flat_policy(state.policy).items()}
    for net, params in (("q", state.critic), ("tq", state.target)):
        flat |= {f"{net}/{name}": x for name, x in flat_critics(params).items()}
    prefix, compared = f"{variant}/f64/after{step}/", 0
    for name, value in flat.items():
        if not any(stored in z.files for stored in (prefix + name, f"{prefix}{name}@sum")):
            continue
        compared += 1
        if exact:
            golden.compare(z, prefix + name, value, 1e-9)
            continue
        gradient = f"{variant}/f64/step1/grad/{name.removeprefix('t')}"
        firm = np.abs(z[gradient]) >= 1e-5 * np.abs(z[gradient]).max()
        error = np.abs(value - z[prefix + name])
        assert error[firm].max() < 2e-6 and error.max() < 1e-3, name
    return compared
