"""Samplers on Gaussians, where every scheme is an affine map of its noise and its moments are exact."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import Averaging, Normaliser, fit_scan, init_state, optimiser
from cfdg_jax.diffusion.guidance import classifier_free
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
    assert moments(gaussian(0.0, 1.0), Solver(steps=128, churn=0.0, kind="euler"))[1] == pytest.approx(
        0.97986, abs=2e-5
    )


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
    "solver", [Solver(steps=24, churn=10.0), Solver(steps=20, churn=0.0), Solver(steps=30, kind="euler")]
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
        if levels[i + 1] > 0 and solver.kind == "heun":
            slope = 0.5 * (slope + (euler - denoise(euler, levels[i + 1])) / levels[i + 1])
        x = x + (levels[i + 1] - raised) * slope
    noise = jnp.asarray(draws, jnp.float32)
    ours = integrate(denoise, solver, noise[0], lambda step: noise[step + 1])
    np.testing.assert_allclose(ours, x, rtol=2e-5, atol=2e-5)


# -- multistep ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "order", "floor"),
    [
        (Solver(kind="heun", churn=0.0), 2, 0.02),
        (Solver(kind="euler", churn=0.0), 1, 0.06),
        (Solver(kind="dpm++2m"), 2, 0.01),
        (Solver(kind="dpm++2m-sde"), 2, 0.02),
        (Solver(kind="dpm++3m"), 3, 0.003),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
@pytest.mark.parametrize("data", [1.0, 0.3])
def test_error_falls_at_the_solvers_order(solver, order, floor, data):
    """Of the std, with levels down to a sigma whose last step to 0 is exact enough not to be seen."""
    error = {}
    for steps in (30, 60):
        refined = dataclasses.replace(solver, steps=steps, sigma_min=1e-3)
        exact = 80 / np.hypot(80, data) * data  # of the flow that starts at 80, not at infinity
        exact = exact if solver.kind != "dpm++2m-sde" else data
        error[steps] = abs(moments(gaussian(0.0, data), refined)[1] / exact - 1)
    assert error[60] < floor
    assert error[30] / error[60] > 0.65 * 2**order


def test_three_steps_back_beat_stochastic_heun_at_a_tenth_of_its_evaluations():
    published, ours = Solver(), Solver(steps=24, kind="dpm++3m")
    assert 10 * ours.evaluations < published.evaluations
    for data in (1.0, 0.3, 0.05):
        error = {s: abs(moments(gaussian(0.5, data), s)[1] / data - 1) for s in (published, ours)}
        assert error[ours] < 0.5 * error[published]


@pytest.mark.parametrize("kind", ["dpm++2m", "dpm++2m-sde", "dpm++3m"])
def test_against_the_multistep_formulas_in_numpy(kind):
    """2M and 2M-SDE as published, 3M by quadrature of the polynomial through the last values; float64 loops."""
    steps, data, eta = 9, 0.6, 1.0 if kind == "dpm++2m-sde" else 0.0
    levels = np.append(80.0 * (0.002 / 80.0) ** (np.arange(steps) / (steps - 1)), 0.0)
    denoise, draws = gaussian(0.7, data), np.random.default_rng(0).normal(size=(steps + 1, 5, 1))
    x, values, times = 80.0 * draws[0], [], []
    for i, (sigma, following) in enumerate(itertools.pairwise(levels)):
        values, times = [denoise(x, sigma), *values[:2]], [-np.log(sigma), *times[:2]]
        if following == 0:
            x = values[0]
            break
        h = np.log(sigma / following)
        if kind == "dpm++3m":
            nodes = np.array(times) - times[0]
            lines = [np.poly1d(np.polyfit(nodes, row, len(nodes) - 1)) for row in np.eye(len(nodes))]
            weights = [quad(lambda t, h=h, line=line: np.exp(t - h) * line(t), 0, h)[0] for line in lines]
            drift = sum(weight * value for weight, value in zip(weights, values, strict=True))
            x = following / sigma * x + drift
        else:
            slope = (values[0] - values[1]) * h / (times[0] - times[1]) if i else 0.0
            x = following / sigma * np.exp(-eta * h) * x + (1 - np.exp(-(1 + eta) * h)) * (values[0] + 0.5 * slope)
            x = x + following * np.sqrt(1 - np.exp(-2 * eta * h)) * draws[i + 1]
    noise = jnp.asarray(draws, jnp.float32)
    ours = integrate(denoise, Solver(steps=steps, kind=kind), noise[0], lambda step: noise[step + 1])
    np.testing.assert_allclose(ours, x, rtol=3e-5, atol=3e-5)


def test_without_noise_the_sde_is_the_ode():
    noise = jax.random.normal(jax.random.key(0), (20, 6, 2))
    by_kind = lambda kind: integrate(gaussian(0.3, 0.5), Solver(19, kind, eta=0.0), noise[0], lambda step: noise[step])
    np.testing.assert_allclose(by_kind("dpm++2m-sde"), by_kind("dpm++2m"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["heun", "dpm++2m", "dpm++3m"])
def test_a_variance_preserving_model_on_its_own_levels(kind):
    """alpha and sigma with alpha^2 + sigma^2 = 1 become x / alpha at sigma / alpha: the prior is wider than that."""
    sigma = np.geomspace(3.0, 0.01, 40)  # sigma / alpha: alpha = .316 at the start, so that the prior's std shows
    solver = Solver(steps=40, kind=kind, churn=0.0)
    run = lambda std: integrate(gaussian(0.0, 1.0), solver, jnp.ones((1, 1)), None, np.append(sigma, 0.0), std)
    assert run(np.hypot(1, 3.0))[0, 0] == pytest.approx(1.0, abs=3e-3)
    assert run(None)[0, 0] == pytest.approx(3.0 / np.hypot(1, 3.0), abs=3e-3)


@pytest.mark.parametrize(
    "solver", [Solver(96, churn=0.0), Solver(96, "dpm++2m"), Solver(32, "dpm++3m")], ids=lambda solver: solver.kind
)
@pytest.mark.parametrize(
    ("w", "mean", "std", "tolerance"),
    [(0.3, 1.118, 0.430, 2e-3), (1.0, 1.316, 0.358, 3e-3), (3.0, 1.667, 0.288, 0.012)],
)
def test_guided_mixture_at_other_settings(solver, w, mean, std, tolerance):
    """Two classes N(±1, .5^2), prior one half, guided to the first: moments by quadrature over the start noise."""

    def mixture(x, sigma, label):
        variance = 0.5**2 + sigma**2
        of_class = lambda m: (0.5**2 * x + sigma**2 * m) / variance
        null = jnp.tanh(x / variance) * sigma**2 / variance + 0.5**2 * x / variance
        return jnp.where(label[..., None] == 0, of_class(1.0), null)

    grid = jnp.linspace(-6.0, 6.0, 2001)[:, None]
    weights = norm.pdf(np.asarray(grid[:, 0])) * 0.006
    out = jax.jit(lambda: integrate(classifier_free(mixture, 0, 1, w), solver, grid, None))()[:, 0]
    ours = weights @ np.asarray(out, np.float64)
    assert ours == pytest.approx(mean, abs=tolerance)
    assert np.sqrt(weights @ (np.asarray(out) - ours) ** 2) == pytest.approx(std, abs=tolerance)


@pytest.mark.parametrize("kind", ["heun", "dpm++3m"])
def test_guidance_in_an_interval_of_noise_evaluates_the_null_branch_there_alone(kind):
    rows, low, high = [], 0.1, 5.0

    def counted(x, sigma, label):
        jax.debug.callback(lambda sigma, branches=label.shape[:1]: rows.append((float(sigma), branches)), sigma)
        return jnp.broadcast_to(x, (*label.shape[:1], *x.shape)) / (1 + sigma**2)

    guided = classifier_free(counted, 0, 1, 0.5, (low, high))
    jax.jit(lambda: integrate(guided, Solver(12, kind, churn=0.0), jnp.ones((2, 1)), None))()
    jax.effects_barrier()
    assert {low <= sigma <= high for sigma, _ in rows} == {True, False}
    assert all((branches == (2,)) == (low <= sigma <= high) for sigma, branches in rows)
    assert len(rows) == Solver(12, kind).evaluations


def test_guidance_in_all_noise_is_guidance():
    denoise = lambda x, sigma, label: x / (1 + sigma**2) + label[..., None] * 0.1
    for interval, same in (((0.0, np.inf), True), ((0.5, 2.0), False)):
        part, whole = classifier_free(denoise, 0, 1, 0.7, interval), classifier_free(denoise, 0, 1, 0.7)
        x = jnp.ones((3, 2))
        for sigma in (0.01, 1.0, 30.0):
            equal = np.allclose(part(x, jnp.float32(sigma)), whole(x, jnp.float32(sigma)))
            assert equal == (same or 0.5 <= sigma <= 2.0)


# -- several dimensions, trained networks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [
        Solver(churn=0.0),
        Solver(s_noise=1.0),
        Solver(steps=40, kind="dpm++2m"),
        Solver(steps=64, kind="dpm++2m-sde"),
        Solver(steps=20, kind="dpm++3m"),
    ],
    ids=lambda solver: f"{solver.kind}-{solver.steps}-{solver.churn:g}",
)
def test_full_covariance_with_the_ideal_denoiser(solver):
    draws = np.random.default_rng(0).normal(size=(4, 4))
    covariance = jnp.asarray(draws @ draws.T + 0.2 * np.eye(4), jnp.float32)
    denoise = lambda x, sigma: x @ jnp.linalg.solve(covariance + sigma**2 * jnp.eye(4), covariance)
    unit = jnp.eye(4 * (solver.steps + 1)).reshape(-1, solver.steps + 1, 4)  # one row per number drawn
    rows = jax.jit(lambda: integrate(denoise, solver, unit[:, 0], lambda step: unit[:, step + 1]))()
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
    [
        (Solver(), 255),
        (Solver(steps=18), 35),
        (Solver(steps=18, kind="euler"), 18),
        (Solver(steps=2), 3),
        (Solver(steps=18, kind="dpm++2m"), 18),
        (Solver(steps=18, kind="dpm++2m-sde"), 18),
        (Solver(5, "dpm++3m"), 5),
    ],
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
