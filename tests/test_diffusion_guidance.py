"""Classifier-free guidance on Gaussians and mixtures, against closed forms and an accurate ODE solution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import norm

from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.guidance import classifier_free
from cfdg_jax.diffusion.network import resmlp
from cfdg_jax.diffusion.samplers import Solver, integrate, sample
from cfdg_jax.errors import UserError

LABEL, NULL = 0, 1
GRID = jnp.linspace(-6.0, 6.0, 4001)[:, None]
WEIGHTS = norm.pdf(np.asarray(GRID[:, 0])) * 0.003


def pair(mean, std, null_std):
    """Ideal labelled denoiser: label 0 is N(mean, std^2), label 1, the null, is N(0, null_std^2)."""
    means, stds = jnp.array([mean, 0.0]), jnp.array([std, null_std])

    def denoise(x, sigma, label):
        m, s = means[label][..., None], stds[label][..., None]
        return (s**2 * x + sigma**2 * m) / (s**2 + sigma**2)

    return denoise


def mixture(mean, std, prior=0.5):
    """Label 0 is N(mean, std^2); the null is that with weight `prior` and N(-mean, std^2) for the rest."""

    def denoise(x, sigma, label):
        variance = std**2 + sigma**2
        of_class = lambda m: (std**2 * x + sigma**2 * m) / variance
        odds = jax.nn.sigmoid(2 * mean * x / variance + np.log(prior / (1 - prior)))
        null = odds * of_class(mean) + (1 - odds) * of_class(-mean)
        return jnp.where(label[..., None] == LABEL, of_class(mean), null)

    return denoise


def guided_moments(denoise, w, solver=Solver(churn=0.0)):
    """Mean and standard deviation of the deterministic sampler by quadrature over its 1-D start noise."""
    guided = classifier_free(denoise, LABEL, NULL, w)
    out = np.asarray(jax.jit(lambda: integrate(guided, solver, GRID, None))())[:, 0].astype(np.float64)
    mean = WEIGHTS @ out
    return mean, np.sqrt(WEIGHTS @ (out - mean) ** 2)


@pytest.mark.parametrize(("w", "listed"), [(0.3, 1.29141), (1.0, 1.9870), (2.5, None)])
def test_shifted_class_moves_by_one_plus_w(w, listed):
    """The flow from a prior of mean 0 ends at (1 + w) m (1 - s / sqrt(80^2 + s^2)); `listed` has sampling error."""
    mean, std = guided_moments(pair(1.0, 0.5, 0.5), w)
    assert mean == pytest.approx((1 + w) * (1 - 0.5 / np.hypot(80, 0.5)), abs=1e-4)
    assert std == pytest.approx(0.5005, abs=1e-4)
    assert listed is None or mean == pytest.approx(listed, abs=6e-4)


@pytest.mark.parametrize(("w", "std"), [(0.3, 0.4065), (1.0, 0.25025)])
def test_narrow_class_narrows_by_a_power(w, std):
    mean, ours = guided_moments(pair(0.0, 0.5, 1.0), w)
    assert mean == pytest.approx(0.0, abs=1e-4) and ours == pytest.approx(std, abs=3e-4)


@pytest.mark.parametrize(
    ("w", "mean", "std"),
    [(0.0, 0.993, 0.5005), (0.1, 1.040, 0.472), (0.3, 1.118, 0.4306), (0.5, 1.183, 0.4025), (1.0, 1.315, 0.3587),
     (3.0, 1.667, 0.2887)],
)  # fmt: skip
def test_two_classes(w, mean, std):
    assert guided_moments(mixture(1.0, 0.5), w) == pytest.approx((mean, std), abs=1e-3)


@pytest.mark.parametrize(("w", "std", "null_std"), [(0.2, 0.8, 1.3), (0.7, 0.3, 0.6), (2.0, 0.9, 1.2), (5.0, 1.1, 1.2)])
def test_unlisted_widths_against_the_exact_flow(w, std, null_std):
    """Of two zero-mean Gaussians the guided flow is linear, so its end is known in closed form."""
    exact = 80 * np.hypot(1, 80 / std) ** -(1 + w) * np.hypot(1, 80 / null_std) ** w
    assert guided_moments(pair(0.0, std, null_std), w, Solver(steps=256, churn=0.0))[1] == pytest.approx(
        exact, rel=2e-3
    )


@pytest.mark.parametrize(
    ("w", "mean", "std", "prior"), [(0.2, 1.0, 0.4, 0.5), (0.8, 0.6, 0.7, 0.3), (2.0, 1.5, 1.0, 0.9)]
)
def test_unlisted_mixtures_against_an_ode_solver(w, mean, std, prior):
    """The same guided field, restated in float64 through densities, integrated by an adaptive high-order method."""

    def field(sigma, x):
        spread = np.hypot(std, sigma)
        own, other = prior * norm.pdf(x, mean, spread), (1 - prior) * norm.pdf(x, -mean, spread)
        own_score = -(x - mean) / spread**2
        null_score = (own * own_score - other * (x + mean) / spread**2) / (own + other)
        return -sigma * ((1 + w) * own_score - w * null_score)

    noise = np.linspace(-2.5, 2.5, 11)
    exact = solve_ivp(field, (80.0, 1e-4), 80 * noise, method="DOP853", rtol=1e-9, atol=1e-9).y[:, -1]
    guided, start = classifier_free(mixture(mean, std, prior), LABEL, NULL, w), jnp.asarray(noise[:, None], jnp.float32)
    error = {}
    for steps in (40, 80, 160):
        ours = jax.jit(lambda n=steps: integrate(guided, Solver(steps=n, churn=0.0), start, None))()
        error[steps] = np.abs(np.asarray(ours)[:, 0] - exact).max()
    assert error[160] < 3e-3
    assert error[40] / error[80] > 3 and error[80] / error[160] > 3  # Heun is of second order


@pytest.mark.parametrize("steps", [12, 48])
def test_unlisted_steps_against_the_affine_recursion(steps):
    """Per step Heun multiplies a zero-mean Gaussian sample by a known number; with guidance the rates add."""
    w, std, null_std, levels, factor = 0.6, 0.5, 0.9, edm.schedule(steps), 80.0
    rate = lambda t: (1 + w) * t / (std**2 + t**2) - w * t / (null_std**2 + t**2)
    for t, following in itertools.pairwise(levels[:-1]):
        h = following - t
        factor *= 1 + 0.5 * h * (rate(t) + (1 + h * rate(t)) * rate(following))
    factor *= 1 - levels[-2] * rate(levels[-2])
    ours = guided_moments(pair(0.0, std, null_std), w, Solver(steps=steps, churn=0.0))[1]
    assert ours == pytest.approx(abs(factor), rel=1e-4)


# -- the wrapper -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    network = resmlp(3, width=16, dim_t=8, blocks=2, labels=3)
    return edm.denoiser(network, jax.jit(network.init)(jax.random.key(0)))


def test_zero_weight_is_conditional_sampling_bit_for_bit(labelled):
    def without_null(x, sigma, label):
        assert label.shape == (), "the null branch was evaluated"
        return labelled(x, sigma, label)

    solver, key = Solver(steps=8), jax.random.key(1)
    conditional = jax.jit(lambda: sample(lambda x, sigma: labelled(x, sigma, jnp.int32(0)), solver, key, (16, 3)))()
    for zero in (0, 0.0):
        guided = jax.jit(lambda w=zero: sample(classifier_free(without_null, 0, 2, w), solver, key, (16, 3)))()
        np.testing.assert_array_equal(guided, conditional)
    traced = jax.jit(lambda w: sample(classifier_free(labelled, 0, 2, w), solver, key, (16, 3)))(jnp.float32(0.0))
    np.testing.assert_allclose(traced, conditional, rtol=1e-4, atol=1e-5)


def test_both_branches_in_one_doubled_call(labelled):
    shapes = []

    def counted(x, sigma, label):
        out = labelled(x, sigma, label)
        jax.debug.callback(lambda shape=out.shape: shapes.append(shape))
        return out

    solver, ones = Solver(steps=5), jnp.ones((4, 3))
    jax.jit(lambda: integrate(classifier_free(counted, 0, 2, 0.3), solver, ones, lambda step: ones))()
    jax.effects_barrier()
    assert shapes == [(2, 4, 3)] * solver.evaluations


def test_a_traced_weight_and_its_vmap(labelled):
    x, sigma, weights = jax.random.normal(jax.random.key(2), (5, 3)), jnp.float32(0.7), jnp.array([0.0, 0.3, 2.0])
    swept = jax.jit(jax.vmap(lambda w: classifier_free(labelled, 1, 2, w)(x, sigma)))(weights)
    for w, out in zip((0.0, 0.3, 2.0), swept, strict=True):
        np.testing.assert_allclose(out, classifier_free(labelled, 1, 2, w)(x, sigma), rtol=1e-5, atol=1e-6)


def test_a_label_per_row(labelled):
    x, sigma = jax.random.normal(jax.random.key(3), (4, 3)), jnp.float32(0.5)
    mixed = classifier_free(labelled, jnp.array([0, 1, 1, 0]), 2, 0.4)(x, sigma)
    for label, rows in ((0, [0, 3]), (1, [1, 2])):
        alone = classifier_free(labelled, label, 2, 0.4)(x, sigma)
        np.testing.assert_allclose(mixed[jnp.array(rows)], alone[jnp.array(rows)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("w", [0.3, 1.0])
def test_all_forms_and_both_conventions_agree(w):
    network = resmlp(3, width=16, dim_t=8, blocks=2, labels=3)
    params, sigma = jax.jit(network.init)(jax.random.key(0)), jnp.float32(0.8)
    x = jax.random.normal(jax.random.key(4), (9, 3))
    denoise, c = edm.denoiser(network, params), edm.preconditioning(sigma)
    guided = classifier_free(denoise, 1, 2, w)(x, sigma)
    raw = {label: network.apply(params, c.c_in * x, c.c_noise, jnp.int32(label)) for label in (1, 2)}
    from_raw = c.c_skip * x + c.c_out * ((1 + w) * raw[1] - w * raw[2])
    epsilon = {label: (x - denoise(x, sigma, jnp.int32(label))) / sigma for label in (1, 2)}
    from_epsilon = x - sigma * ((1 + w) * epsilon[1] - w * epsilon[2])
    scale = 1 + w  # CFDG's Eq. 6
    from_scale = x - sigma * (epsilon[2] + scale * (epsilon[1] - epsilon[2]))
    for other in (from_raw, from_epsilon, from_scale):
        np.testing.assert_allclose(guided, other, rtol=0, atol=2e-6)
    at_scale = lambda s: x - sigma * (epsilon[2] + s * (epsilon[1] - epsilon[2]))
    np.testing.assert_allclose(at_scale(1.0), denoise(x, sigma, jnp.int32(1)), atol=1e-6)
    np.testing.assert_allclose(at_scale(0.0), denoise(x, sigma, jnp.int32(2)), atol=1e-6)


def test_negative_weight_is_refused(labelled):
    with pytest.raises(UserError, match="must be at least 0"):
        classifier_free(labelled, 0, 2, -0.1)
