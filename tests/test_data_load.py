"""Names of datasets: what they resolve to, what they imply, the nearest ones."""

import pytest
from raw_rows import raw

from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset, task_of_name
from cfdg_jax.data.names import REMOTES
from cfdg_jax.errors import UserError


def test_names_and_addresses():
    assert len(REMOTES) == 4 * 6 + 2 * 6 + 4 * 3
    assert REMOTES["hopper-medium-replay-v2"].path == "gym_mujoco_v2/hopper_medium_replay-v2.hdf5"
    play = REMOTES["antmaze-large-play-v2"]
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
        ("local:zzz", "`cfdg-jax data list` lists all"),
        ("lerobot:some/set", "alone; cfdg-jax data convert lerobot:some/set mine.hdf5"),
    ],
)
def test_unknown_names_get_the_nearest(name, remedy):
    with pytest.raises(UserError, match=remedy):
        load_dataset(name)


def test_a_d4rl_file_is_known_by_its_name(tmp_path):
    path = tmp_path / "walker2d_medium-v2.hdf5"
    write_hdf5(path, raw())
    data = load_dataset(path)
    assert (data.task, data.dynamics) == ("walker2d", "d4rl") == (task_of_name(str(path)), "d4rl")
    assert load_dataset(path, dynamics="gymnasium").dynamics == "gymnasium"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"dynamics": "mujoco"}, "metadata/dynamics: is 'mujoco'; must be d4rl or gymnasium"),
        ({"return_low": "x", "return_high": 1.0}, "metadata/return_low: is 'x'; must be a finite number"),
        ({"return_low": 0.0}, "metadata/return_high: is None; must be a finite number"),
        ({"return_low": 0.0, "return_high": float("nan")}, "metadata/return_high: is nan"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(tmp_path, metadata, message):
    write_hdf5(tmp_path / "x.hdf5", raw(), metadata)
    with pytest.raises(UserError, match=message):
        load_dataset(tmp_path / "x.hdf5")
