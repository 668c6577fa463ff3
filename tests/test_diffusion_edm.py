"""EDM's coefficients, levels and loss, and the network around them, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion import network as network_module
from cfdg_jax.diffusion.network import Network, resmlp


def gaussian(mean, std):
    """The ideal denoiser of N(mean, std^2)."""
    return lambda x, sigma: (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


def test_schedule_values():
    long, short = edm.schedule(128), edm.schedule(18)
    np.testing.assert_allclose(long[:3], [80, 76.6237, 73.3702], atol=1e-4)
    np.testing.assert_allclose(long[-3:], [0.002425, 0.002, 0.0], atol=1e-6)
    np.testing.assert_allclose(short[:3], [80, 57.586, 40.7856], atol=1e-3)
    assert len(long) == 129 and len(short) == 19 and np.all(np.diff(long) < 0)


@pytest.mark.parametrize(("steps", "churned"), [(128, 96), (32, 23), (18, 13)])
def test_churn_is_capped_inside_the_window(steps, churned):
    gammas = edm.churn_factors(edm.schedule(steps), 80.0)
    assert (gammas > 0).sum() == churned
    np.testing.assert_allclose(gammas[gammas > 0], 0.414214, atol=1e-6)


def test_churn_below_the_cap():
    gammas = edm.churn_factors(edm.schedule(20), 4.0)
    assert gammas.max() == pytest.approx(0.2)


def test_coefficients_at_one():
    c = edm.preconditioning(jnp.float32(1.0))
    np.testing.assert_allclose(c, [0.5, 0.5**0.5, 0.5**0.5, 0.0], atol=1e-6)


def loss_weight(sigma, sigma_data):
    """lambda of the squared error of D (EDM, Table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 3.0])
def test_the_output_scale_undoes_the_weight(sigma_data):
    sigma = jnp.array([0.01, 1.0, 50.0])
    c_out = edm.preconditioning(sigma, sigma_data).c_out
    np.testing.assert_allclose(loss_weight(sigma, sigma_data) * c_out**2, 1.0, rtol=1e-5)


