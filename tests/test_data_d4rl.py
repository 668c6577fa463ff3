"""Reading D4RL's layout: each defect in a small file, real files, writing, names."""

import errno
import pathlib

import h5py
import numpy as np
import pytest

from cfdg_jax.data import d4rl, files
from cfdg_jax.data.arrays import ACTION_LIMIT
from cfdg_jax.data.dataset import Dataset, from_arrays, load_dataset, task_of_name
from cfdg_jax.errors import UserError

NEXT = np.array([1, -1])


def raw(n=6, timeouts=(2,), terminals=(), following=True, dtype=np.float32, flags=bool):
    """Episodes whose observations count up from 100 times the episode's number."""
    rng = np.random.default_rng(0)
    episode = np.concatenate([[0], np.cumsum(np.isin(np.arange(n - 1), (*timeouts, *terminals)))])
    within = np.arange(n) - np.array([np.flatnonzero(episode == e)[0] for e in episode])
    obs = np.stack([100.0 * episode + within, -within], axis=1)
    arrays = {
        "observations": obs.astype(dtype),
        "actions": rng.uniform(-1, 1, (n, 3)).astype(dtype),
        "rewards": np.arange(n).astype(dtype),
        "terminals": np.isin(np.arange(n), terminals).astype(flags),
        "timeouts": np.isin(np.arange(n), timeouts).astype(flags),
    }
    if following:
        arrays["next_observations"] = (obs + NEXT).astype(dtype)
    return arrays


@pytest.mark.parametrize("following,rows", [(True, 3), (False, 2)])
def test_three_rows_with_a_timeout(following, rows):
    data = from_arrays(raw(3, following=following))
    assert len(data) == rows and not data.terminals.any()
    np.testing.assert_array_equal(data.next_observations, data.observations + NEXT)
    np.testing.assert_array_equal(data.ends, np.arange(rows) == rows - 1)


def test_next_observations_are_preferred():
    arrays = raw()
    arrays["next_observations"] = arrays["next_observations"] + np.float32(0.5)
    data = from_arrays(arrays)
    np.testing.assert_array_equal(data.next_observations, arrays["next_observations"])


