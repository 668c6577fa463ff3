"""Densities against scipy and closed forms, and their stability where squashing saturates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cfdg_jax.core.distributions import Normal, TanhNormal


@pytest.mark.parametrize("dims, expected", [(1, -0.91894), (3, -2.75682)])
def test_densities_at_the_mean_with_unit_deviation(dims, expected):
    """Reference check 38."""
    zeros = jnp.zeros(dims)
    assert Normal(zeros + 0.3, zeros).log_prob(zeros + 0.3) == pytest.approx(expected, abs=1e-5)
    assert TanhNormal(zeros, zeros).log_prob_of(zeros) == pytest.approx(expected, abs=1e-5)


def test_normal_density_equals_scipy():
    rng = np.random.default_rng(0)
    mean, log_std, x = (rng.normal(size=(6, 3)).astype(np.float32) for _ in range(3))
    expected = stats.norm(mean, np.exp(log_std)).logpdf(x).sum(axis=-1)
    np.testing.assert_allclose(Normal(mean, log_std).log_prob(x), expected, rtol=1e-5)


def test_squashed_density_integrates_to_one_and_equals_the_change_of_variables():
    dist = TanhNormal(jnp.full((1,), 0.4), jnp.full((1,), -0.3))
    edges = np.linspace(-1, 1, 20_001)
    middle = (edges[1:] + edges[:-1]) / 2
    density = np.exp(dist.log_prob(jnp.asarray(middle[:, None], jnp.float32)))
    assert density.sum() * (edges[1] - edges[0]) == pytest.approx(1.0, abs=1e-3)
    u = np.array([[-1.5], [0.0], [2.0]], np.float32)
    direct = stats.norm(0.4, np.exp(-0.3)).logpdf(u) - np.log(1 - np.tanh(u.astype(np.float64)) ** 2)
    np.testing.assert_allclose(dist.log_prob_of(u), direct[:, 0], rtol=1e-5)


@pytest.mark.parametrize("u", [-40.0, -20.0, 20.0, 40.0])
def test_squashed_density_is_exact_where_tanh_rounds_to_one(u):
    """log(1 - tanh(u)^2) tends to 2 log 2 - 2 |u|, far below what float32 resolves around 1."""
    dist = TanhNormal(jnp.array([u]), jnp.array([0.0]))
    expected = -0.5 * np.log(2 * np.pi) - (2 * np.log(2) - 2 * abs(u))
    value, slope = jax.value_and_grad(lambda x: dist.log_prob_of(x[None]))(jnp.float32(u))
    assert value == pytest.approx(expected, rel=1e-5)
    assert slope == pytest.approx(2 * np.sign(u), rel=1e-4)


def test_samples_carry_the_density_of_their_own_action():
    rng = np.random.default_rng(1)
    mean, log_std, noise = (rng.normal(size=(5, 2)).astype(np.float32) * 0.5 for _ in range(3))
    action, log_prob = TanhNormal(mean, log_std).sample(noise)
    np.testing.assert_allclose(action, np.tanh(mean + np.exp(log_std) * noise), rtol=1e-5)
    np.testing.assert_allclose(log_prob, TanhNormal(mean, log_std).log_prob(action), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(Normal(mean, log_std).sample(noise), mean + np.exp(log_std) * noise, rtol=1e-6)


def test_modes_and_the_edge_of_the_box():
    dist = TanhNormal(jnp.array([0.5, -9.0]), jnp.zeros(2))
    np.testing.assert_allclose(dist.mode(), np.tanh([0.5, -9.0]), rtol=1e-6)
    assert np.isfinite(dist.log_prob(jnp.array([1.0, -1.0])))
    np.testing.assert_array_equal(Normal(jnp.array([0.5]), jnp.zeros(1)).mode(), [0.5])
