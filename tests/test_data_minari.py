"""Minari's datasets, read through its package."""

import importlib.util
import json
import pathlib
import sys
import tomllib

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from cfdg_jax.data import minari as bridge
from cfdg_jax.data.load import load_dataset
from cfdg_jax.errors import UserError

needs_minari = pytest.mark.skipif(importlib.util.find_spec("minari") is None, reason="minari is not installed")


@pytest.fixture
def minari_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
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


def record(name="lab/mine-v0", episodes=2, reward=1.0, env=None, **spec):
    """Records a set anew, of `episodes` episodes of three steps, said to be of the environment `env`."""
    import minari
    from minari.data_collector.episode_buffer import EpisodeBuffer

    if name in minari.list_local_datasets():
        minari.delete_dataset(name)
    rng, n = np.random.default_rng(0), 3
    buffer = [
        EpisodeBuffer(
            id=i,
            observations=rng.normal(size=(n + 1, 2)).astype(np.float32),
            actions=rng.uniform(-1, 1, (n, 1)).astype(np.float32),
            rewards=[reward] * n,
            terminations=[False] * n,
            truncations=[False, False, True],
            infos={},
        )
        for i in range(episodes)
    ]
    box = lambda size: spaces.Box(-9, 9, (size,), np.float32)
    about = dict.fromkeys(("algorithm_name", "author", "author_email", "code_permalink"), "none")
    minari.create_dataset_from_buffers(
        dataset_id=name, buffer=buffer, env=env, observation_space=box(2), action_space=box(1), **about
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return lambda name="lab/mine-v0": load_dataset(f"minari:{name}", data_dir=tmp_path / "cache", download=False)


quiet = pytest.mark.filterwarnings("ignore")


@needs_minari
@quiet
def test_a_set_recorded_again_is_converted_again(here, tmp_path, monkeypatch):
    record(episodes=2, reward=1.0)
    assert here().episode_returns.tolist() == [3, 3]
    flat = tmp_path / "cache" / "minari" / "lab--mine-v0.hdf5"
    stamp = flat.stat().st_mtime_ns
    assert here().episode_returns.tolist() == [3, 3] and flat.stat().st_mtime_ns == stamp
    record(episodes=3, reward=np.nan)
    with pytest.raises(UserError, match="rewards: holds nan"):
        here()
    record(episodes=3, reward=2.0)
    assert here().episode_returns.tolist() == [6, 6, 6], "a refusal ends when the set is repaired"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "others"))
    with pytest.raises(UserError, match="cannot be loaded"):
        here()
    record(episodes=1, reward=4.0)
    assert here().episode_returns.tolist() == [12]


@needs_minari
@quiet
def test_a_copy_outlives_its_set_and_the_package(here, tmp_path, monkeypatch):
    import minari

    record()
    here()
    minari.delete_dataset("lab/mine-v0")
    monkeypatch.setitem(sys.modules, "minari", None)
    assert len(here()) == 6
    with pytest.raises(UserError, match=r"pip install 'cfdg-jax\[minari\]'"):
        here("lab/other-v0")


def make(env, **settings):
    return gymnasium.make(env, **settings)


@needs_minari
@quiet
@pytest.mark.parametrize(
    ("env", "task"),
    [
        (lambda: make("Hopper-v4"), "hopper"),
        (lambda: make("Hopper-v4", render_mode="rgb_array"), "hopper"),
        (lambda: make("Hopper-v4", max_episode_steps=200), "gym:Hopper-v4?max_episode_steps=200"),
        (lambda: make("Hopper-v5"), "gym:Hopper-v5"),
        (
            lambda: make("Hopper-v5", healthy_reward=0.0, healthy_z_range=(0.2, 2.0)),
            "gym:Hopper-v5?healthy_reward=0.0&healthy_z_range=[0.2,2.0]",
        ),
        (lambda: None, ""),
    ],
)
def test_the_environment_is_the_recorded_one(here, env, task):
    record(env=env())
    data = here()
    assert data.task == task and data.warnings == ()


@needs_minari
@quiet
def test_an_environment_that_no_name_makes_is_not_named(here):
    record(env=gymnasium.wrappers.ClipReward(make("Hopper-v5"), 0.0, 1.0))
    data = here()
    assert data.task == ""
    assert data.warnings[0].startswith("the set was recorded in Hopper-v5 inside of ClipReward, which no task id")


@needs_minari
@quiet
def test_a_format_whose_package_is_missing_names_the_extra(here, tmp_path, monkeypatch):
    record()
    place = tmp_path / "minari" / "lab" / "mine-v0" / "data" / "metadata.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"data_format": "arrow"}))
    for name in ("pyarrow", "minari.dataset._storages.arrow_storage"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"cannot be loaded .*arrow.*; pip install 'minari\[arrow\]'"):
        here()


def test_the_extra_brings_what_downloads_need():
    text = (pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text()
    (minari,) = tomllib.loads(text)["project"]["optional-dependencies"]["minari"]
    assert {"hdf5", "hf"} <= set(minari.partition("[")[2].partition("]")[0].split(","))


def test_whole_numbers_come_back_from_the_unit_box():
    space = spaces.Box(0, 3, (1,), np.int64)
    np.testing.assert_allclose(bridge._to_unit(np.arange(4)[:, None], space, "x").ravel(), [-1, -1 / 3, 1 / 3, 1])
    point = spaces.Box(np.float32([2.0, 0.0]), np.float32([2.0, 1.0]))
    np.testing.assert_allclose(bridge._to_unit(np.float32([[2.0, 1.0]]), point, "x"), [[-1.0, 1.0]])
