"""``data convert`` from the layouts of others: LeRobot's folders and OGBench's files, written here by hand."""

import json
import sys

import numpy as np
import pytest

from cfdg_jax.cli import main
from cfdg_jax.data.convert import convert
from cfdg_jax.data.load import load_dataset
from cfdg_jax.errors import UserError

LENGTHS = (4, 3, 6)
STATES = sum(LENGTHS)
FINAL = np.cumsum(LENGTHS) - 1


def ogbench(path, **change):
    """Every state of three trajectories, the last of each marked."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(STATES, 5)).astype(np.float32),
        "actions": rng.uniform(-0.9, 0.9, (STATES, 2)).astype(np.float32),
        "terminals": np.isin(np.arange(STATES), FINAL).astype(np.float32),
        "qpos": rng.normal(size=(STATES, 7)),
        "qvel": rng.normal(size=(STATES, 6)),
    }
    arrays = {name: value for name, value in (arrays | change).items() if value is not None}
    np.savez(path, **arrays)
    return arrays


def test_ogbench_rows_are_the_steps_within_trajectories(tmp_path, capsys):
    arrays = ogbench(tmp_path / "x.npz")
    assert main(["data", "convert", f"ogbench:{tmp_path / 'x.npz'}", str(tmp_path / "y.hdf5")]) == 0
    assert "10 rows" in (said := capsys.readouterr().out) and "has no rewards" in said
    data = load_dataset(tmp_path / "y.hdf5")
    starts = [t for first, last in zip((0, *(FINAL[:-1] + 1)), FINAL, strict=True) for t in range(first, last)]
    np.testing.assert_array_equal(data.observations, arrays["observations"][starts])
    np.testing.assert_array_equal(data.next_observations, arrays["observations"][np.array(starts) + 1])
    np.testing.assert_array_equal(data.actions, arrays["actions"][starts])
    assert data.episode_lengths.tolist() == [length - 1 for length in LENGTHS]
    assert not data.terminals.any() and not data.rewards.any()
    assert any("has no rewards" in warning for warning in data.warnings)


def test_ogbench_rewards_are_kept_and_other_layouts_refused(tmp_path):
    ogbench(tmp_path / "x.npz", rewards=np.arange(STATES, dtype=np.float32))
    said = convert(f"ogbench:{tmp_path / 'x.npz'}", str(tmp_path / "y.npz"))
    data = load_dataset(tmp_path / "y.npz")
    assert data.rewards[:4].tolist() == [0, 1, 2, 4] and not data.warnings and "no rewards" not in said
    ogbench(tmp_path / "z.npz", terminals=None)
    with pytest.raises(UserError, match=r"z\.npz: terminals: is missing; found actions, observations"):
        convert(f"ogbench:{tmp_path / 'z.npz'}", str(tmp_path / "z.hdf5"))
    ogbench(tmp_path / "w.npz")
    with pytest.raises(UserError, match="rewards: is missing; if this is OGBench's layout: cfdg-jax data convert"):
        load_dataset(tmp_path / "w.npz")


def lerobot(folder, drop=(), total=STATES, scale=1.0, **features):
    """Two data files in chunks, the later frames in the first one; each row is a frame."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(1)
    frame = np.concatenate([np.arange(length) for length in LENGTHS])
    columns = {
        "observation.state": rng.normal(size=(STATES, 3)).astype(np.float32),
        "observation.environment_state": rng.normal(size=(STATES, 2)).astype(np.float32),
        "action": scale * rng.uniform(-0.9, 0.9, (STATES, 2)).astype(np.float32),
        "next.reward": np.arange(STATES, dtype=np.float32),
        "next.done": np.isin(np.arange(STATES), FINAL),
        "next.success": np.isin(np.arange(STATES), (1, FINAL[1])),  # within an episode, and at the end of another
        "frame_index": frame,
        "episode_index": np.repeat(np.arange(3), LENGTHS),
        "index": np.arange(STATES),
    }
    columns = {name: value for name, value in columns.items() if name not in drop} | features
    described = {name: {"dtype": str(v.dtype), "shape": list(v.shape[1:]) or [1]} for name, v in columns.items()}
    described["observation.images.top"] = {"dtype": "video", "shape": [4, 4, 3]}
    template = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info = {"codebase_version": "v3.0", "total_frames": total, "data_path": template, "features": described}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    for k, rows in enumerate((slice(7, STATES), slice(0, 7))):
        path = folder / f"data/chunk-{k:03d}/file-000.parquet"
        path.parent.mkdir(parents=True)
        lists = {name: pa.array(list(v[rows])) if v.ndim == 2 else pa.array(v[rows]) for name, v in columns.items()}
        pq.write_table(pa.table(lists), path)
    return columns


