"""The behaviour model: its schedule, network, loss and sampler against restatements, and a trained one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfdg_jax.diffusion import behavior
from cfdg_jax.diffusion.fit import Averaging, Normaliser, init_state
from cfdg_jax.diffusion.network import Network, dense_unet
from cfdg_jax.diffusion.samplers import integrate


@pytest.mark.parametrize(("t", "alpha", "sigma"), [(0.1, 0.946722, 0.322053), (0.5, 0.281183, 0.959654)])
def test_schedule(t, alpha, sigma):
    """Reference check 51."""
    at = behavior.schedule(jnp.float32(t))
    assert at.alpha == pytest.approx(alpha, abs=1e-6) and at.sigma == pytest.approx(sigma, abs=1e-6)


def test_schedule_ends():
    assert behavior.schedule(jnp.float32(1.0)).alpha == pytest.approx(0.006572, abs=1e-6)
    tiny = behavior.schedule(jnp.float32(1e-3))
    exact = np.exp(-0.25 * 1e-6 * 19.9 - 0.5e-4)
    assert tiny.sigma == pytest.approx(np.sqrt(1 - exact**2), rel=1e-5)  # 1 - alpha^2 would lose two digits here


@pytest.mark.parametrize("t", [1e-3, 0.02, 0.37, 1.0])
def test_time_and_noise_level_are_inverse(t):
    at, time = behavior.at_noise_level(jnp.float32(behavior.noise_level(t)))
    expected = behavior.schedule(jnp.float32(t))
    assert time == pytest.approx(t, rel=1e-5)
    np.testing.assert_allclose(at, expected, rtol=2e-5)


def test_training_times_and_diffused_moments():
    t = behavior.draw_time(jax.random.key(0), (20_000,))
    assert t.min() >= 1e-3 and t.max() <= 1.0 and t.mean() == pytest.approx(0.5005, abs=0.01)
    x = behavior.diffuse(
        jnp.full((20_000, 1), 0.7), jnp.float32(0.1), jax.random.normal(jax.random.key(1), (20_000, 1))
    )
    assert x.mean() == pytest.approx(0.7 * 0.946722, abs=0.01) and x.std() == pytest.approx(0.322053, abs=0.01)


# -- network and loss --------------------------------------------------------------------------------------------------


def restated_unet(params, x, t, obs, widths):
    """QGPO's forward pass in NumPy, layer by layer."""
    dense = lambda name, v: v @ np.asarray(params[name]["kernel"]) + np.asarray(params[name]["bias"])
    silu = lambda v: v / (1 + np.exp(-v))
    angle = 2 * np.pi * t[:, None] * np.asarray(params["frequencies"])
    time = dense("time", np.concatenate([np.sin(angle), np.cos(angle)], axis=1))
    embed = np.concatenate([silu(dense("state", obs)), time], axis=1)
    embed = dense("embed2", silu(dense("embed1", embed)))

    def block(name, v):
        h = silu(dense(f"{name}_in", v)) + dense(f"{name}_embed", silu(embed))
        return silu(dense(f"{name}_out", h)) + (dense(f"{name}_skip", v) if f"{name}_skip" in params else v)

    d1 = block("down0", x)
    d2 = block("down1", d1)
    d3 = block("down2", d2)
    u = block("up2", np.concatenate([d3, block("middle", d3)], axis=1))
    u = block("up1", np.concatenate([d2, u], axis=1))
    return dense("out", np.concatenate([d1, u], axis=1))


def test_network_equals_a_restatement_and_has_the_published_size():
    network = dense_unet(3, 11)
    params, forward = jax.jit(network.init)(jax.random.key(0)), jax.jit(network.apply)
    rng = np.random.default_rng(0)
    x, t, obs = rng.normal(size=(5, 3)), rng.uniform(size=5), rng.normal(size=(5, 11))
    ours = forward(params, *(jnp.asarray(v, jnp.float32) for v in (x, t, obs)))
    np.testing.assert_allclose(ours, restated_unet(params, x, t, obs, (512, 256, 128)), rtol=0, atol=3e-5)
    block = lambda i, o: i * o + o + o * o + o + 128 * o + o + (i * o + o if i != o else 0)
    blocks = block(3, 512) + block(512, 256) + block(256, 128) + block(128, 128) + block(256, 256) + block(512, 512)
    embeddings = 11 * 32 + 32 + 32 * 32 + 32 + 16 + 64 * 128 + 128 + 128 * 128 + 128
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == blocks + embeddings + 1024 * 3 + 3