def test_ideal_denoiser_limits():
    denoise, x = gaussian(2.0, 0.7), jnp.array([[5.0]])
    for sigma in (1e-3, 1.0, 50.0):
        np.testing.assert_allclose(denoise(jnp.array([[2.0]]), sigma), 2.0, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(denoise(x, 1e-4), x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(denoise(x, 1e4), 2.0, rtol=1e-5, atol=1e-6)
    slope = edm.score(denoise)(x, 1.3)
    np.testing.assert_allclose(slope, -(5.0 - 2.0) / (0.7**2 + 1.3**2), rtol=1e-5)


@pytest.mark.parametrize("std", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("sigma", [0.05, 1.0, 20.0])
def test_expected_loss_of_the_zero_network(sigma, std):
    zero = Network(init=lambda key: (), apply=lambda params, x, c_noise, condition: jnp.zeros_like(x))
    clean_key, noise_key = jax.random.split(jax.random.key(0))
    clean, noise = std * jax.random.normal(clean_key, (20_000, 5)), jax.random.normal(noise_key, (20_000, 5))
    rows = edm.loss(zero, (), clean, jnp.full(20_000, sigma), noise)
    assert rows.mean() == pytest.approx((sigma**2 * std**2 + 1) / (1 + sigma**2), rel=2e-2)


@pytest.mark.parametrize("sigma_data", [1.0, 0.5])
def test_loss_is_the_weighted_denoising_error(sigma_data):
    network, keys = resmlp(3, width=16, dim_t=8, blocks=2), jax.random.split(jax.random.key(1), 4)
    params = jax.jit(network.init)(keys[0])
    clean, noise = jax.random.normal(keys[1], (64, 3)), jax.random.normal(keys[2], (64, 3))
    sigma = jnp.exp(jax.random.normal(keys[3], (64,)))
    estimate = edm.denoiser(network, params, sigma_data)(clean + sigma[:, None] * noise, sigma)
    expected = loss_weight(sigma, sigma_data) * ((estimate - clean) ** 2).mean(axis=1)
    ours = edm.loss(network, params, clean, sigma, noise, sigma_data=sigma_data)
    np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_training_levels_are_log_normal():
    log = np.log(edm.draw_sigma(jax.random.key(0), (100_000,)))
    assert log.mean() == pytest.approx(-1.2, abs=0.015) and log.std() == pytest.approx(1.2, abs=0.015)


# -- network -----------------------------------------------------------------------------------------------------------

OPTIONS = [{}, {"labels": 3}, {"labels": 3, "label_embed": "onehot_concat"}, {"labels": 3, "layer_norm": True}]


@pytest.mark.parametrize("options", OPTIONS)
def test_shared_level_and_label_equal_one_per_row(options):
    network, key = resmlp(4, width=16, dim_t=8, blocks=2, **options), jax.random.key(0)
    params, x = jax.jit(network.init)(key), jax.random.normal(key, (6, 4))
    label = jnp.int32(1) if options else None
    shared = network.apply(params, x, jnp.float32(0.3), label)
    per_row = network.apply(params, x, jnp.full(6, 0.3), None if label is None else jnp.full(6, 1))
    np.testing.assert_allclose(shared, per_row, rtol=1e-5, atol=1e-6)
    assert shared.shape == x.shape and shared.dtype == jnp.float32
    if options:
        both = network.apply(params, x, jnp.float32(0.3), jnp.array([[1], [2]]))
        np.testing.assert_allclose(both[0], shared, rtol=1e-5, atol=1e-6)
        assert both.shape == (2, 6, 4) and np.abs(both[1] - both[0]).max() > 1e-3


def test_default_initialisation_is_pytorchs():
    params = jax.jit(resmlp(4, width=400, dim_t=100, labels=3).init)(jax.random.key(0))
    for name, fan_in in (("in", 4), ("time1", 17), ("up", 100), ("block0", 400), ("out", 400), ("label1", 100)):
        bound = fan_in**-0.5
        for leaf in params[name].values():
            assert np.abs(leaf).max() <= bound
        kernel = params[name]["kernel"]
        assert kernel.std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert params["labels"].shape == (3, 100) and params["frequencies"].shape == (8,)
    assert np.std(params["labels"]) == pytest.approx(1.0, rel=0.15)


def test_parameter_count_of_the_published_size():
    """SynthER's online network has about 6.7 M parameters (hopper rows: 27 columns)."""
    params = jax.eval_shape(resmlp(27, width=1024, dim_t=256).init, jax.random.key(0))
    layers = (
        27 * 256 + 256 + 17 * 256 + 256 + 256 * 256 + 256 + 256 * 1024 + 1024 + 6 * (1024**2 + 1024) + 1024 * 27 + 27
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == layers + 8


def test_frequencies_get_no_gradient():
    network = resmlp(2, width=8, dim_t=8, blocks=1)
    params = jax.jit(network.init)(jax.random.key(0))
    gradient = jax.grad(lambda p: network.apply(p, jnp.ones((3, 2)), jnp.full(3, 0.2), None).sum())(params)
    assert np.all(np.asarray(gradient["frequencies"]) == 0)
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(gradient["time1"]))


@pytest.mark.parametrize(
    ("precision", "stated"),
    [("float32", "Precision.HIGHEST,"), ("bfloat16", "BF16_BF16_F32"), ("default", "dot_general")],
)
def test_precision_reaches_every_product_of_both_passes(precision, stated):
    """CPUs have one kind of product whatever is asked, so this reads the program instead of comparing numbers."""
    network = resmlp(4, width=8, dim_t=8, blocks=1, precision=precision)
    params, x = jax.eval_shape(network.init, jax.random.key(0)), jnp.ones((2, 4))
    loss = lambda params: network.apply(params, x, jnp.float32(0.1), None).sum()
    program = str(jax.make_jaxpr(jax.value_and_grad(loss))(params))
    products = program.count("dot_general[")
    assert products == 16  # forward 6, weights 6, inputs 4 (not of x and of the time features)
    assert program.count(stated) == products and ("precision=" in program) == (precision != "default")
    assert "bf16[" not in program, "weights, sums and results stay float32"


@pytest.mark.parametrize(("precision", "bits"), [("tensorfloat32", 10), ("bfloat16", 7)])
def test_factors_are_rounded_on_every_backend(precision, bits):
    """By NumPy: the mantissa's last bits cut off after adding half of the last one kept, ties to even."""

    def rounded(x):
        whole, cut = np.asarray(x, np.float32).view(np.uint32), 23 - bits
        kept = (whole + (1 << (cut - 1)) - 1 + ((whole >> cut) & 1)) >> cut << cut
        return kept.astype(np.uint32).view(np.float32)

    network = resmlp(4, width=8, dim_t=8, blocks=1, precision=precision)
    plain = resmlp(4, width=8, dim_t=8, blocks=1, precision="float32")
    params, x = network.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (64, 4))
    c = jnp.float32(0.1)
    ours, exact = network.apply(params, x, c, None), plain.apply(params, x, c, None)
    gap = float(jnp.abs(ours - exact).max() / jnp.abs(exact).max())
    assert 0.0 < gap < 4 * 2.0**-bits
    layer = lambda x, w: network_module._rounding_dot(bits)(x, w, (((1,), (0,)), ((), ())))
    w, g = jax.random.normal(jax.random.key(2), (4, 5)), jax.random.normal(jax.random.key(3), (64, 5))
    product, back = jax.vjp(layer, x, w)
    np.testing.assert_allclose(product, rounded(x) @ rounded(w), rtol=1e-5, atol=1e-6)
    to_x, to_w = back(g)
    np.testing.assert_allclose(to_x, rounded(np.asarray(g) @ rounded(w).T), rtol=2.0**-bits, atol=1e-6)
    np.testing.assert_allclose(to_w, rounded(x).T @ np.asarray(g), rtol=1e-5, atol=1e-5)


def test_labels_and_condition_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        resmlp(4, width=8, dim_t=8, labels=3, condition_dim=2)
