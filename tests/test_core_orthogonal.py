"""The orthogonal initialiser: orthonormal to float32, evenly distributed, for any shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.core.networks import orthogonal


@pytest.mark.parametrize("shape", [(11, 256), (256, 256), (256, 3), (1, 4), (4, 1)])
def test_rows_or_columns_are_orthonormal(shape):
    matrix = np.asarray(jax.jit(lambda key: orthogonal(2.0)(key, shape))(jax.random.key(0)))
    assert matrix.shape == shape and matrix.dtype == np.float32
    gram = matrix.T @ matrix if shape[0] >= shape[1] else matrix @ matrix.T
    np.testing.assert_allclose(gram, 4.0 * np.eye(min(shape)), atol=2e-5)


def test_it_is_evenly_distributed():
    """Of a Haar-distributed matrix every entry has mean 0 and second moment 1 / n, and signs are even."""
    draws = np.asarray(jax.vmap(lambda key: orthogonal(1.0)(key, (3, 3)))(jax.random.split(jax.random.key(1), 20_000)))
    np.testing.assert_allclose(draws.mean(axis=0), 0.0, atol=0.015)
    np.testing.assert_allclose((draws**2).mean(axis=0), 1 / 3, atol=0.01)
    assert abs((np.linalg.det(draws) > 0).mean() - 0.5) < 0.015


def test_keys_differ():
    one, other = (orthogonal(1.0)(jax.random.key(seed), (4, 4)) for seed in (0, 1))
    assert jnp.abs(one - other).max() > 0.1
