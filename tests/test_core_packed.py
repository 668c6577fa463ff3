"""Packed parameters: the same numbers and names as a dictionary's, and the same steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfdg_jax.agents.base import descend, descend_in_parts
from cfdg_jax.core.networks import critics, gaussian_policy
from cfdg_jax.core.optim import adam, polyak
from cfdg_jax.core.packed import LARGE, Packed, gradient_of, pack, unpack
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=5, act_dim=2, horizon=10)
same = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)


def tree():
    rng = np.random.default_rng(0)
    array = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"l0": {"kernel": array(3, 128), "bias": array(128)}, "l1": {"kernel": array(128, 128)}, "scale": array()}


def test_small_arrays_share_a_vector_and_come_back():
    plain = tree()
    packed = pack(plain)
    assert packed.small.shape == (3 * 128 + 128 + 1,)
    assert list(packed.large) == ["l1/kernel"] and packed.large["l1/kernel"].size >= LARGE
    assert len(jax.tree.leaves(packed)) == 2
    jax.tree.map(np.testing.assert_array_equal, packed.unpacked(), plain)
    jax.tree.map(np.testing.assert_array_equal, {**packed}, plain)  # it reads as a mapping
    assert list(packed) == ["l0", "l1", "scale"] and len(packed) == 3
    np.testing.assert_array_equal(packed["l0"]["bias"], plain["l0"]["bias"])
    assert unpack(plain) is plain and gradient_of(plain, plain) is plain


def test_trees_of_anything_compare():
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    other = pack({**tree(), "scale": jnp.zeros(2)})
    assert shapes(pack(tree())) == shapes(pack(tree())) != shapes(other)


def test_leading_axes_pass_through():
    """Five copies, the third of them, and what `jax.vmap` makes of one."""
    plain = tree()
    many = jax.tree.map(lambda x: jnp.stack([x * i for i in range(5)]), pack(plain))
    third = jax.tree.map(lambda x: x[2], many)
    jax.tree.map(same, third.unpacked(), jax.tree.map(lambda x: 2 * x, plain))
    assert many["l1"]["kernel"].shape == (5, 128, 128) and many["scale"].shape == (5,)
    summed = jax.vmap(lambda packed: packed["l0"]["kernel"].sum() * packed["scale"])(many)
    same(summed, [i * i * float(plain["l0"]["kernel"].sum() * plain["scale"]) for i in range(5)], rtol=1e-4)
    back = many.repacked(many.unpacked())
    jax.tree.map(np.testing.assert_array_equal, back, many)
    assert jax.tree.structure(back) == jax.tree.structure(many)


@pytest.mark.parametrize("network", [critics(SPEC, (8, 130, 130), 3), gaussian_policy(SPEC, (8, 130, 130))])
def test_a_step_of_adam_and_an_average_equal_those_of_a_dictionary(network):
    """Against optax on the plain arrays."""
    params = network.init(jax.random.key(0))
    assert isinstance(params, Packed)
    obs, action = jax.random.normal(jax.random.key(1), (16, 5)), jnp.ones((16, 2))
    inputs = (obs, action) if params.small.ndim == 2 else (obs,)
    output = lambda params: jax.tree.leaves(network.apply(params, *inputs))[0]
    loss = lambda params: (jnp.square(output(params) - 1.0).mean(), ())
    optimiser, plain = adam(1e-2), params.unpacked()
    reference = optax.adam(1e-2)
    moments, reference_moments = optimiser.init(params), reference.init(plain)
    for step in range(3):
        moved, moments, value, _ = descend(loss, optimiser, params, moments, step)
        same(value, loss(plain)[0])
        updates, reference_moments = reference.update(jax.grad(lambda p: loss(p)[0])(plain), reference_moments)
        new_plain = optax.apply_updates(plain, updates)
        averaged = polyak(params, moved, 0.1)
        jax.tree.map(
            functools.partial(same, atol=1e-5),
            averaged.unpacked(),
            jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, plain, new_plain),
        )
        params, plain = moved, new_plain


@pytest.mark.parametrize("packed", [True, False])
def test_a_step_in_parts_is_one_on_the_whole(packed):
    """A straight line's squared error, whose gradient is known: the mean over parts is the mean over rows."""
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((12, 3), (12,)))
    params = {"w": jnp.asarray([0.3, -0.2, 0.5])}
    params = pack(params) if packed else params
    loss = lambda params, part: (jnp.square(part[0] @ params["w"] - part[1]).mean(), part[1])
    plain = adam(0.1)
    parts = (x.reshape(4, 3, 3), y.reshape(4, 3))
    moved, moments, value, seen = descend_in_parts(loss, plain, params, plain.init(params), 0, parts)
    residual = x @ params["w"] - y
    gradient = 2.0 * np.asarray(x).T @ np.asarray(residual) / 12
    first = jax.tree.leaves(moments)[1]  # after the count: (1 - b1) g
    same(first, 0.1 * gradient, rtol=1e-5)
    same(value, np.square(residual).mean(), rtol=1e-5)
    same(moved["w"], np.asarray(params["w"]) - 0.1 * np.sign(gradient), rtol=1e-5)  # Adam's first step
    np.testing.assert_array_equal(seen.reshape(-1), y)
