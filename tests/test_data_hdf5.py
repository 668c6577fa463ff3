"""Reading and writing D4RL's layout: each defect in a small file, real files, writing."""

import errno
import pathlib

import h5py
import numpy as np
import pytest
from raw_rows import raw

from cfdg_jax.data import files
from cfdg_jax.data.dataset import Dataset, from_arrays
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.errors import UserError


def _break(key, change):
    def broken(path):
        arrays = raw()
        change(arrays)
        write_hdf5(path, arrays)

    return key, broken


def _set(key, index, value):
    return lambda arrays: arrays[key].__setitem__(index, value)


def _truncate(path):
    write_hdf5(path, raw(5000))
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
    "text": (
        *_break(": rewards", lambda a: a.update(rewards=np.array([b"x"] * 6))),
        "holds \\|S1 values; must hold real numbers",
    ),
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
    write_hdf5(path, data, {"task": "hopper", "dynamics": "d4rl", "seed": 3}, compression="gzip")
    again = load_dataset(path)
    for name in ("observations", "actions", "rewards", "next_observations", "terminals", "ends"):
        np.testing.assert_array_equal(getattr(again, name), getattr(data, name))
    assert (again.task, again.dynamics, again.origin, again.metadata["seed"]) == ("hopper", "d4rl", "file", 3)
    assert again.sha256 == files.sha256_of(path) and again.notes == ()


def test_a_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "data.hdf5"
    write_hdf5(path, raw())
    before = path.read_bytes()

    def full(self, data):
        self.open("wb").write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_hdf5(path, raw(50))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    monkeypatch.undo()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_changed_file_is_refused(tmp_path):
    path = tmp_path / "data.hdf5"
    write_hdf5(path, raw())
    files.record_sha256(path)
    load_dataset(path)
    write_hdf5(path, raw(7))
    with pytest.raises(UserError, match="has changed since"):
        load_dataset(path)


def test_the_genuine_d4rl_file(data_dir):
    path = data_dir / "d4rl" / "door-v0_demos_clipped.hdf5"
    data = load_dataset(path)
    assert data.sha256 == "9df6345e28fcec8f44c0af4d6dacc6ef996958b39b568f53df85cf41dd03412b"
    with h5py.File(path) as file:
        obs, terminals, timeouts = (file[key][()] for key in ("observations", "terminals", "timeouts"))
    assert len(data) == 6729 and data.terminals.sum() == 25 and len(data.episode_returns) == 25
    assert timeouts.sum() == 25 and "25 time-outs are no ends" in data.notes[0], "each is row 200 of a demonstration"
    np.testing.assert_array_equal(data.ends, terminals)
    inside = np.flatnonzero(~terminals)
    np.testing.assert_array_equal(data.next_observations[inside], obs[inside + 1])
    np.testing.assert_array_equal(data.observations, obs)


def test_a_real_mujoco_py_recording(data_dir):
    data: Dataset = load_dataset(data_dir / "gym_v2_mujoco_py" / "hopper-v2-return3590.hdf5")
    assert (data.task, data.dynamics, len(data)) == ("hopper", "d4rl", 9990)
    np.testing.assert_array_equal(data.episode_lengths, [999] * 10)
    assert data.episode_returns.mean() == pytest.approx(3585, abs=2)


def test_real_unclipped_actions_are_refused(data_dir):
    with pytest.raises(UserError, match=r"actions: range over \[-5.132, 3.949\], first outside \[-1, 1\] in row 0"):
        load_dataset(data_dir / "gym_v4_expert" / "hopper-v4-expert.hdf5")
