"""The seed axis: independent streams, equal however they are compiled, equal to single runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.core.seeds import over_seeds, purpose_key, purpose_keys, seed_keys


def test_seed_i_of_many_is_the_single_run_of_seed_i():
    many = jax.random.key_data(seed_keys(7, 5))
    for seed in range(5):
        np.testing.assert_array_equal(many[seed], jax.random.key_data(seed_keys(7, 1, seed))[0])


def test_streams_differ_by_run_seed_purpose_and_step():
    keys = [
        purpose_key(seed_keys(run, 2)[seed], purpose, step)
        for run in (0, 1)
        for seed in (0, 1)
        for purpose in ("draw", "act")
        for step in (None, 0, 1)
    ]
    assert len({tuple(np.asarray(jax.random.key_data(key)).tolist()) for key in keys}) == len(keys)


def test_step_may_be_traced():
    keys = seed_keys(0, 3)
    traced = jax.jit(lambda step: jax.random.key_data(purpose_keys(keys, "draw", step)))(jnp.asarray(4))
    np.testing.assert_array_equal(traced, jax.random.key_data(purpose_keys(keys, "draw", 4)))


@pytest.mark.parametrize("how", ["vmap", "scan"])
def test_over_seeds_equals_a_loop(how):
    def fn(state, shared, x):
        return {"w": state["w"] @ shared + x}, state["w"].sum()

    state = {"w": jax.random.normal(jax.random.key(0), (4, 3, 3))}
    shared, x = jax.random.normal(jax.random.key(1), (3, 2)), jnp.arange(4.0)
    got, sums = over_seeds(fn, (0, None, 0), how)(state, shared, x)
    for seed in range(4):
        want, total = fn({"w": state["w"][seed]}, shared, x[seed])
        np.testing.assert_allclose(got["w"][seed], want["w"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(sums[seed], total, rtol=1e-5, atol=1e-6)
