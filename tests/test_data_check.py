"""The dataset doctor and what ``cfdg-jax data`` prints."""

import json
import re

import numpy as np
import pytest

from cfdg_jax.data import commands, doctor
from cfdg_jax.data.check import check_fits, describe
from cfdg_jax.data.convert import convert
from cfdg_jax.data.dataset import from_arrays
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.names import RECIPES, REMOTES
from cfdg_jax.errors import UserError
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=11, act_dim=3, horizon=10)


def good(n=40, horizon=10, **changes):
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(n, 11)).astype(np.float32)
    return {
        "observations": obs,
        "next_observations": np.roll(obs, -1, axis=0),
        "actions": rng.uniform(-0.9, 0.9, (n, 3)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": np.zeros(n, bool),
        "timeouts": np.arange(n) % horizon == horizon - 1,
    } | changes


def cut_short():
    arrays = good()
    for key in ("observations", "actions", "rewards"):
        arrays[key][25:] = 0
    return arrays


def test_a_good_dataset_raises_no_warning():
    report = describe(from_arrays(good()), SPEC)
    assert report.warnings == () and report.notes == ()
    facts = report.facts
    assert (facts["rows"], facts["episodes"], facts["terminals"], facts["time limits and cuts"]) == (40, 4, 0, 4)
    assert facts["episode length"] == {"min": 10.0, "mean": 10.0, "max": 10.0}
    assert facts["actions"]["width"] == 3 and -0.9 <= facts["actions"]["min"] <= facts["actions"]["max"] <= 0.9
    assert json.loads(json.dumps(facts)) == facts
    assert "no reference" in report.text()


def test_scores_are_shown_where_a_reference_exists():
    data = from_arrays(good(rewards=np.full(40, 300.0)), task="hopper")
    score = describe(data).facts["normalised score"]
    assert score["mean"] == pytest.approx(92.8009, abs=1e-4)


@pytest.mark.parametrize(
    "arrays,warning",
    [
        (good(40, 40), "an episode has 40 rows, but the time limit is 10; ends are missing|no episode ends"),
        (good(40, 20), "an episode has 20 rows, but the time limit is 10"),
        (good(timeouts=np.ones(40, bool)), "every row ends an episode"),
        (good(next_observations=np.zeros((40, 11))), "every row ends an episode"),
        (good(rewards=np.full(40, 2.0)), "all rewards are 2"),
        (good(terminals=np.ones(40, bool)), "all rows are terminal"),
        (good(terminals=np.arange(40) % 10 == 9), "all 4 episodes of 10 rows, the time limit, end in a terminal"),
        (good(actions=np.ones((40, 3))), "100% of action entries lie at the bounds"),
        (good(actions=np.full((40, 3), 0.5)), "all actions are equal"),
        (good(timeouts=np.arange(40) % 10 != 9), r"episodes have 1\.1 rows; rows are shuffled"),
        (good(terminals=np.arange(40) % 10 == 9), "4 rows are terminals and time-outs at once"),
        (good(rewards=np.where(np.arange(40) == 7, 1e30, 0)), r"rewards reach 1e\+30 in row 7; beyond 1e\+08"),
        (good(observations=np.where(np.arange(40) == 9, 3e8, good()["observations"].T).T), r"reach 3e\+08 in row 9"),
        (cut_short(), "the last 15 rows hold zeros alone; they were probably never written"),
    ],
)
def test_warnings(arrays, warning):
    report = describe(from_arrays(arrays), SPEC)
    assert any(re.search(warning, found) for found in report.warnings), report.warnings


def test_constant_dimensions_are_counted():
    obs = good()["observations"].copy()
    obs[:, 4] = 0
    report = describe(from_arrays(good(observations=obs, next_observations=np.roll(obs, -1, axis=0))), SPEC)
    assert report.warnings == ("1 of 11 observation dimensions never change",)


@pytest.mark.parametrize(
    "spec,what", [(Spec(17, 3, 10), "observations of width 11"), (Spec(11, 6, 10), "actions of w")]
)
def test_dimensions_must_fit_the_environment(spec, what):
    with pytest.raises(UserError, match=f"{what}.*environment walker2d has") as caught:
        check_fits(from_arrays(good(), "mine.hdf5"), spec, "walker2d")
    assert caught.value.field == "mine.hdf5" and "--env.task" in caught.value.remedy


def test_bad_arrays_are_refused():
    with pytest.raises(UserError, match="arrays: observations: holds nan in row 0"):
        from_arrays(good(observations=np.full((40, 11), np.nan)))


def test_commands(tmp_path, monkeypatch):
    monkeypatch.setenv("CFDG_DATA_DIR", str(tmp_path))
    path = tmp_path / "mine.hdf5"
    write_hdf5(path, good(200, 10), {"task": "hopper", "dynamics": "gymnasium"})
    text, code = doctor.info(str(path))
    assert "normalised score" in text and "hopper (gymnasium dyn" in text and code == 0
    copy = tmp_path / "copy.hdf5"
    assert convert(str(path), str(copy)) == f"{copy}: 200 rows of {path}"
    np.testing.assert_array_equal(load_dataset(copy).observations, load_dataset(path).observations)
    assert load_dataset(copy).task == "hopper"
    write_hdf5(tmp_path / "loud.hdf5", good(actions=np.full((40, 3), 1.03)))
    with pytest.raises(UserError, match="cfdg-jax data convert SRC DST --clip-actions writes a clipped copy"):
        convert(str(tmp_path / "loud.hdf5"), str(tmp_path / "quiet.hdf5"))
    convert(str(tmp_path / "loud.hdf5"), str(tmp_path / "quiet.hdf5"), clip_actions=True)
    assert load_dataset(tmp_path / "quiet.hdf5").actions.max() < 1
    with pytest.raises(UserError, match="exists; choose another name"):
        convert(str(path), str(copy))
    with pytest.raises(UserError, match="is no HDF5 file name"):
        convert(str(path), str(tmp_path / "copy.csv"))
    with pytest.raises(UserError, match="is a file and needs no building"):
        list(commands.build(str(path)))


def test_wrong_environment_fails_the_check(tmp_path):
    path = tmp_path / "mine.hdf5"
    write_hdf5(path, good(), {"task": "walker2d", "dynamics": "gymnasium"})
    with pytest.raises(UserError, match="observations of width 11, but the environment walker2d has 17"):
        doctor.check(str(path))


def test_list_shows_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CFDG_DATA_DIR", str(tmp_path))
    text = commands.list_text()
    assert text.splitlines()[-1].endswith("lerobot:FOLDER, ogbench:FILE.npz")
    assert all(f"local:{name}" in text for name in RECIPES) and all(f"d4rl:{n}" in text for n in REMOTES)
    assert "  built" not in text.replace("built here", "") and "  downloaded\n" not in text
    file = tmp_path / "d4rl" / "ant_random-v2.hdf5"
    file.parent.mkdir()
    file.touch()
    assert [line.split()[0] for line in commands.list_text().splitlines() if line.endswith("  downloaded")] == [
        "d4rl:ant-random-v2"
    ]
