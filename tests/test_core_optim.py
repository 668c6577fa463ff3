"""Adam against its formulas, schedules against the released ones, and averages."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement

from cfdg_jax.core.optim import adam, policy_rate, polyak


def run(optimiser, grads, start=0.0):
    """Parameters after each gradient of a list."""
    params = {"x": jnp.asarray(start, jnp.asarray(grads[0]).dtype) + jnp.zeros_like(jnp.asarray(grads[0]))}
    state, step_fn, out = optimiser.init(params), jax.jit(optimiser.apply), []
    for step, grad in enumerate(grads):
        params, state = step_fn(params, {"x": jnp.asarray(grad)}, state, step)
        out.append(np.asarray(params["x"]))
    return out


def test_adam_equals_its_formulas():
    grads = np.random.default_rng(0).normal(size=(5, 3))
    reference, params = restatement.Adam(), {"x": np.zeros(3)}
    with jax.enable_x64(True):
        ours = run(adam(3e-4), list(grads))
    for grad, value in zip(grads, ours, strict=True):
        params = reference.step(params, {"x": grad})
        np.testing.assert_allclose(value, params["x"], rtol=1e-12)


def rates(optimiser, steps):
    """The learning rate of each step: what Adam moves under a constant gradient."""
    return -np.diff([0.0, *(float(x) for x in run(optimiser, [1.0] * steps))])


def annealed(anneal, phase="offline"):
    return adam(policy_rate(3e-4, anneal, phase, 10))


def test_cosine_schedule_equals_the_released_one_until_its_end_and_stays_at_zero(golden_dir):
    released = golden.load(golden_dir, "iql_corl.npz")["lr_schedule_T10"]
    with jax.enable_x64(True):
        ours = rates(annealed("offline"), 13)
    np.testing.assert_allclose(ours[:11], released[:11], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(ours[10:], 0.0, atol=1e-12)


def test_the_released_schedule_rises_again_online(golden_dir):
    released = golden.load(golden_dir, "iql_corl.npz")["lr_schedule_T10"]
    assert len(released) > 12 and released[-1] > 0.0
    with jax.enable_x64(True):
        ours = rates(annealed("wave"), 10), rates(annealed("wave", "online"), 10)
    np.testing.assert_allclose(np.concatenate(ours)[: len(released)], released[:20], rtol=1e-6, atol=1e-12)


def test_a_rate_is_annealed_in_the_phases_it_should_be():
    with jax.enable_x64(True):
        ends = {
            (anneal, phase): rates(annealed(anneal, phase), 11)[[0, 10]] / 3e-4
            for anneal in ("never", "offline", "each", "wave")
            for phase in ("offline", "online")
        }
    falls, rises, stays = [1, 0], [0, 1], [1, 1]
    expected = {"never": (stays, stays), "offline": (falls, stays), "each": (falls, falls), "wave": (falls, rises)}
    for (anneal, phase), found in ends.items():
        np.testing.assert_allclose(found, expected[anneal][phase == "online"], atol=1e-6, err_msg=f"{anneal} {phase}")


def test_a_constant_rate_is_constant_and_states_have_one_structure():
    with jax.enable_x64(True):
        np.testing.assert_allclose(rates(adam(1e-2), 4), 1e-2, rtol=1e-6)
    params = {"x": jnp.zeros(2)}
    states = [adam(1e-2).init(params), annealed("each").init(params)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


@pytest.mark.parametrize("norm, factor", [(10.0, 1.0), (2.5, 0.5)])
def test_clipping_scales_the_whole_gradient(norm, factor):
    """Seen through Adam's first moment, since its step ignores a gradient's scale."""
    optimiser = adam(1e-3, clip_norm=norm)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    _, state = optimiser.apply(params, grads, optimiser.init(params), 0)
    moments = [np.asarray(leaf) for leaf in jax.tree.leaves(state) if np.asarray(leaf).dtype == np.float32]
    assert any(np.allclose(leaf, 0.1 * 3.0 * factor) for leaf in moments)
    assert any(np.allclose(leaf, 0.1 * 4.0 * factor) for leaf in moments)


def test_polyak_moves_a_share_of_the_way():
    out = polyak({"x": jnp.array([0.0, 2.0])}, {"x": jnp.array([1.0, 4.0])}, 0.25)
    np.testing.assert_allclose(out["x"], [0.25, 2.5])
