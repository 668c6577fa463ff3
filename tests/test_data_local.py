"""Rolling out behaviour, the `local:` datasets, and Minari."""

import importlib.util
import sys

import jax
import numpy as np
import pytest

from cfdg_jax.core.networks import tanh_gaussian_policy
from cfdg_jax.data import local
from cfdg_jax.data.collect import GaussianPolicy, collect, load_policies, save_policies
from cfdg_jax.data.dataset import load_dataset
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


def tiny(seed):
    """(step, return, parameters) of a small random actor."""
    rng = np.random.default_rng(seed)
    sizes = ((11, 8), (8, 8), (8, 6))
    layer = lambda size: {"kernel": rng.normal(0, 0.3, size).astype(np.float32), "bias": np.zeros(size[1], np.float32)}
    return 1000 * seed, 10.0 * seed, {f"l{i}": layer(size) for i, size in enumerate(sizes)}


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


@pytest.fixture
def assets(tmp_path, monkeypatch):
    folder = tmp_path / "assets"
    folder.mkdir()
    monkeypatch.setattr(local, "ASSETS", folder)
    save_policies(folder / "hopper-policies.npz", [tiny(i) for i in range(3)], tiny(9))
    return folder


def test_hopper_is_built_once_and_is_deterministic(assets, tmp_path):
    build = lambda folder, **kwargs: local.build(
        "hopper-medium-replay-v0", rows=600, data_dir=tmp_path / folder, progress=False, **kwargs
    )
    first = build("a", threads=1)
    stamp = first.stat().st_mtime_ns
    assert build("a") == first and first.stat().st_mtime_ns == stamp
    again = build("b", threads=2)
    assert again.name == first.name and again.read_bytes() == first.read_bytes()
    names = {first.name, build("a", seed=1).name, build("a", dynamics="gymnasium").name}
    save_policies(assets / "hopper-policies.npz", [tiny(i + 5) for i in range(3)])
    assert len(names | {build("a").name}) == 4
    data = load_dataset(first)
    assert (data.task, data.dynamics, len(data), data.obs_dim, data.act_dim) == ("hopper", "d4rl", 600, 11, 3)
    assert data.metadata["policies"] == (
        "snapshot0 at 0 steps, return 0 (200 rows), snapshot1 at 1000 steps, return 10 (200 rows), "
        "snapshot2 at 2000 steps, return 20 (200 rows)"
    )
    assert data.notes == () and "not a training log" in data.metadata["recipe"]
    assert not list((tmp_path / "a" / "local").glob("*.tmp"))


@pytest.mark.parametrize(
    "quality,labels",
    [("random", ["snapshot0"]), ("medium", ["snapshot2"]), ("medium-expert", ["snapshot2", "expert"])],
)
def test_recipes_use_the_right_policies(assets, quality, labels):
    behaviour, _ = local._behaviour(local.DATASETS[f"hopper-{quality}-v0"])
    assert [name.split()[0] for name in behaviour] == labels


def test_missing_policies_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "ASSETS", tmp_path)
    with pytest.raises(UserError, match=r"hopper-policies\.npz, which is missing"):
        local.build("hopper-random-v0", data_dir=tmp_path)


def test_toys_range_from_useless_to_optimal(tmp_path):
    success = {}
    for quality in ("random", "medium", "expert"):
        path = local.build(f"toy-sparse-{quality}-v0", rows=1500, data_dir=tmp_path, progress=False)
        data = load_dataset(path)
        assert (data.task, data.dynamics, len(data)) == ("toy-sparse", "gymnasium", 1500)
        success[quality] = data.terminals.sum() / len(data.episode_returns)
    assert success["random"] < 0.1 < 0.3 < success["medium"] < 0.8 < 0.95 < success["expert"]


def test_local_names_load_from_the_cache(tmp_path):
    name = "local:toy-dense-expert-v0"
    data = load_dataset(name, data_dir=tmp_path, progress=False)
    assert (data.name, data.origin, len(data)) == (name, "local", 20_000)
    assert load_dataset(name, data_dir=tmp_path, progress=False, dynamics="d4rl").dynamics == "gymnasium"
    assert len(list((tmp_path / "local").glob("*.hdf5"))) == 1


needs_minari = pytest.mark.skipif(importlib.util.find_spec("minari") is None, reason="minari is not installed")


@pytest.fixture
def minari_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    import gymnasium
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    rng = np.random.default_rng(0)
    episodes = []
    for i, length in enumerate((4, 3)):
        episodes.append(
            EpisodeBuffer(
                id=i,
                observations={"b": rng.normal(size=(length + 1, 2)), "a": rng.normal(size=(length + 1, 1))},
                actions=rng.uniform(-2, 2, (length, 1)).astype(np.float32),
                rewards=np.arange(length, dtype=float),
                terminations=[False] * (length - 1) + [i == 0],
                truncations=[False] * (length - 1) + [i == 1],
                infos={},
            )
        )
    box = lambda n: gymnasium.spaces.Box(-np.inf, np.inf, (n,), np.float64)
    minari.create_dataset_from_buffers(
        dataset_id="test/pendulum-v0",
        buffer=episodes,
        env="Pendulum-v1",
        algorithm_name="none",
        author="nobody",
        author_email="nobody@example.org",
        code_permalink="https://example.org",
        action_space=gymnasium.spaces.Box(-2, 2, (1,), np.float32),
        observation_space=gymnasium.spaces.Dict({"a": box(1), "b": box(2)}),
    )
    return episodes


@needs_minari
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_minari_round_trip(minari_dataset, tmp_path):
    data = load_dataset("minari:test/pendulum-v0", data_dir=tmp_path / "cache", download=False)
    assert (data.task, data.dynamics, data.origin) == ("gym:Pendulum-v1", "gymnasium", "minari")
    np.testing.assert_array_equal(data.episode_lengths, [4, 3])
    np.testing.assert_array_equal(data.terminals, [0, 0, 0, 1, 0, 0, 0])
    start = 0
    for episode in minari_dataset:
        stop = start + len(episode.rewards)
        joined = np.concatenate([episode.observations["a"], episode.observations["b"]], axis=1)
        np.testing.assert_allclose(data.observations[start:stop], joined[:-1], rtol=1e-6)
        np.testing.assert_allclose(data.next_observations[start:stop], joined[1:], rtol=1e-6)
        np.testing.assert_allclose(data.actions[start:stop], episode.actions / 2, atol=2e-5)
        start = stop
    assert data.notes == ()
    with pytest.raises(UserError, match="did you mean test/pendulum-v0"):
        load_dataset("minari:test/pendlum-v0", data_dir=tmp_path / "cache", download=False)


def test_minari_absent_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(UserError, match=r"pip install 'cfdg-jax\[minari\]'"):
        load_dataset("minari:a/b-v0", data_dir=tmp_path)
