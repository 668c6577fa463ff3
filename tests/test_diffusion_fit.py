"""Normaliser, label dropping, weight average, optimiser and the training scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.augment.rows import online_mask
from cfdg_jax.core import ring
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import (
    Averaging,
    Normaliser,
    drop_labels,
    fit_normaliser,
    fit_scan,
    init_state,
    normalise,
    optimiser,
    unnormalise,
)
from cfdg_jax.diffusion.network import resmlp


def rows_with(mean, std, count, columns=1, seed=0):
    """Rows whose sample moments are exactly `mean` and `std`."""
    z = np.random.default_rng(seed).normal(size=(count, columns))
    z = (z - z.mean(axis=0)) / z.std(axis=0, ddof=1)
    return jnp.asarray(mean + std * z, jnp.float32)


# -- normaliser --------------------------------------------------------------------------------------------------------


def test_mixture_weighs_both_parts_the_same_whatever_their_size():
    offline, online = rows_with(0.0, 1.0, 1_000_000), rows_with(4.0, 1.0, 1_000)
    fitted = jax.jit(lambda: fit_normaliser([(offline, None), (online, None)], 1))()
    assert fitted.mean[0] == pytest.approx(2.0, abs=1e-5)
    assert (fitted.std[0] - 1e-5) ** 2 == pytest.approx(5.0, abs=1e-4)


def test_normalised_columns_are_standard():
    rows = jnp.concatenate(
        [rows_with(m, s, 50_000, seed=i) for i, (m, s) in enumerate([(500, 2), (-3, 40), (0.1, 0.01)])], 1
    )
    fitted = jax.jit(lambda rows: fit_normaliser([(rows, None)], 3))(rows)
    z = np.asarray(normalise(fitted, rows), np.float64)
    # float32 rows near 500 with std 2 carry 3e-5 / 2 of rounding themselves
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(z[:, 1].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(z[:, :2].std(axis=0), 1.0, atol=1e-4)
    np.testing.assert_allclose(z[:, 2].std(), 0.01 / (0.01 + 1e-5), rtol=1e-4)
    back = unnormalise(fitted, normalise(fitted, rows))
    np.testing.assert_allclose(back, rows, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 1234.567])
def test_constant_column_becomes_zero(value):
    rows = jnp.full((3_333, 1), value)
    fitted = jax.jit(lambda rows: fit_normaliser([(rows, None), (rows[:7], None)], 1))(rows)
    np.testing.assert_array_equal(normalise(fitted, rows), 0.0)
    np.testing.assert_allclose(unnormalise(fitted, jnp.zeros((1, 1))), value, rtol=1e-5, atol=1e-6)


def test_empty_places_of_a_ring_do_not_count():
    data = rows_with(3.0, 2.0, 50, columns=4)
    buffer = ring.insert(ring.empty(200, 4), data)._replace(
        rows=ring.empty(200, 4).rows.at[:].set(jnp.nan).at[:50].set(data)
    )
    masked = fit_normaliser([(buffer.rows, online_mask(buffer))], 3)
    plain = fit_normaliser([(data, None)], 3)
    np.testing.assert_allclose(masked.mean, plain.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(masked.std, plain.std, rtol=1e-5)
    assert online_mask(ring.full(data)).all() and masked.mean.shape == (3,)


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_labels_are_dropped_row_by_row(probability):
    labels = jnp.tile(jnp.array([0, 1]), 500_000)
    dropped = drop_labels(jax.random.key(0), labels, probability, 2).reshape(-1, 250)
    shares = np.asarray((dropped == 2).mean(axis=1))
    assert shares.mean() == pytest.approx(probability, abs=0.0015)
    binomial = np.sqrt(probability * (1 - probability) / 250)  # one coin per batch: sqrt(p (1 - p))
    assert shares.std() == pytest.approx(binomial, rel=0.05)
    kept = np.asarray(dropped).ravel() != 2
    np.testing.assert_array_equal(np.asarray(dropped).ravel()[kept], np.asarray(labels)[kept])


@pytest.mark.parametrize(("probability", "trained"), [(1.0, [2]), (0.0, [0, 1])])
def test_dropped_labels_train_the_null_row_alone(probability, trained):
    network, keys = resmlp(3, width=16, dim_t=8, blocks=1, labels=3), jax.random.split(jax.random.key(0), 4)
    labels = drop_labels(keys[0], jnp.repeat(jnp.array([0, 1]), 8), probability, 2)
    clean, noise, sigma = *jax.random.normal(keys[1], (2, 16, 3)), edm.draw_sigma(keys[2], (16,))
    loss = lambda params: edm.loss(network, params, clean, sigma, noise, labels).mean()
    gradient = np.asarray(jax.jit(jax.grad(loss))(jax.jit(network.init)(keys[3]))["labels"])
    for row in range(3):
        assert np.any(gradient[row] != 0) == (row in trained)


# -- average, optimiser, scan ------------------------------------------------------------------------------------------


def test_average_acts_at_calls_1_11_21_and_copies_up_to_101():
    averaging = Averaging()
    calls = jnp.arange(1, 132)

    def body(average, call):
        average = averaging.update(average, call.astype(jnp.float32), call)
        return average, average

    averages = np.asarray(jax.lax.scan(body, jnp.zeros(()), calls)[1])
    copies = [1 + 10 * ((call - 1) // 10) for call in range(1, 111)]
    np.testing.assert_array_equal(averages[:110], copies)
    assert averages[110] == pytest.approx(0.79782 * 101 + 0.20218 * 111, abs=1e-3)
    assert len(set(averages[110:120])) == 1 and averages[120] != averages[119]


def test_average_of_many_seeds_stays_a_condition():
    """A select would read and write every average at every step."""
    averaging, weights = Averaging(), jnp.arange(3.0)
    update = jax.vmap(averaging.update)
    traced = str(jax.make_jaxpr(update)(weights, weights + 1, jnp.full(3, 105)))
    assert "cond[" in traced
    for call, expected in ((105, weights), (111, 0.79782 * weights + 0.20218 * (weights + 1))):
        np.testing.assert_allclose(update(weights, weights + 1, jnp.full(3, call)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "decay"),
    [(50, 0), (101, 0), (102, 0.370), (111, 0.798), (201, 0.954), (1001, 0.9893), (2931, 0.995), (9001, 0.995)],
)
def test_average_decay(call, decay):
    assert Averaging().decay_at(jnp.int32(call)) == pytest.approx(decay, abs=6e-4)


@pytest.mark.parametrize(
    ("share", "steps", "decay", "every"),
    [
        (0.02, 100_000, 0.995, 10),
        (1 / 15, 30_000, 0.995, 10),
        (0.02, 3_000, 1 - 1 / 6, 10),
        (0.02, 100, 0, 10),
        (0, 9, 0, 1),
    ],
)
def test_the_window_of_the_average_follows_the_length_of_the_fit(share, steps, decay, every):
    """SynthER's 0.995 at its own 100,000 steps, EDIS's at its 30,000."""
    averaging = Averaging.over(share, steps)
    assert averaging.decay == pytest.approx(decay, abs=1e-12) and averaging.every == every


def test_an_average_over_nothing_is_the_weights_themselves():
    averaging, weights = Averaging.over(0.0, 1_000), jnp.arange(3.0)
    for call in (1, 7, 500, 999):
        np.testing.assert_array_equal(averaging.update(weights - 1, weights, jnp.int32(call)), weights)


def test_a_linear_drift_is_followed_at_the_distance_of_the_window():
    """Averaged with decay d every 10 steps, weights that grow by 1 a step lag by 10 d / (1 - d) behind the last one."""
    averaging = Averaging.over(0.02, 20_000)
    calls = jnp.arange(1, 20_002)
    follow = lambda average, call: (averaging.update(average, call.astype(jnp.float32), call), None)
    average = jax.jit(lambda: jax.lax.scan(follow, jnp.zeros(()), calls)[0])()
    assert 20_001 - float(average) == pytest.approx(400 - 10, rel=0.01)


def quadratic_state(tx):
    return init_state({"x": jnp.array([3.0, -2.0])}, tx, Normaliser(jnp.zeros(2), jnp.ones(2)))


def test_gradient_is_clipped_before_adam_and_reported_before_clipping():
    tx = optimiser(0.1, 1_000_000)
    huge = lambda params, key: 1e6 * jnp.sum(params["x"])
    state, metrics = jax.jit(lambda s: fit_scan(s, huge, tx, Averaging(), jax.random.key(0), 1))(quadratic_state(tx))
    np.testing.assert_allclose(metrics["gradient_norm"], 1e6 * 2**0.5, rtol=1e-5)
    first_moment = jax.tree.leaves(state.opt_state[1][0].mu)[0]
    np.testing.assert_allclose(first_moment, 0.1 * 0.5**0.5, rtol=1e-5)


def test_schedule_continues_across_calls_and_ends_at_zero():
    tx, loss = optimiser(0.1, 20), lambda params, key: jnp.sum(params["x"] ** 2)
    scan = jax.jit(lambda s, steps: fit_scan(s, loss, tx, Averaging(), jax.random.key(0), steps), static_argnums=1)
    whole, _ = scan(quadratic_state(tx), 20)
    parts = quadratic_state(tx)
    for _ in range(4):
        parts, _ = scan(parts, 5)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    after, _ = scan(whole, 5)
    np.testing.assert_array_equal(after.params["x"], whole.params["x"])
    constant = optimiser(0.1, 1_000_000)
    moved, _ = jax.jit(lambda s: fit_scan(s, loss, constant, Averaging(), jax.random.key(0), 25))(
        quadratic_state(constant)
    )
    assert np.all(np.abs(moved.params["x"]) < np.abs(whole.params["x"]))


def test_each_step_gets_its_own_key():
    tx, draws = optimiser(0.1, 1_000_000), lambda params, key: jax.random.normal(key) + 0 * jnp.sum(params["x"])
    run = lambda steps: fit_scan(quadratic_state(tx), draws, tx, Averaging(), jax.random.key(0), steps)[1]["loss"]
    mean = jax.jit(run, static_argnums=0)(4_000)
    assert abs(mean) < 0.08
