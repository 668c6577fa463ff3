"""Transforms, packed rows and scores: closed forms (docs/algorithms.md#checks) and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.data import pack as packing
from cfdg_jax.data.dataset import from_arrays
from cfdg_jax.data.pack import pack
from cfdg_jax.data.reference_scores import normalized_score
from cfdg_jax.data.returns import ReturnRule
from cfdg_jax.data.transforms import (
    apply_observation,
    apply_reward,
    fit_transforms,
    identity_transforms,
    invert_observation,
)
from cfdg_jax.errors import UserError
from cfdg_jax.types import Source


def test_packing_in_parts_is_packing_at_once(monkeypatch):
    data = dataset(np.arange(11.0), np.arange(11) % 4 == 3)
    transforms = fit_transforms(data, "scale_bias", "standardise", linear=(2.0, 1.0))
    whole = pack(data, transforms)
    monkeypatch.setattr(packing, "CHUNK", 3)
    np.testing.assert_array_equal(pack(data, transforms), whole)
    assert whole.shape == (11, data.layout.width) and whole.flags.c_contiguous


def test_packed_rows_become_device_rows_without_a_copy():
    rows = pack(dataset(np.arange(500.0), np.arange(500) % 4 == 3), identity_transforms(4))
    cpu = jax.devices("cpu")[0]
    assert jax.device_put(rows, cpu).unsafe_buffer_pointer() == rows.ctypes.data


def dataset(rewards, ends, terminals=None, seed=0):
    rng, n = np.random.default_rng(seed), len(rewards)
    terminals = np.zeros(n, bool) if terminals is None else np.asarray(terminals)
    obs = rng.normal(3.0, 2.0, (n + 1, 4))
    ends = np.asarray(ends, bool)
    return from_arrays(
        {
            "observations": obs[:-1],
            "next_observations": obs[1:],
            "actions": rng.uniform(-1, 1, (n, 2)),
            "rewards": np.asarray(rewards, float),
            "terminals": terminals,
            "timeouts": ends & ~terminals,
        }
    )


def test_scores_of_the_reference():
    for task, score in (("hopper", 92.8009), ("halfcheetah", 26.4207), ("walker2d", 65.3144)):
        assert float(normalized_score(task, 3000.0)) == pytest.approx(score, abs=5e-5)
    assert normalized_score("antmaze-large", np.full((2, 3), 0.42)) == pytest.approx(np.full((2, 3), 42.0))
    assert normalized_score("hopper", [-20.272305, 3234.3]) == pytest.approx([0.0, 100.0])
    assert normalized_score("toy-sparse", 1.0) is None and normalized_score("gym:Hopper-v5", 1.0) is None


def test_return_range_uses_whole_trajectories():
    data = dataset([40.0, 60.0, 300.0, 200.0, 100.0], [0, 1, 0, 0, 1])
    transform = fit_transforms(data, "return_range").reward
    assert float(transform.scale) == 2.0 and float(transform.bias) == 0.0


@pytest.mark.parametrize("kind,wanted", [("raw", [0, 1]), ("minus_one", [-1, 0]), ("scale_bias", [-5, 5])])
def test_fixed_reward_transforms(kind, wanted):
    transform = fit_transforms(dataset([0.0, 1.0], [0, 1]), kind).reward
    np.testing.assert_array_equal(apply_reward(transform, np.array([0, 1], np.float32)), wanted)


def test_return_range_refuses_equal_returns():
    with pytest.raises(UserError, match=r"all 2 .* return 3;") as caught:
        fit_transforms(dataset([1.0, 2.0, 3.0], [0, 1, 1]), "return_range")
    assert caught.value.field == "transform.reward"


@pytest.mark.parametrize("kwargs", [{"reward": "log"}, {"observation": "whiten"}])
def test_unknown_kinds_are_refused(kwargs):
    with pytest.raises(UserError, match="unknown; valid:"):
        fit_transforms(dataset([0.0, 1.0], [0, 1]), **kwargs)


def test_round_trip_in_numpy_and_under_jit():
    data = dataset(np.linspace(-3, 5, 50), np.arange(50) % 10 == 9)
    transforms = fit_transforms(data, "return_range", "standardise")
    reward, obs = (
        apply_reward(transforms.reward, data.rewards),
        apply_observation(transforms.observation, data.observations),
    )
    raw = (reward - transforms.reward.bias) / transforms.reward.scale
    np.testing.assert_allclose(raw, data.rewards, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(invert_observation(transforms.observation, obs), data.observations, rtol=1e-5, atol=1e-5)
    device = jax.tree.map(jnp.asarray, transforms)
    jitted = jax.jit(lambda t, o: apply_observation(t.observation, o))(device, data.observations)
    np.testing.assert_allclose(jitted, obs, rtol=1e-6, atol=1e-6)


def test_standardise_uses_the_floor():
    data = dataset(np.arange(200.0), np.arange(200) % 10 == 9)
    transform = fit_transforms(data, observation="standardise").observation
    np.testing.assert_allclose(transform.scale, data.observations.std(0) + 1e-3, rtol=1e-5)
    np.testing.assert_allclose(apply_observation(transform, data.observations).mean(0), 0, atol=1e-5)


def test_pack_holds_transformed_rows():
    data = dataset([1.0, 2.0, 3.0], [0, 1, 1], [False, True, False])
    transforms = fit_transforms(data, "scale_bias", "standardise")
    rows, layout = pack(data, transforms, ReturnRule(discount=0.5)), data.layout
    assert rows.shape == (3, layout.width) and rows.dtype == np.float32
    batch = layout.unpack(jnp.asarray(rows))
    np.testing.assert_allclose(batch.reward, [5.0, 15.0, 25.0])
    np.testing.assert_allclose(batch.terminal, [0, 1, 0])
    np.testing.assert_allclose(batch.mc_return, [12.5, 15.0, 25.0])
    np.testing.assert_array_equal(batch.source, [Source.OFFLINE] * 3)
    np.testing.assert_allclose(batch.next_obs, apply_observation(transforms.observation, data.next_observations))
    raw = pack(data, identity_transforms(4))
    np.testing.assert_array_equal(raw[:, layout.obs], data.observations)


def test_adroit_s_rewards_and_failures():
    """Cal-QL's 10 r + 5 of rewards -1 and 0: a failure is worth -5 for ever."""
    data = dataset([-1.0, -1.0, -1.0, 0.0], [0, 1, 0, 1], [False, False, False, True])
    rows = pack(data, fit_transforms(data, "scale_bias", linear=(10.0, 5.0)), ReturnRule(0.99, -1.0))
    np.testing.assert_allclose(rows[:, data.layout.reward], [-5, -5, -5, 5])
    np.testing.assert_allclose(rows[:, data.layout.mc_return], [-500, -500, -0.05, 5.0], rtol=1e-5)


def test_pack_translates_the_failure_reward():
    data = dataset([0.0, 0.0, 0.0, 1.0], [0, 1, 0, 1], [False, False, False, True])
    rows = pack(data, fit_transforms(data, "scale_bias"), ReturnRule(0.99, 0.0))
    np.testing.assert_allclose(rows[:, data.layout.mc_return], [-500, -500, -0.05, 5.0], rtol=1e-5)
