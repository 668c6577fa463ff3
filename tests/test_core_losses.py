"""Loss terms against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

from cfdg_jax.core.losses import awr_weight, expectile, td_loss, td_target, temperature_loss, weighted

SAMPLES = (np.arange(20_000) + 0.5) / 20_000


def minimiser(sample, level):
    """The value whose mean expectile loss against `sample` has zero slope."""
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda m: weighted(expectile(jnp.asarray(sample) - m, level)).mean()))
        return optimize.brentq(lambda m: float(slope(m)), sample.min(), sample.max(), xtol=1e-12)


@pytest.mark.parametrize(
    "level, uniform, normal",
    [(0.5, 0.5, 0.0), (0.7, 0.60436, 0.33712), (0.8, 0.66667, 0.54916), (0.9, 0.75, 0.86159), (0.99, 0.90867, 1.71744)],
)
def test_expectiles_of_known_distributions(level, uniform, normal):
    """Reference check 31."""
    root = np.sqrt(level)
    assert minimiser(SAMPLES, level) == pytest.approx(root / (root + np.sqrt(1 - level)), abs=1e-6)
    assert minimiser(SAMPLES, level) == pytest.approx(uniform, abs=1e-5)
    assert minimiser(stats.norm.ppf(SAMPLES), level) == pytest.approx(normal, abs=1e-3)
    assert minimiser(np.array([0.0, 1.0]), level) == pytest.approx(level, abs=1e-9)


def test_expectile_level_may_differ_by_row():
    error = jnp.array([1.0, -1.0, 2.0, -2.0])
    level = jnp.array([0.7, 0.7, 0.99, 0.99])
    np.testing.assert_allclose(expectile(error, level), [0.7, 0.3, 3.96, 0.04], rtol=1e-5)


def test_regression_weight_is_clipped_without_overflow_and_passes_no_gradient():
    """Reference check 32."""
    weight, limited = awr_weight(jnp.array([2.0, 1.0, -1.0, 1e30, -1e30]), 3.0)
    np.testing.assert_allclose(weight, [100.0, 20.0855, 0.0498, 100.0, 0.0], rtol=1e-3)
    np.testing.assert_array_equal(limited, [1, 0, 0, 1, 0])
    for beta, threshold in ((3.0, 1.535), (10.0, 0.4605)):
        _, limited = awr_weight(jnp.array([threshold - 1e-3, threshold + 1e-3]), beta)
        np.testing.assert_array_equal(limited, [0, 1])
    assert jax.grad(lambda a: awr_weight(a, 3.0)[0])(jnp.array(0.3)) == 0.0


def test_terminal_rows_do_not_bootstrap_and_targets_pass_no_gradient():
    """Reference check 33."""
    target = td_target(jnp.array([1.0, 1.0]), jnp.array([1.0, 0.0]), jnp.array([5.0, 5.0]), 0.99)
    np.testing.assert_allclose(target, [1.0, 5.95], rtol=1e-6)
    assert jax.grad(lambda v: td_target(0.0, 0.0, v, 0.99))(1.0) == 0.0


def test_td_loss_sums_or_averages_over_critics():
    """Reference check 34: two critics, each with error 1."""
    q, target = jnp.array([[1.0, 3.0], [-1.0, 1.0]]), jnp.array([0.0, 2.0])
    np.testing.assert_array_equal(td_loss(q, target), [2.0, 2.0])
    np.testing.assert_array_equal(td_loss(q, target, "mean"), [1.0, 1.0])


def test_a_weight_of_zero_does_not_rescale_the_other_rows():
    rows = jnp.array([2.0, 4.0])
    np.testing.assert_array_equal(weighted(rows, jnp.array([1.0, 0.0])), [2.0, 0.0])
    np.testing.assert_array_equal(weighted(rows), rows)


def test_temperature_loss_has_the_sign_and_scale_of_its_definition():
    grad = jax.grad(lambda la: temperature_loss(la, jnp.array(1.5), -3.0))(jnp.log(2.0))
    assert grad == pytest.approx(3.0)  # entropy -1.5 is above its target -3: alpha falls
    assert jax.grad(lambda lp: temperature_loss(jnp.array(0.0), lp, -3.0))(1.0) == 0.0
