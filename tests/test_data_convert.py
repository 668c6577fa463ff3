"""``data convert``: lossless there and back between HDF5, npz and Minari."""

import importlib.util
import json

import h5py
import numpy as np
import pytest
from raw_rows import raw

from cfdg_jax.cli import main
from cfdg_jax.data import flat
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


def test_a_copy_opens_its_source_once(tmp_path, monkeypatch):
    opened = []
    for library, name in ((h5py, "File"), (flat.zipfile, "ZipFile")):
        kind = getattr(library, name)
        note = lambda path, mode="r", *rest, kind=kind, **more: opened.append((path, mode)) or kind(path, mode, *rest, **more)  # fmt: skip # noqa: E501
        monkeypatch.setattr(library, name, note)
    first, second, third = (tmp_path / name for name in ("a.hdf5", "b.npz", "c.hdf5"))
    write_hdf5(first, raw())
    convert(str(first), str(second))
    convert(str(second), str(third))
    assert [path for path, mode in opened if mode == "r"] == [first, second]


def stored(path):
    """Every array of a file by name, and its scalars."""
    if path.endswith(".npz"):
        with np.load(path) as file:
            return {name: file[name] for name in file.files if name != "about"}, json.loads(str(file["about"]))
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
    scalars = {name.removeprefix("metadata/"): found.pop(name) for name in list(found) if name.startswith("metadata/")}
    return found, {name: each.decode() if isinstance(each, bytes) else each.item() for name, each in scalars.items()}


def test_what_a_file_holds_beside_transitions_goes_along_part_by_part(tmp_path, monkeypatch):
    """Simulator states, types and rows as they are: also those that a reader would drop."""
    rng, first, npz, back = np.random.default_rng(0), *(str(tmp_path / n) for n in ("a.hdf5", "b.npz", "c.hdf5"))
    arrays = raw(n=50, timeouts=(19, 39), following=False)
    arrays |= {
        "infos/qpos": rng.normal(size=(50, 7)),
        "infos/step": np.arange(50),
        "infos/image": np.ones((50, 2, 3), "u1"),
    }
    write_hdf5(first, arrays, {"algorithm": "sac", "iterations": 12, "gain": 0.1})
    with h5py.File(first, "a") as file:
        file["infos/names"] = np.array(["x"] * 50, dtype=object)
    monkeypatch.setattr(flat, "PART", 100)
    assert "left out: infos/names" in convert(first, npz)
    convert(npz, back)
    for path in (npz, back):
        found, scalars = stored(path)
        assert set(found) == set(arrays)
        for name, value in arrays.items():
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype == value.dtype, name
        said = {"algorithm": "sac", "iterations": 12, "gain": 0.1, "task": "", "dynamics": "gymnasium", "name": first}
        assert scalars == said
        same(load_dataset(path), load_dataset(first))


def test_memory_holds_a_part_of_a_file_and_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    source, target = tmp_path / "a.hdf5", tmp_path / "b.npz"
    write_hdf5(source, raw(n=4_000))
    monkeypatch.setattr(flat, "PART", 1_000)
    seen, clip = [], np.clip
    monkeypatch.setattr(flat.np, "clip", lambda part, *limits: seen.append(part.nbytes) or clip(part, *limits))
    convert(str(source), str(target), clip_actions=True)
    assert max(seen) <= 1_000 and len(seen) > 40
    np.testing.assert_array_equal(np.load(target)["actions"], raw(n=4_000)["actions"])
    parts = iter(range(5))
    monkeypatch.setattr(flat.np, "clip", lambda part, *limits: part if next(parts) < 4 else part.no_such_thing)
    with pytest.raises(AttributeError):
        convert(str(source), str(tmp_path / "c.npz"), clip_actions=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hdf5", "b.npz"]


def test_columns_of_other_lengths_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **(raw() | {"rewards": np.zeros(3)}))
    with pytest.raises(UserError, match="rewards: has 3 rows but observations has 6"):
        convert(str(path), str(tmp_path / "b.hdf5"))
    np.savez(path, **{name: value for name, value in raw().items() if name != "actions"})
    with pytest.raises(UserError, match="actions: is missing"):
        convert(str(path), str(tmp_path / "b.hdf5"))
    assert not (tmp_path / "b.hdf5").exists()


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
