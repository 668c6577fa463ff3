"""Networks: layouts, initial scales, the ensemble axis, clipping, and equality with a NumPy forward pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement

from cfdg_jax.core.networks import (
    critics,
    deterministic_policy,
    ensemble,
    gaussian_policy,
    mlp,
    state_value,
    tanh_gaussian_policy,
)
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=5, act_dim=3, horizon=10)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_a_forward_pass_equals_numpy():
    params, x = restatement.network(RNG, (5, 7, 6, 2)), normal(4, 5)
    np.testing.assert_allclose(mlp(5, 2, (7, 6)).apply(params, x), restatement.forward(params, x), rtol=1e-5, atol=1e-6)


def test_layer_norm_stands_between_the_product_and_the_activation():
    params, x = restatement.network(RNG, (5, 7, 2)), normal(4, 5)
    params["ln0"] = {"scale": normal(7), "bias": normal(7)}
    h = x @ params["l0"]["kernel"] + params["l0"]["bias"]
    h = (h - h.mean(axis=-1, keepdims=True)) / np.sqrt(h.var(axis=-1, keepdims=True) + 1e-5)
    h = np.maximum(h * params["ln0"]["scale"] + params["ln0"]["bias"], 0)
    expected = h @ params["l1"]["kernel"] + params["l1"]["bias"]
    np.testing.assert_allclose(mlp(5, 2, (7,), layer_norm=True).apply(params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def initial():
    """Initial parameters of one network by kind of initialisation."""
    kinds = ("orthogonal", "orthogonal_all", "pytorch", "xavier", "rlkit")
    make = lambda kind: jax.jit(mlp(20, 4, (64, 64), init=kind).init)
    return {kind: jax.tree.map(np.asarray, make(kind)(jax.random.key(0))) for kind in kinds}


def test_orthogonal_start(initial):
    params = initial["orthogonal"]
    hidden, out = params["l1"]["kernel"], params["l2"]["kernel"]
    np.testing.assert_allclose(hidden.T @ hidden, 2 * np.eye(64), atol=1e-5)
    np.testing.assert_allclose(out.T @ out, 1e-4 * np.eye(4), atol=1e-9)
    out = initial["orthogonal_all"]["l2"]["kernel"]
    np.testing.assert_allclose(out.T @ out, 2 * np.eye(4), atol=1e-5)
    assert all(not layer["bias"].any() for layer in params.values())


def test_pytorch_and_xavier_starts(initial):
    for name, fan_in in (("l0", 20), ("l1", 64), ("l2", 64)):
        layer = initial["pytorch"][name]
        for values in (layer["kernel"], layer["bias"]):
            assert np.abs(values).max() <= fan_in**-0.5
        assert layer["kernel"].std() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)
        assert layer["bias"].std() > 0
    kernel = initial["xavier"]["l0"]["kernel"]
    assert np.abs(kernel).max() <= (6 / 84) ** 0.5 and kernel.std() == pytest.approx((2 / 84) ** 0.5, rel=0.1)
    assert not initial["xavier"]["l0"]["bias"].any()


def test_rlkit_start(initial):
    """Its "fan in" is the first size of PyTorch's weight, which is the layer's output."""
    network = jax.jit(tanh_gaussian_policy(SPEC, (64, 32), init="rlkit").init)(jax.random.key(0))
    for params, widths, bound in ((initial["rlkit"], (64, 64), 3e-3), (network, (64, 32), 1e-3)):
        for name, width in zip(("l0", "l1"), widths, strict=True):
            kernel = params[name]["kernel"]
            assert width**-0.5 * 0.95 < np.abs(kernel).max() <= width**-0.5
            np.testing.assert_array_equal(params[name]["bias"], np.float32(0.1))
        assert bound * 0.9 < np.abs(params["l2"]["kernel"]).max() <= bound
        assert 0 < np.abs(params["l2"]["bias"]).max() <= bound


def test_an_ensemble_is_its_members_and_starts_with_different_ones():
    single = mlp(5, 2, (7,), init="pytorch")
    many = ensemble(single, 3)
    params = jax.jit(many.init)(jax.random.key(0))
    x = normal(4, 5)
    out = many.apply(params, x)
    assert out.shape == (3, 4, 2)
    for i in range(3):
        member = jax.tree.map(lambda leaf, i=i: leaf[i], params)
        np.testing.assert_allclose(out[i], single.apply(member, x), rtol=1e-5, atol=1e-6)
    assert np.abs(params["l0"]["kernel"][0] - params["l0"]["kernel"][1]).max() > 0.1


@pytest.mark.parametrize("lead", [(), (4,), (4, 6)])
def test_leading_axes_are_free(lead):
    obs, action = normal(*lead, 5), normal(*lead, 3)
    made = {
        "critics": (critics(SPEC, (8,), 2), (obs, action), (2, *lead)),
        "value": (state_value(SPEC, (8,)), (obs,), lead),
        "deterministic": (deterministic_policy(SPEC, (8,)), (obs,), (*lead, 3)),
    }
    for network, inputs, expected in made.values():
        params = jax.eval_shape(network.init, jax.random.key(0))
        assert jax.eval_shape(network.apply, params, *inputs).shape == expected
    for network in (gaussian_policy(SPEC, (8,)), tanh_gaussian_policy(SPEC, (8,))):
        params = jax.eval_shape(network.init, jax.random.key(0))
        policy = jax.eval_shape(network.apply, params, obs)
        assert policy.mean.shape == policy.log_std.shape == (*lead, 3)


def test_critics_see_observation_then_action_and_a_subset_of_parameters_is_a_subset_of_critics():
    params = restatement.ensemble(RNG, (8, 6, 1), 4)
    obs, action = normal(4, 5), normal(4, 3)
    q = critics(SPEC, (6,), 4).apply(params, obs, action)
    for i in range(4):
        member = {layer: {k: v[i] for k, v in leaves.items()} for layer, leaves in params.items()}
        np.testing.assert_allclose(q[i], restatement.critic(member, obs, action), rtol=1e-4, atol=1e-5)
    many = critics(SPEC, (6,), 4).apply(params, obs, jnp.stack([action, 2 * action]))
    twice = critics(SPEC, (6,), 4).apply(params, obs, 2 * action)
    np.testing.assert_allclose(many, jnp.stack([q, twice], axis=1), rtol=1e-5, atol=1e-6)
    chosen = jax.tree.map(lambda leaf: leaf[np.array([3, 1])], params)
    np.testing.assert_allclose(
        critics(SPEC, (6,), 4).apply(chosen, obs, action), q[np.array([3, 1])], rtol=1e-5, atol=1e-6
    )


def test_gaussian_policy_has_a_tanh_mean_and_a_free_clipped_deviation():
    network = gaussian_policy(SPEC, (6,), (-5.0, 2.0))
    params = restatement.network(RNG, (5, 6, 3)) | {"log_std": np.array([-9.0, 0.5, 3.0], np.float32)}
    obs = normal(4, 5)
    policy = network.apply(params, obs)
    np.testing.assert_allclose(policy.mean, np.tanh(restatement.forward(params, obs)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(policy.log_std, np.tile([-5.0, 0.5, 2.0], (4, 1)))
    grad = jax.grad(lambda p: network.apply(p, obs).log_prob(jnp.zeros((4, 3))).sum())(params)
    assert grad["log_std"][0] == grad["log_std"][2] == 0.0 and grad["log_std"][1] != 0.0


def test_squashed_policy_splits_mean_and_raw_deviation():
    params, obs = restatement.network(RNG, (5, 6, 6)), normal(4, 5)
    params["l1"]["bias"][3:] = [-30.0, 0.0, 30.0]
    out = restatement.forward(params, obs)
    policy = tanh_gaussian_policy(SPEC, (6,)).apply(params, obs)
    np.testing.assert_allclose(policy.mean, out[:, :3], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(policy.log_std, np.clip(out[:, 3:], -5, 2), rtol=1e-5, atol=1e-6)
    network = tanh_gaussian_policy(SPEC, (6,), (-20.0, 2.0), log_std_affine=(0.5, -1.0))
    scalars = {"log_std_multiplier": np.float32(0.5), "log_std_offset": np.float32(-1.0)}
    assert {name: leaf.shape for name, leaf in network.init(jax.random.key(0)).items() if "std" in name} == {
        "log_std_multiplier": (),
        "log_std_offset": (),
    }
    expected = np.clip(0.5 * out[:, 3:] - 1.0, -20, 2)
    np.testing.assert_allclose(network.apply(params | scalars, obs).log_std, expected, rtol=1e-5, atol=1e-6)
