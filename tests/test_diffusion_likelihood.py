"""Log-densities by the probability-flow ODE on Gaussians and mixtures whose density is known."""

import builtins

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from cfdg_jax.diffusion.fit import Normaliser
from cfdg_jax.errors import UserError

pytest.importorskip("diffrax", reason="the extra `likelihood` is not installed")

from cfdg_jax.diffusion.likelihood import log_density, log_density_of_rows


def correlated(seed=0):
    factor = np.random.default_rng(seed).normal(size=(3, 3))
    covariance = factor @ factor.T / 3 + 0.1 * np.eye(3)
    mean = np.array([0.5, -1.0, 0.2])
    matrix, centre = jnp.asarray(covariance, jnp.float32), jnp.asarray(mean, jnp.float32)
    denoise = lambda x, sigma: centre + (x - centre) @ jnp.linalg.solve(matrix + sigma**2 * jnp.eye(3), matrix)
    # The flow from N(0, 80^2) down to sigma = .002 is linear: its mean and covariance are a little off the data's.
    values, vectors = np.linalg.eigh(covariance)
    scale = vectors * np.sqrt((values + 0.002**2) / (values + 80.0**2)) @ vectors.T
    return denoise, multivariate_normal(mean - scale @ mean, 80.0**2 * scale @ scale)


def test_correlated_gaussian():
    denoise, exact = correlated()
    x = exact.rvs(50, random_state=1).astype(np.float32)
    ours = jax.jit(lambda x: log_density(denoise, x))(x)
    np.testing.assert_allclose(ours, exact.logpdf(x), atol=2e-3)


def test_far_rows_are_unlikely_and_rows_do_not_mix():
    denoise, exact = correlated()
    x = np.concatenate([exact.rvs(3, random_state=2), [[6.0, 6.0, 6.0]]]).astype(np.float32)
    ours = jax.jit(lambda x: log_density(denoise, x))(x)
    np.testing.assert_allclose(ours, exact.logpdf(x), rtol=1e-4, atol=3e-3)
    np.testing.assert_allclose(ours[:1], log_density(denoise, x[:1]), atol=1e-3)


def test_mixture():
    def denoise(x, sigma):
        variance = 0.4**2 + sigma**2
        odds = jax.nn.sigmoid(2 * x / variance + np.log(0.7 / 0.3))
        return (0.4**2 * x + sigma**2 * (2 * odds - 1)) / variance

    x = np.linspace(-2.2, 2.2, 23, dtype=np.float32)[:, None]
    exact = np.log(0.7 * norm.pdf(x[:, 0], 1, 0.4) + 0.3 * norm.pdf(x[:, 0], -1, 0.4))
    np.testing.assert_allclose(jax.jit(lambda x: log_density(denoise, x))(x), exact, atol=0.02)


def test_probes_are_unbiased():
    denoise, exact = correlated(3)
    x = np.repeat(exact.rvs(1, random_state=1)[None], 600, axis=0).astype(np.float32)
    estimates = np.asarray(jax.jit(lambda x, key: log_density(denoise, x, key, probes=1))(x, jax.random.key(0)))
    error = estimates.std() / np.sqrt(600)
    assert estimates.std() > 0.05
    assert abs(estimates.mean() - exact.logpdf(x[0])) < 3.5 * error + 0.01
    many = np.asarray(jax.jit(lambda x, key: log_density(denoise, x, key, probes=16))(x[:200], jax.random.key(1)))
    assert many.std() == pytest.approx(estimates.std() / 4, rel=0.25)


def test_raw_units_carry_their_volume():
    denoise = lambda z, sigma: z / (1 + sigma**2)
    normaliser = Normaliser(jnp.array([10.0, -2.0]), jnp.array([5.0, 0.01]))
    rows = jnp.array([[12.0, -2.005], [0.0, -2.0]])
    exact = norm.logpdf(rows[:, 0], 10, 5) + norm.logpdf(rows[:, 1], -2, 0.01)
    np.testing.assert_allclose(log_density_of_rows(denoise, normaliser, rows), exact, atol=0.01)


def test_probes_need_a_key():
    with pytest.raises(UserError, match="probes: is 2 without a key"):
        log_density(lambda x, sigma: x, jnp.zeros((1, 1)), probes=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_min": 100.0}, "sigma_min: is 100.0; must lie between 0 and sigma_max, 80.0"),
        ({"tolerance": 0.0}, "tolerance: is 0.0; must be positive"),
        ({"probes": -1}, "probes: is -1; must be at least 0"),
    ],
)
def test_values_out_of_range_are_told(options, message):
    with pytest.raises(UserError) as error:
        log_density(lambda x, sigma: x, jnp.zeros((1, 1)), jax.random.key(0), **options)
    assert str(error.value) == message


def test_without_diffrax_the_message_names_the_extra(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "diffrax":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError) as error:
        log_density(lambda x, sigma: x, jnp.zeros((1, 1)))
    assert str(error.value).endswith("pip install 'cfdg-jax[likelihood]'") and "\n" not in str(error.value)
