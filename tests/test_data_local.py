"""The `local:` datasets."""

import pytest
from tiny_policies import tiny

from cfdg_jax.data import behaviours, local
from cfdg_jax.data.collect import save_policies
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.names import RECIPES
from cfdg_jax.errors import UserError


@pytest.fixture
def assets(tmp_path, monkeypatch):
    folder = tmp_path / "assets"
    folder.mkdir()
    monkeypatch.setattr(behaviours, "ASSETS", folder)
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
    parts, _ = behaviours.parts(RECIPES[f"hopper-{quality}-v0"])
    assert [name.split()[0] for name in parts] == labels


def test_missing_policies_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(behaviours, "ASSETS", tmp_path)
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
