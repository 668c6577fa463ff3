"""``data convert``: lossless there and back between HDF5, npz and Minari."""

import importlib.util

import numpy as np
import pytest

from cfdg_jax.cli import main
from cfdg_jax.data.collect import collect
from cfdg_jax.data.convert import convert
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset, task_of_name
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import UserError

FIELDS = ("observations", "actions", "rewards", "next_observations", "terminals", "ends")


@pytest.fixture
def source(tmp_path):
    policy = lambda obs, rng: rng.uniform(-1, 1, (len(obs), 3))
    arrays = collect(make_env("hopper", [0, 1], "d4rl"), policy, 300, np.random.default_rng(0))
    path = tmp_path / "own.hdf5"
    write_hdf5(path, arrays, {"task": "hopper", "dynamics": "d4rl"})
    return str(path)


def same(one, other):
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


def test_hdf5_to_npz_and_back(source, tmp_path):
    npz, back = str(tmp_path / "copy.npz"), str(tmp_path / "back.hdf5")
    assert convert(source, npz) == f"{npz}: 300 rows of {source}"
    assert main(["data", "convert", npz, back]) == 0
    for path in (npz, back):
        data = load_dataset(path)
        same(data, load_dataset(source))
        assert (data.task, data.dynamics) == ("hopper", "d4rl") == (task_of_name(path), "d4rl")
    with pytest.raises(UserError, match="exists"):
        convert(source, npz)


@pytest.mark.skipif(importlib.util.find_spec("minari") is None, reason="minari is not installed")
def test_to_minari_and_back(source, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("CFDG_DATA_DIR", str(tmp_path / "data"))
    convert(source, "minari:test/own-v0")
    import minari

    original = load_dataset(source)
    theirs = minari.load_dataset("test/own-v0")
    assert (theirs.total_steps, theirs.total_episodes) == (300, len(original.episode_returns))
    same(load_dataset("minari:test/own-v0"), original)
    with pytest.raises(UserError, match="is refused"):
        convert(source, "minari:test/b/x1000/v0")


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "bad.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as npz"):
        load_dataset(path)