def test_next_observation_never_crosses_a_boundary():
    data = from_arrays(raw(9, timeouts=(2,), terminals=(5,), following=False))
    # Dropped: the timeout (row 2) and the last row. Kept: the terminal, repeating its own observation.
    np.testing.assert_array_equal(data.rewards, [0, 1, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(data.ends, [0, 1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(data.terminals, [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(data.next_observations[4], data.observations[4])
    others = ~data.terminals
    np.testing.assert_array_equal(data.next_observations[others], data.observations[others] + NEXT)
    assert "2 rows without a next observation were dropped" in data.notes[0]


def test_antmaze_goes_on_after_a_goal():
    arrays = raw(6, timeouts=(5,), following=False)
    arrays["terminals"] = np.array([0, 0, 1, 1, 0, 1], bool)
    data = from_arrays(arrays, task="antmaze-umaze")
    # A goal row's next observation is the following row; the last row is goal and time limit at once, and kept.
    np.testing.assert_array_equal(data.next_observations[2], data.observations[3])
    np.testing.assert_array_equal(data.next_observations[5], data.observations[5])
    np.testing.assert_array_equal(data.terminals, arrays["terminals"])


def test_missing_timeouts_are_found_from_jumps():
    arrays = raw(9, timeouts=(3, 8))
    del arrays["timeouts"]
    data = from_arrays(arrays)
    np.testing.assert_array_equal(np.flatnonzero(data.ends), [3, 8])
    assert not data.terminals.any()
    assert "1 episode ends were found where observations jump; there are no timeouts" in data.notes


def test_missing_timeouts_without_next_observations_are_admitted():
    arrays = raw(5, timeouts=(), terminals=(2,), following=False)
    del arrays["timeouts"]
    data = from_arrays(arrays)
    np.testing.assert_array_equal(np.flatnonzero(data.ends), [2, 3])
    assert any("time limits are invisible" in note for note in data.notes)


@pytest.mark.parametrize("flags", [np.uint8, np.int64, np.float32])
def test_types_of_older_files(flags):
    arrays = raw(4, timeouts=(3,), terminals=(1,), dtype=np.float64, flags=flags)
    arrays["rewards"] = arrays["rewards"][:, None]
    data = from_arrays(arrays)
    assert {x.dtype for x in (data.observations, data.actions, data.rewards, data.next_observations)} == {
        np.dtype(np.float32)
    }
    assert data.terminals.dtype == data.ends.dtype == bool and data.rewards.shape == (4,)
    np.testing.assert_array_equal(data.ends, [0, 1, 0, 1])


def test_actions_are_clipped_inside_the_box():
    arrays = raw(3)
    arrays["actions"][:] = 1.000005
    assert float(from_arrays(arrays).actions.max()) == np.float32(ACTION_LIMIT)


def test_episodes_and_returns():
    data = from_arrays(raw(9, timeouts=(2, 3)))
    assert [(e.start, e.stop) for e in data.episodes()] == [(0, 3), (3, 4), (4, 9)]
    np.testing.assert_array_equal(data.episode_returns, [0 + 1 + 2, 3, 4 + 5 + 6 + 7 + 8])
    np.testing.assert_array_equal(data.episode_lengths, [3, 1, 5])


def _break(key, change):
    def broken(path):
        arrays = raw()
        change(arrays)
        d4rl.write_hdf5(path, arrays)

    return key, broken


def _set(key, index, value):
    return lambda arrays: arrays[key].__setitem__(index, value)


def _truncate(path):
    d4rl.write_hdf5(path, raw(5000))
    path.write_bytes(path.read_bytes()[:-5000])


DEFECTS = {
    "missing key": (*_break(": rewards", lambda a: a.pop("rewards")), "is missing; found actions, next_observations"),
    "nan": (
        *_break(": observations", _set("observations", (4, 1), np.nan)),
        r"holds nan in row 4 \(1 such rows\); rem",
    ),
    "infinite": (*_break(": rewards", _set("rewards", 2, -np.inf)), "holds -inf in row 2"),
    "beyond the box": (
        *_break(": actions", _set("actions", (3, 0), 1.5)),
        r"range over \[-0.\d+, 1.5\], first outside \[-1, 1\] in row 3; clip or rescale",
    ),
    "flag": (
        *_break(": terminals", lambda a: a.update(terminals=np.array([0, 0, 2, 0, 0, 0]))),
        "holds 2 in row 2; must hold 0 and 1",
    ),
    "lengths": (*_break(": rewards", lambda a: a.update(rewards=np.zeros(5))), "has 5 rows but observations has 6"),
    "image": (
        *_break(": observations", lambda a: a.update(observations=np.zeros((6, 2, 2)))),
        r"has shape \(6, 2, 2\); must be \[rows, dimension\]",
    ),
    "next shape": (
        *_break(": next_observations", lambda a: a.update(next_observations=np.zeros((6, 5)))),
        r"has shape \(6, 5\); must be \(6, 2\)",
    ),
    "text": (*_break(": rewards", lambda a: a.update(rewards=np.array([b"x"] * 6))), "must hold numbers"),
    "empty": (*_break("", lambda a: a.update({k: v[:0] for k, v in a.items()})), "holds no rows"),
    "only a timeout": (
        *_break("", lambda a: (a.pop("next_observations"), a.update({k: v[2:3] for k, v in a.items()}))),
        "holds no complete transition",
    ),
    "truncated": ("", _truncate, "is truncated; copy or download it again"),
    "not hdf5": ("", lambda path: path.write_text("<html>404</html>"), "is not an HDF5 file"),
    "absent": ("", lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_refusals_name_file_key_and_remedy(defect, tmp_path):
    key, make, message = DEFECTS[defect]
    path = tmp_path / "data.hdf5"
    make(path)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(path)
    assert caught.value.field == f"{path}{key}" and caught.value.remedy and "\n" not in str(caught.value)


def test_minari_layout_is_recognised(tmp_path):
    with h5py.File(tmp_path / "main_data.hdf5", "w") as file:
        file.create_group("episode_0")
    with pytest.raises(UserError, match="Minari's layout"):
        load_dataset(tmp_path / "main_data.hdf5")


def test_write_then_read_is_the_same(tmp_path):
    data = from_arrays(raw(9, timeouts=(2,), terminals=(5,)), task="hopper")
    path = tmp_path / "sub" / "copy.hdf5"
    d4rl.write_hdf5(path, data, {"task": "hopper", "dynamics": "d4rl", "seed": 3}, compression="gzip")
    again = load_dataset(path)
    for name in ("observations", "actions", "rewards", "next_observations", "terminals", "ends"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    assert (again.task, again.dynamics, again.origin, again.metadata["seed"]) == ("hopper", "d4rl", "file", 3)
    assert again.sha256 == files.sha256_of(path) and again.notes == ()


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "data.hdf5"
    d4rl.write_hdf5(path, raw())
    before = path.read_bytes()

    def full(self, data):
        self.open("wb").write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        d4rl.write_hdf5(path, raw(50))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "data.hdf5"
    d4rl.write_hdf5(path, raw())
    files.record_sha256(path)
    load_dataset(path)
    d4rl.write_hdf5(path, raw(7))
    with pytest.raises(UserError, match="has changed since"):
        load_dataset(path)


def test_names_and_addresses():
    assert len(d4rl.DATASETS) == 4 * 6 + 6
    assert d4rl.DATASETS["hopper-medium-replay-v2"].path == "gym_mujoco_v2/hopper_medium_replay-v2.hdf5"
    play = d4rl.DATASETS["antmaze-large-play-v2"]
    assert play.file == "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    assert task_of_name("d4rl:antmaze-medium-diverse-v2") == "antmaze-medium"
    assert task_of_name("local:toy-sparse-medium-v0") == "toy-sparse" and task_of_name("") == ""
    assert task_of_name("some/absent.hdf5") == "" and task_of_name("minari:a/b-v0") == ""


@pytest.mark.parametrize(
    "name,remedy",
    [
        ("d4rl:hoper-medium-v2", "did you mean d4rl:hopper-medium-v2"),
        ("hopper-medium-v2", "did you mean d4rl:hopper-medium-v2"),
        ("local:hopper-medum-v0", "did you mean local:hopper-medium-v0"),
        ("local:zzz", "valid: local:hopper-random-v0"),
    ],
)
def test_unknown_names_get_the_nearest(name, remedy):
    with pytest.raises(UserError, match=remedy):
        load_dataset(name)


def test_a_d4rl_file_is_known_by_its_name(tmp_path):
    path = tmp_path / "walker2d_medium-v2.hdf5"
    d4rl.write_hdf5(path, raw())
    data = load_dataset(path)
    assert (data.task, data.dynamics) == ("walker2d", "d4rl") == (task_of_name(str(path)), "d4rl")
    assert load_dataset(path, dynamics="gymnasium").dynamics == "gymnasium"


def test_the_genuine_d4rl_file(data_dir):
    path = data_dir / "d4rl" / "door-v0_demos_clipped.hdf5"
    data = load_dataset(path)
    assert data.sha256 == "9df6345e28fcec8f44c0af4d6dacc6ef996958b39b568f53df85cf41dd03412b"
    with h5py.File(path) as file:
        obs, terminals, timeouts = (file[key][()] for key in ("observations", "terminals", "timeouts"))
    assert len(data) == 6729 - 25 and data.terminals.sum() == 25 and len(data.episode_returns) == 50
    inside = np.flatnonzero(~(terminals | timeouts))
    kept = ~data.terminals
    np.testing.assert_array_equal(data.next_observations[kept], obs[inside + 1])
    np.testing.assert_array_equal(data.observations[kept], obs[inside])


def test_a_real_mujoco_py_recording(data_dir):
    data: Dataset = load_dataset(data_dir / "gym_v2_mujoco_py" / "hopper-v2-return3590.hdf5")
    assert (data.task, data.dynamics, len(data)) == ("hopper", "d4rl", 9990)
    np.testing.assert_array_equal(data.episode_lengths, [999] * 10)
    assert data.episode_returns.mean() == pytest.approx(3585, abs=2)


def test_real_unclipped_actions_are_refused(data_dir):
    with pytest.raises(UserError, match=r"actions: range over \[-5.132, 3.949\], first outside \[-1, 1\] in row 0"):
        load_dataset(data_dir / "gym_v4_expert" / "hopper-v4-expert.hdf5")