def test_lerobot_frames_become_rows(tmp_path, capsys):
    columns = lerobot(tmp_path / "set")
    assert main(["data", "convert", f"lerobot:{tmp_path / 'set'}", str(tmp_path / "y.hdf5")]) == 0
    assert "2 rows without a next observation were dropped" in capsys.readouterr().out
    data = load_dataset(tmp_path / "y.hdf5")
    kept = [t for t in range(STATES) if t not in (FINAL[0], FINAL[2])]
    states = np.concatenate([columns["observation.state"], columns["observation.environment_state"]], axis=1)
    np.testing.assert_array_equal(data.observations, states[kept])
    np.testing.assert_array_equal(data.actions, columns["action"][kept])
    np.testing.assert_array_equal(data.rewards, columns["next.reward"][kept])
    np.testing.assert_array_equal(np.flatnonzero(data.terminals), [kept.index(FINAL[1])])
    inner = ~data.terminals
    np.testing.assert_array_equal(data.next_observations[inner], states[np.array(kept)[inner] + 1])
    assert data.episode_lengths.tolist() == [3, 3, 5] and not data.warnings


@pytest.mark.parametrize(("drop", "terminals"), [(["next.success"], 3), (["next.success", "next.done"], 0)])
def test_lerobot_sets_without_success_end_as_they_say(tmp_path, drop, terminals):
    lerobot(tmp_path / "set", drop=[*drop, "next.reward"])
    said = convert(f"lerobot:{tmp_path / 'set'}", str(tmp_path / "y.npz"))
    data = load_dataset(tmp_path / "y.npz")
    assert data.terminals.sum() == terminals and "has no rewards" in said


def test_lerobot_actions_are_scaled_when_their_range_is_told(tmp_path):
    columns = lerobot(tmp_path / "set", scale=100.0)
    source, target = f"lerobot:{tmp_path / 'set'}", str(tmp_path / "y.hdf5")
    with pytest.raises(UserError, match=r"outside \[-1, 1\]"):
        convert(source, target)
    assert main(["data", "convert", source, target, "--action-range", "-200", "300"]) == 0
    data = load_dataset(target)
    np.testing.assert_allclose(data.actions[:3], (columns["action"][:3] + 200) / 250 - 1, atol=1e-6)
    with pytest.raises(UserError, match="--action-range: is of no use"):
        convert(target, str(tmp_path / "z.npz"), action_range=(0, 1))
    with pytest.raises(UserError, match="--action-range: is 1 0; the first number must be the smaller one"):
        convert(source, str(tmp_path / "z.npz"), action_range=(1, 0))


def test_lerobot_folders_that_are_not_whole_are_refused(tmp_path):
    target = str(tmp_path / "y.hdf5")
    with pytest.raises(UserError, match=r"info\.json: does not exist; name the folder that holds LeRobot's"):
        convert(f"lerobot:{tmp_path}", target)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text("[]")
    with pytest.raises(UserError, match=r"info\.json: is not LeRobot's"):
        convert(f"lerobot:{tmp_path}", target)
    lerobot(tmp_path / "few", total=STATES + 1)
    with pytest.raises(UserError, match=f"holds {STATES} frames, info.json says {STATES + 1}; copy all its files"):
        convert(f"lerobot:{tmp_path / 'few'}", target)
    lerobot(tmp_path / "blind", drop=["observation.state", "observation.environment_state"])
    with pytest.raises(UserError, match="hold no numeric observation"):
        convert(f"lerobot:{tmp_path / 'blind'}", target)
    lerobot(tmp_path / "still", drop=["action"])
    with pytest.raises(UserError, match="action: is missing; found "):
        convert(f"lerobot:{tmp_path / 'still'}", target)
    lerobot(tmp_path / "torn")
    (tmp_path / "torn/data/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"file-000.parquet: cannot be read as parquet \(.*\); copy it again"):
        convert(f"lerobot:{tmp_path / 'torn'}", target)


def test_lerobot_needs_its_extra(tmp_path, monkeypatch):
    (tmp_path / "meta").mkdir()
    feature = {"dtype": "float32", "shape": [1]}
    names = ("observation.state", "action", "episode_index", "index")
    info = {"data_path": "data/{a}.parquet", "total_frames": 1, "features": dict.fromkeys(names, feature)}
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"needs the pyarrow package; install it with: pip install 'cfdg"):
        convert(f"lerobot:{tmp_path}", str(tmp_path / "y.hdf5"))
