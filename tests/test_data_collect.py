"""Rolling out behaviour policies, and their file."""

import jax
import numpy as np
import pytest
from tiny_policies import tiny

from cfdg_jax.core.networks import tanh_gaussian_policy
from cfdg_jax.data.collect import GaussianPolicy, collect, load_policies, save_policies
from cfdg_jax.errors import UserError
from cfdg_jax.types import Spec, Step


class Counter:
    """Environment i ends its episodes after i + 2 steps, by a terminal where i is even, by the limit otherwise."""

    spec = Spec(obs_dim=2, act_dim=1, horizon=10)

    def __init__(self, num):
        self.num = num
        self.episode, self.time = np.zeros(num, int), np.zeros(num, int)

    def _obs(self):
        return np.stack([np.arange(self.num) * 100 + self.episode, self.time], axis=1).astype(float)

    def reset(self, mask=None):
        mask = np.ones(self.num, bool) if mask is None else mask
        self.episode, self.time = self.episode + mask, np.where(mask, 0, self.time)
        return self._obs()

    def step(self, action):
        assert action.shape == (self.num, 1) and action.dtype == np.float32
        self.time = self.time + 1
        done, even = self.time >= np.arange(self.num) + 2, np.arange(self.num) % 2 == 0
        return Step(self._obs(), action[:, 0], done & even, done, np.zeros(self.num, bool))


def uniform(obs, rng):
    return rng.uniform(-2, 2, (len(obs), 1))


@pytest.mark.parametrize("num,rows", [(1, 1), (1, 7), (3, 10), (3, 30), (4, 41)])
def test_collect_keeps_episodes_whole_and_in_order(num, rows):
    seen = []
    arrays = collect(Counter(num), uniform, rows, np.random.default_rng(0), seen.append)
    assert all(len(value) == rows for value in arrays.values()) and sum(seen) == rows
    obs, following = arrays["observations"], arrays["next_observations"]
    ends = arrays["terminals"] | arrays["timeouts"]
    assert ends[-1] and not (arrays["terminals"] & arrays["timeouts"]).any()
    np.testing.assert_array_equal(following, obs + np.array([0, 1]))
    np.testing.assert_array_equal(following[:-1][~ends[:-1]], obs[1:][~ends[:-1]])
    assert (obs[1:][ends[:-1], 1] == 0).all()
    environment = (obs[:, 0] // 100).astype(int)
    assert (np.diff(environment) >= 0).all()
    lengths = np.diff(np.append(-1, np.flatnonzero(ends)))
    whole = environment[np.flatnonzero(ends)] + 2
    np.testing.assert_array_equal(lengths[:-1], whole[:-1])
    assert lengths[-1] <= whole[-1]
    inner = np.flatnonzero(ends)[:-1]
    np.testing.assert_array_equal(arrays["terminals"][inner], environment[inner] % 2 == 0)
    assert np.abs(arrays["actions"]).max() <= 1
    assert len(np.unique(arrays["rewards"])) > rows // 3


def test_collect_is_determined_by_its_generator():
    one, two, other = (collect(Counter(3), uniform, 20, np.random.default_rng(s))["actions"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_policy_follows_its_definition():
    layers = tuple((layer["kernel"], layer["bias"]) for layer in tiny(0)[2].values())
    policy, obs = GaussianPolicy(layers), np.random.default_rng(1).normal(size=(5, 11)).astype(np.float32)
    (w0, b0), (w1, b1), (w2, b2) = policy.layers
    out = np.maximum(np.maximum(obs @ w0 + b0, 0) @ w1 + b1, 0) @ w2 + b2
    noise = np.random.default_rng(7).standard_normal((5, 3), np.float32)
    wanted = np.tanh(out[:, :3] + np.exp(np.clip(out[:, 3:], -5, 2)) * noise)
    np.testing.assert_allclose(policy(obs, np.random.default_rng(7)), wanted, rtol=1e-5)
    loud = GaussianPolicy((*policy.layers[:-1], (w2, b2 + np.float32([0, 0, 0, -50, 50, 50]))))
    quiet = loud(obs, np.random.default_rng(3))[:, 0]
    np.testing.assert_allclose(quiet, np.tanh(out[:, 0]), atol=4 * np.exp(-5))


def test_a_saved_network_acts_as_it_did(tmp_path):
    network = tanh_gaussian_policy(Spec(11, 3, 10), (16, 16))
    params = jax.tree.map(np.asarray, network.init(jax.random.key(0)))
    save_policies(tmp_path / "p.npz", [(0, 0.0, params)], dtype=np.float32)
    obs = np.random.default_rng(1).normal(size=(5, 11)).astype(np.float32)
    noise = np.random.default_rng(7).standard_normal((5, 3), np.float32)
    wanted, _ = network.apply(params, obs).sample(noise)
    found = load_policies(tmp_path / "p.npz")["snapshot0"](obs, np.random.default_rng(7))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_policies_survive_their_file(tmp_path):
    snapshots = [tiny(i) for i in range(11)]
    save_policies(tmp_path / "p.npz", snapshots, tiny(20), np.float32)
    loaded = load_policies(tmp_path / "p.npz")
    assert list(loaded) == [f"snapshot{i}" for i in range(11)] + ["expert"]
    assert (loaded["snapshot10"].step, loaded["snapshot10"].mean_return) == (10_000, 100.0)
    for (weight, bias), saved in zip(loaded["expert"].layers, tiny(20)[2].values(), strict=True):
        np.testing.assert_array_equal(weight, saved["kernel"])
        np.testing.assert_array_equal(bias, saved["bias"])
    stacked = {"l0": {"kernel": np.zeros((1, 11, 6)), "bias": np.zeros((1, 6))}}
    with pytest.raises(UserError, match="pass one seed's parameters"):
        save_policies(tmp_path / "q.npz", [(0, 0.0, stacked)])