def test_states_are_embedded_once_for_many_actions():
    network = dense_unet(2, 3, widths=(16, 8))
    params, forward = jax.jit(network.init)(jax.random.key(0)), jax.jit(network.apply)
    x, obs, t = jax.random.normal(jax.random.key(1), (4, 5, 2)), jnp.ones((5, 3)), jnp.float32(0.3)
    together = forward(params, x, t, obs)
    for j in range(4):
        np.testing.assert_allclose(together[j], forward(params, x[j], jnp.full(5, t), obs), rtol=1e-5, atol=1e-6)


def test_frequencies_are_not_trained():
    network = dense_unet(2, 3, widths=(16, 8))
    params = jax.jit(network.init)(jax.random.key(0))
    noise = jnp.ones((6, 2))
    loss = lambda p: behavior.loss(network, p, jnp.ones((6, 3)), noise, jnp.full(6, 0.2), noise).sum()
    gradient = jax.jit(jax.grad(loss))(params)
    assert np.all(gradient["frequencies"] == 0) and np.any(gradient["time"]["kernel"] != 0)


def test_loss_is_the_score_matching_loss():
    """``sum_A (sigma_t score + z)^2`` with ``score = -eps / sigma_t``."""
    rng = np.random.default_rng(0)
    clean, t, noise = rng.normal(size=(7, 2)), rng.uniform(0.01, 1, 7), rng.normal(size=(7, 2))
    eps = lambda params, x, t, obs: params * x + t[..., None]
    network = Network(lambda key: None, eps)
    ours = behavior.loss(network, 0.4, jnp.zeros((7, 1)), *(jnp.asarray(v, jnp.float32) for v in (clean, t, noise)))
    alpha = np.exp(-0.25 * t**2 * 19.9 - 0.05 * t)[:, None]
    sigma = np.sqrt(1 - alpha**2)
    score = -(0.4 * (alpha * clean + sigma * noise) + t[:, None]) / sigma
    np.testing.assert_allclose(ours, np.sum((sigma * score + noise) ** 2, axis=1), rtol=2e-5)


# -- sampler -----------------------------------------------------------------------------------------------------------


def gaussian_network(mean, std):
    """The ideal noise prediction of N(mean, std^2) in VP variables."""

    def apply(params, x, t, obs):
        at = behavior.schedule(t)
        return at.sigma * (x - at.alpha * mean) / (at.alpha**2 * std**2 + at.sigma**2)

    return Network(lambda key: None, apply)


def moments(network, steps, start=None):
    """Exact mean and standard deviation of the sampler on a 1-D Gaussian, whose map of the start noise is affine."""
    denoise = behavior.denoiser(network, None, jnp.zeros((2, 1)))
    low, high = np.asarray(integrate(denoise, behavior.solver(steps, start), jnp.array([[0.0], [1.0]]), None))[:, 0]
    return low, high - low


@pytest.mark.parametrize("steps", [7, 15, 40])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.3), (-0.2, 0.1)])
def test_sampler_equals_the_published_solver_in_vp_variables(steps, mean, std):
    """DPM-Solver++(2M) over x_t and lambda = log(alpha / sigma) with the noise prediction, restated in float64."""
    level = np.append(np.geomspace(behavior.noise_level(1.0), behavior.noise_level(1e-3), steps), 0.0)
    alpha, lam = 1 / np.sqrt(1 + level**2), -np.log(np.maximum(level, 1e-300))
    sigma = level * alpha

    def data(x, i):
        eps = sigma[i] * (x - alpha[i] * mean) / (alpha[i] ** 2 * std**2 + sigma[i] ** 2)
        return (x - sigma[i] * eps) / alpha[i]

    x = np.array([0.0, 1.0]) * level[0] * alpha[0]
    previous = None
    for i in range(steps - 1):
        h = lam[i + 1] - lam[i]
        clean = now = data(x, i)
        if previous is not None:
            clean = now + (now - previous) * h / (2 * (lam[i] - lam[i - 1]))
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * np.expm1(-h) * clean
        previous = now
    low, high = data(x, steps - 1)
    assert moments(gaussian_network(mean, std), steps) == pytest.approx((low, high - low), abs=2e-5)


