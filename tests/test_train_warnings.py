"""What looks wrong about the data reaches whoever trains on them: once, when the run begins."""

import numpy as np
import pytest
from train_helpers import TOY

import cfdg_jax
from cfdg_jax.data import hdf5
from cfdg_jax.training.build import load_program
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.stopwatch import Stopwatch


def recorded(change=None):
    """Rows of the toy as its file has them, changed."""
    arrays = {name: values[:2_000].copy() for name, values in cfdg_jax.load_dataset(TOY).arrays().items()}
    if change:
        change(arrays)
    return arrays


def edit(name, where, value):
    return lambda arrays: arrays[name].__setitem__(where, value)


def unwritten(arrays):
    for name in ("observations", "next_observations", "actions", "rewards"):
        arrays[name][-300:] = 0


def shuffled(arrays):
    for name, values in arrays.items():
        arrays[name] = values[np.random.default_rng(0).permutation(len(values))]


def both(arrays):
    arrays["terminals"] = arrays["timeouts"] | arrays["terminals"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, []),
        (edit("rewards", 7, 1e30), ["rewards reach 1e+30 in row 7; beyond 1e+08"]),
        (edit("observations", 7, -1e9), ["observations reach 1e+09 in row 7"]),
        (unwritten, ["the last 300 rows hold zeros alone; they were probably never written"]),
        (edit("actions", ..., 0.5), ["all actions are equal", "disagree"]),
        (both, ["rows are terminals and time-outs at once"]),
        (shuffled, ["rows are shuffled"]),
        (lambda arrays: np.negative(arrays["rewards"], out=arrays["rewards"]), ["disagree", "their sign is reversed"]),
    ],
    ids=["right", "rewards", "observations", "unwritten", "actions", "both", "shuffled", "sign"],
)
def test_what_looks_wrong_about_the_data_is_told_once(change, told, tmp_path, capsys):
    path = tmp_path / "data.hdf5"
    hdf5.write_hdf5(path, recorded(change), {"task": "toy-dense"})
    config = cfdg_jax.make_config(path, "td3bc", preset="smoke", seeds=1)
    load_program(config, Progress(True), Stopwatch())
    text = capsys.readouterr().err
    warned = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert all(sum(words in line for line in warned) == 1 for words in told), text
    assert bool(warned) == bool(told)
    if change is None:
        assert "rows replayed in toy-dense (gymnasium dynamics) agree with it" in text


def test_a_resumed_run_does_not_tell_it_again(tmp_path, capsys):
    path = tmp_path / "data.hdf5"
    hdf5.write_hdf5(path, recorded(edit("rewards", 7, 1e9)), {"task": "toy-dense"})
    fields = {"seeds": 1, "offline.steps": 2, "online.steps": 0, "evaluate.episodes": 1}
    config = cfdg_jax.make_config(path, "td3bc", preset="smoke", **fields)
    cfdg_jax.train(config, tmp_path / "run", progress=False)
    assert capsys.readouterr().err.count("rewards reach 1e+09 in row 7") == 1
    cfdg_jax.train(resume=tmp_path / "run", progress=False)
    assert "rewards reach" not in capsys.readouterr().err
