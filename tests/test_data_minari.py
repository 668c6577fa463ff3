"""Minari's datasets, read through its package."""

import importlib.util
import sys

import numpy as np
import pytest

from cfdg_jax.data.load import load_dataset
from cfdg_jax.errors import UserError

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