@pytest.mark.parametrize(("std", "fifteen"), [(1.0, 1.0237), (0.3, 0.3065), (0.1, 0.1010)])
def test_fifteen_steps_are_enough(std, fifteen):
    assert moments(gaussian_network(0.0, std), 15)[1] == pytest.approx(fifteen, abs=1e-4)
    denoised = std**2 / np.hypot(
        std, behavior.noise_level(1e-3)
    )  # the last step removes what noise is left at t = 1e-3
    assert moments(gaussian_network(0.0, std), 80)[1] == pytest.approx(denoised, rel=1.5e-3)


@pytest.mark.parametrize(("start", "std"), [(5.0, 0.2), (10.0, 0.5)])
def test_a_lower_start_pulls_the_mean_towards_zero_by_the_stated_share(start, std):
    mean, ours = moments(gaussian_network(0.6, std), 60, start)
    assert mean == pytest.approx(0.6 * (1 - std / np.hypot(start, std)), abs=2e-3)
    assert ours == pytest.approx(std * start / np.hypot(start, std), rel=1e-2)


def test_one_evaluation_a_step():
    calls = []

    def denoise(y, sigma):
        jax.debug.callback(calls.append, sigma)
        return y / (1 + sigma**2)

    jax.block_until_ready(jax.jit(lambda: integrate(denoise, behavior.solver(15), jnp.ones((1, 1)), None))())
    jax.effects_barrier()
    assert len(calls) == 15


def test_actions_stay_in_the_box_whatever_the_normaliser():
    normaliser = Normaliser(jnp.array([0.2]), jnp.array([0.5]))
    denoise = behavior.denoiser(gaussian_network(0.0, 3.0), None, jnp.zeros((1000, 1)))
    z = behavior.draw(denoise, normaliser, behavior.solver(10), jax.random.key(0), (1000, 1))
    raw = np.asarray(z) * 0.5 + 0.2
    assert raw.min() == pytest.approx(-1.0, abs=1e-6) and raw.max() == pytest.approx(1.0, abs=1e-6)
    assert 0.3 < np.mean(np.abs(raw) < 0.999) < 0.7  # only what was outside is moved


def test_a_trained_model_recovers_a_bimodal_policy():
    """Given s, actions are s / 2 ± 0.4 with spread 0.1, equally often."""
    network, steps = dense_unet(1, 1, widths=(64, 32), time_scale=2.0), 1_500
    tx = optax.adam(optax.cosine_decay_schedule(4e-3, steps))

    def minibatch(key):
        obs_key, side_key, noise_key = jax.random.split(key, 3)
        obs = jax.random.uniform(obs_key, (256, 1), minval=-1)
        side = jax.random.rademacher(side_key, (256, 1), jnp.float32)
        return obs, obs / 2 + 0.4 * side + 0.1 * jax.random.normal(noise_key, (256, 1))

    @jax.jit
    def run(key):
        state = init_state(network.init(key), tx, Normaliser(jnp.zeros(1), jnp.ones(1)))
        state, metrics = behavior.fit(network, tx, Averaging(decay=0.9), state, minibatch, key, steps)
        obs = jnp.repeat(jnp.array([[-0.8], [0.0], [0.8]]), 1_000, axis=0)
        denoise = behavior.denoiser(network, state.ema, obs)
        return behavior.draw(denoise, state.normaliser, behavior.solver(15), key, (3_000, 1)), metrics

    z, metrics = run(jax.random.key(0))
    assert set(metrics) == {"loss", "gradient_norm"} and 0.05 < metrics["loss"] < 0.5
    for rows, center in zip(np.asarray(z).reshape(3, 1_000), (-0.4, 0.0, 0.4), strict=True):
        assert np.mean(rows > center) == pytest.approx(0.5, abs=0.1)
        for side in (1, -1):
            half = rows[(rows - center) * side > 0]
            assert np.median(half) == pytest.approx(center + 0.4 * side, abs=0.07)
            assert np.subtract(*np.percentile(half, [84, 16])) / 2 == pytest.approx(0.1, abs=0.05)
