"""Samplers on Gaussians, where every scheme is an affine map of its noise and its moments are exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import Averaging, Normaliser, fit_scan, init_state, optimiser
from cfdg_jax.diffusion.network import resmlp
from cfdg_jax.diffusion.samplers import Solver, integrate, sample


def gaussian(mean, std):
    return lambda x, sigma: (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


def moments(denoise, solver):
    """Exact mean and std of the sampler on a 1-D affine denoiser: one row per unit noise, one without noise."""
    rows = solver.steps + 2
    unit = jnp.eye(rows)[:, :, None]
    start, churn = unit[0], unit[1:-1]
    out = np.asarray(jax.jit(lambda: integrate(denoise, solver, start, lambda step: churn[step]))())[:, 0]
    return out[-1], np.sqrt(np.sum((out[:-1] - out[-1]) ** 2))


@pytest.mark.parametrize(("steps", "std"), [(128, 1.00065), (32, 1.01272), (18, 1.04473)])
def test_heun_deterministic(steps, std):
    assert moments(gaussian(0.0, 1.0), Solver(steps=steps, churn=0.0))[1] == pytest.approx(std, abs=2e-5)


def test_euler_deterministic():
    assert moments(gaussian(0.0, 1.0), Solver(steps=128, churn=0.0, order=1))[1] == pytest.approx(0.97986, abs=2e-5)


@pytest.mark.parametrize(
    ("steps", "s_noise", "std"),
    [(128, 1.003, 1.01148), (32, 1.003, 1.04732), (18, 1.003, 1.10958), (128, 1.0, 1.00845)],
)
def test_heun_with_churn(steps, s_noise, std):
    assert moments(gaussian(0.0, 1.0), Solver(steps=steps, s_noise=s_noise))[1] == pytest.approx(std, abs=3e-5)


@pytest.mark.parametrize(
    ("data", "churn", "std"), [(0.5, 0.0, 0.50043), (0.5, 80.0, 0.50632), (2.0, 0.0, 2.00056), (2.0, 80.0, 2.02119)]
)
def test_other_standard_deviations(data, churn, std):
    assert moments(gaussian(0.0, data), Solver(churn=churn))[1] == pytest.approx(std, abs=5e-5)


def test_mean_is_biased_by_the_prior_unless_churned():
    exact = 3 * (1 - 0.5 / np.sqrt(80**2 + 0.25))
    assert moments(gaussian(3.0, 0.5), Solver(churn=0.0))[0] == pytest.approx(exact, abs=2e-4)
    assert moments(gaussian(3.0, 0.5), Solver())[0] == pytest.approx(3.0, abs=2e-4)


@pytest.mark.parametrize(
    "solver", [Solver(steps=24, churn=10.0), Solver(steps=20, churn=0.0), Solver(steps=30, order=1)]
)
@pytest.mark.parametrize("data", [0.3, 1.5])
def test_against_algorithm_2_in_numpy(solver, data):
    """An independent float64 loop over the published pseudo-code, at N, churn and std not listed elsewhere."""
    levels = np.array([(80 ** (1 / 7) + i / (solver.steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
                       for i in range(solver.steps)] + [0.0])  # fmt: skip
    denoise, draws = gaussian(0.7, data), np.random.default_rng(0).normal(size=(solver.steps + 1, 5, 1))
    x = 80 * draws[0]
    for i in range(solver.steps):
        gamma = min(solver.churn / solver.steps, 2**0.5 - 1) if 0.05 <= levels[i] <= 50 else 0.0
        raised = levels[i] * (1 + gamma)
        x = x + (raised**2 - levels[i] ** 2) ** 0.5 * 1.003 * draws[i + 1]
        slope = (x - denoise(x, raised)) / raised
        euler = x + (levels[i + 1] - raised) * slope
        if levels[i + 1] > 0 and solver.order == 2:
            slope = 0.5 * (slope + (euler - denoise(euler, levels[i + 1])) / levels[i + 1])
        x = x + (levels[i + 1] - raised) * slope
    noise = jnp.asarray(draws, jnp.float32)
    ours = integrate(denoise, solver, noise[0], lambda step: noise[step + 1])
    np.testing.assert_allclose(ours, x, rtol=2e-5, atol=2e-5)


def test_full_covariance_with_the_ideal_denoiser():
    draws = np.random.default_rng(0).normal(size=(4, 4))
    covariance = jnp.asarray(draws @ draws.T + 0.2 * np.eye(4), jnp.float32)
    denoise = lambda x, sigma: x @ jnp.linalg.solve(covariance + sigma**2 * jnp.eye(4), covariance)
    rows = jax.jit(lambda: integrate(denoise, Solver(churn=0.0), jnp.eye(4), None))()
    assert np.linalg.norm(rows.T @ rows - covariance) < 0.02 * np.linalg.norm(covariance)


def test_full_covariance_with_a_trained_network():
    factor = jnp.asarray(
        np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0] * [1.5, 1.0, 0.7, 0.4], jnp.float32
    )
    covariance = factor @ factor.T
    network, tx = resmlp(4, width=64, dim_t=32, blocks=2), optimiser(3e-3, 1_500)

    def loss(params, key):
        clean_key, sigma_key, noise_key = jax.random.split(key, 3)
        clean = jax.random.normal(clean_key, (256, 4)) @ factor.T
        sigma, noise = edm.draw_sigma(sigma_key, (256,)), jax.random.normal(noise_key, (256, 4))
        return edm.loss(network, params, clean, sigma, noise).mean()

    @jax.jit
    def run(key):
        init_key, fit_key, sample_key = jax.random.split(key, 3)
        state = init_state(network.init(init_key), tx, Normaliser(jnp.zeros(4), jnp.ones(4)))
        state, _ = fit_scan(state, loss, tx, Averaging(), fit_key, 1_500)
        return sample(edm.denoiser(network, state.ema), Solver(steps=32, churn=0.0), sample_key, (10_000, 4))

    rows = run(jax.random.key(0))
    assert np.linalg.norm(np.cov(rows.T) - covariance) < 0.1 * np.linalg.norm(covariance)


@pytest.mark.parametrize(
    ("solver", "evaluations"),
    [(Solver(), 255), (Solver(steps=18), 35), (Solver(steps=18, order=1), 18), (Solver(steps=2), 3)],
)
def test_number_of_evaluations(solver, evaluations):
    calls = []

    def denoise(x, sigma):
        jax.debug.callback(calls.append, sigma)
        return x / (1 + sigma**2)

    jax.jit(lambda: integrate(denoise, solver, jnp.ones((1, 1)), lambda step: jnp.zeros((1, 1))))()
    jax.effects_barrier()
    assert len(calls) == solver.evaluations == evaluations


def test_key_alone_decides():
    denoise, solver = gaussian(0.0, 1.0), Solver(steps=8)
    draw = jax.jit(lambda key: sample(denoise, solver, key, (16, 3)))
    first, again, other = draw(jax.random.key(0)), draw(jax.random.key(0)), draw(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (16, 3) and first.dtype == jnp.float32 and np.all(first != other)
    plain = sample(denoise, solver, jax.random.key(0), (16, 3))
    np.testing.assert_allclose(first, plain, rtol=1e-5, atol=1e-6)
    seeds = jax.vmap(draw)(jax.random.split(jax.random.key(2), 3))
    np.testing.assert_allclose(seeds[1], draw(jax.random.split(jax.random.key(2), 3)[1]), rtol=1e-5, atol=1e-6)


def test_churn_noise_is_fresh_at_every_step():
    """With one noise for all steps the contributions would add coherently: the std would be far off."""
    rows = jax.jit(lambda key: sample(gaussian(0.0, 1.0), Solver(steps=32), key, (50_000, 1)))(jax.random.key(0))
    assert np.std(rows) == pytest.approx(1.04732, abs=0.012)
