"""``cfdg-jax sample``: every reader sees the generated rows, interrupted calls continue, wrong input is told."""

import json

import h5py
import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from train_helpers import interrupted_at

from cfdg_jax import cli, process
from cfdg_jax import upsample as module
from cfdg_jax.core.spread import ROWS
from cfdg_jax.data import transforms
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.training import once
from cfdg_jax.training.devices import AXIS
from cfdg_jax.training.progress import Interrupted
from cfdg_jax.types import Source

DATA, OTHER = "local:toy-dense-medium-replay-v0", "local:toy-dense-medium-v0"
pytestmark = pytest.mark.usefixtures("generators_are_shallow")

SMALL = ["--preset", "smoke", "--quiet", "--refresh.chunk", "60", "--augment.steps", "20"]
SMALL += ["--refresh.fit_steps_per_call", "10"]


def run(out, *more, augment="synther", rows="150"):
    return cli.main(
        ["sample", "--dataset", DATA, "--augment", augment, "--rows", rows, "--out", str(out), *SMALL, *more]
    )


@pytest.fixture(autouse=True)
def no_setup(monkeypatch):
    monkeypatch.setattr(process, "setup", lambda *arguments: None)


@pytest.fixture(scope="module", autouse=True)
def equal_generators_are_one():
    """JAX compiles a function once, and a generator that is made anew brings functions of its own."""
    made, make = {}, module.make_augmenter

    def known(config, spec):
        return made.setdefault(repr((config, spec)), make(config, spec))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "make_augmenter", known)
        yield


def d4rl_pairs(path):
    """What D4RL's own qlearning_dataset reads: a row and the next, rows that time out dropped."""
    with h5py.File(path) as file:
        columns = {name: file[name][:] for name in module.COLUMNS}
    keep = ~columns["timeouts"][:-1]
    return columns["observations"][:-1][keep], columns["observations"][1:][keep], columns["rewards"][:-1][keep]


def test_every_reader_of_d4rl_files_sees_the_generated_rows(tmp_path, capsys):
    out = tmp_path / "more.hdf5"
    assert run(out, "--check") == 0
    data = load_dataset(str(out))
    assert len(data) == 150 and data.task == "toy-dense"
    obs, next_obs, rewards = d4rl_pairs(out)
    np.testing.assert_array_equal(obs, data.observations)
    goes_on = ~data.terminals  # no one bootstraps from what follows a terminal
    np.testing.assert_array_equal(next_obs[goes_on], data.next_observations[goes_on])
    np.testing.assert_array_equal(rewards, data.rewards)
    assert len(np.unique(data.rewards)) > 140 and np.abs(data.actions).max() <= 1
    with h5py.File(out) as file:
        assert (file["infos/source"][:] == Source.SYNTHETIC_OFFLINE).all()
    report = json.loads((tmp_path / "more.hdf5.quality.json").read_text())
    assert report["rows"] == 150 and np.isfinite(report["synthetic_offline/offline/energy_distance"])
    assert "synthetic_offline/offline/energy_distance" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more.hdf5", "more.hdf5.quality.json"]


def test_generated_rows_are_scaled_as_the_data_and_their_returns_are_unknown(tmp_path):
    out = tmp_path / "more.hdf5"
    assert run(out) == 0
    real, generated = load_dataset(DATA), load_dataset(str(out))
    assert generated.loose and not real.loose
    scale = transforms.fit_reward(real, "return_range").scale
    assert scale > 0 and transforms.fit_reward(generated, "return_range").scale == pytest.approx(scale)
    fitted = transforms.fit_transforms(generated, "return_range")
    assert np.isneginf(generated.layout.unpack(pack(generated, fitted)).mc_return).all()
    assert np.isfinite(real.layout.unpack(pack(real, fitted)).mc_return).all()


def test_its_fit_and_rows_are_shared_by_the_devices_asked_for(tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "x.hdf5", "--devices", "99") == 2
    assert "error: devices: is 99 and there are 1 here; use fewer, or all" in capsys.readouterr().err
    mesh, shared, share = Mesh(np.array(jax.devices()).reshape(1, 1), (AXIS, ROWS)), [], jax.set_mesh
    monkeypatch.setattr(module, "mesh_of", lambda config: mesh)
    monkeypatch.setattr(jax, "set_mesh", lambda mesh: shared.append(mesh.axis_names) or share(mesh))
    assert run(tmp_path / "x.hdf5", "--devices", "1", rows="60") == 0
    assert shared == [(AXIS, ROWS)] * (12 + 1), "a dozen dispatches of the fit, a chunk of rows"


def test_cfdg_writes_both_kinds(tmp_path):
    out = tmp_path / "both.hdf5"
    assert run(out, "--online", OTHER, augment="cfdg", rows="100") == 0
    with h5py.File(out) as file:
        kinds = dict(zip(*np.unique(file["infos/source"][::2], return_counts=True), strict=True))
    assert kinds == {Source.SYNTHETIC_OFFLINE: 20, Source.SYNTHETIC_ONLINE: 80}


def test_returns_of_loose_rows_are_refused(tmp_path, capsys):
    loose = tmp_path / "loose.hdf5"
    assert run(loose, rows="20") == 0
    flags = ["--online", str(loose), "--augment.condition", "return"]
    assert run(tmp_path / "x.hdf5", *flags, augment="cfdg") == 2
    assert "augment.condition: is return, and a dataset holds loose rows" in capsys.readouterr().err


@pytest.mark.parametrize("condition", ["return", "surprise"])
def test_a_condition_that_needs_no_agent_is_told(tmp_path, condition, monkeypatch):
    told, tell = [], once.told_alone
    monkeypatch.setattr(once, "told_alone", lambda *args: told.append(tell(*args)) or told[-1])
    out = tmp_path / "top.hdf5"
    assert run(out, "--online", OTHER, "--augment.condition", condition, augment="cfdg", rows="20") == 0
    known = [np.asarray(part) for part in told[-1]["scores"]]
    assert [len(part) for part in known] == [len(load_dataset(name)) for name in (DATA, OTHER)]
    assert all(0 < part.min() < 0.01 and part.max() > 0.9 for part in known)
    assert len(load_dataset(str(out))) == 20


@pytest.mark.parametrize(("fitted_to", "named"), [("online", [OTHER]), ("pooled", [DATA, OTHER])])
def test_the_file_names_the_data_it_was_made_from(tmp_path, fitted_to, named):
    out = tmp_path / "x.hdf5"
    assert run(out, "--online", OTHER, "--augment.data", fitted_to, "--check") == 0
    with h5py.File(out) as file:
        name = file["metadata/name"][()].decode()
    assert name == f"generated from {' and '.join(named)}"
    assert json.loads((tmp_path / "x.hdf5.quality.json").read_text())["data"] == " and ".join(named)
    assert load_dataset(str(out)).return_range == pytest.approx(load_dataset(named[0]).return_range, rel=1e-6)


def test_a_call_never_continues_one_on_other_data(tmp_path, monkeypatch):
    out = tmp_path / "x.hdf5"
    with interrupted_at(2, monkeypatch):
        assert run(out, "--online", OTHER, augment="cfdg") == 130
    assert len(list((tmp_path / "x.hdf5.generator").iterdir())) == 1
    with interrupted_at(2, monkeypatch):
        assert run(out, "--online", DATA, augment="cfdg") == 130
    assert len(list((tmp_path / "x.hdf5.generator").iterdir())) == 2  # fitted anew


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["--augment.lr", "1e9", "--augment.steps", "60"], "lower --augment.lr"),
        (["--augment.w", "1e30", "--online", OTHER], "are not finite; lower --augment.w"),
    ],
)
def test_what_is_not_finite_is_never_written(tmp_path, capsys, fields, message):
    assert run(tmp_path / "x.hdf5", *fields, augment="cfdg" if "--online" in fields else "synther") == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_an_interrupted_call_continues_to_the_same_file(tmp_path, monkeypatch, capsys, stop_at):
    whole, out = tmp_path / "whole.hdf5", tmp_path / "out.hdf5"
    assert run(whole) == 0
    with interrupted_at(stop_at, monkeypatch):
        assert run(out) == 130
    assert "interrupted; run the same command again to continue" in capsys.readouterr().err
    assert not out.exists()
    assert run(out) == 0
    with h5py.File(whole) as one, h5py.File(out) as other:
        for name in module.COLUMNS:
            np.testing.assert_array_equal(one[name][:], other[name][:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augment": "cfdg"}, "online: is missing: cfdg is fitted to offline and online rows; name the second"),
        (
            {"augment": "cfdg", "more": ["--online", OTHER, "--augment.condition", "advantage"]},
            "augment.condition: is advantage, which an agent has to judge, and there is none; use return, surprise or",
        ),
        ({"rows": "0"}, "rows: is 0; must be at least 1"),
        ({"rows": "many"}, "rows: is 'many'; must be a whole number"),
        ({"augment": "synter"}, "augment: 'synter' is unknown; did you mean synther"),
        ({"more": ["--check"], "rows": "1"}, "rows: is 1; must be at least 2 here, or leave out --check"),
        ({"more": ["--augment.churn", "inf"]}, "augment.churn: is inf; must be finite"),
        (
            {"more": ["--online", OTHER, "--augment.data", "offline"]},
            f"online: is {OTHER}, but synther is fitted to offline rows alone; leave --online out",
        ),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, arguments, message):
    more = arguments.pop("more", [])
    assert run(tmp_path / "x.hdf5", *more, **arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_a_place_that_cannot_be_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(tmp_path / "file" / "x.hdf5") == 2
    assert "out: cannot lie in" in capsys.readouterr().err


def test_no_generator_is_refused(tmp_path, capsys):
    flags = ["--dataset", DATA, "--augment", "none", "--rows", "9", "--out", str(tmp_path / "x.hdf5")]
    assert cli.main(["sample", *flags]) == 2
    assert "augment: is none; name a generator" in capsys.readouterr().err


def test_other_settings_on_top_of_a_partial_file_are_refused(tmp_path, monkeypatch, capsys):
    out = tmp_path / "x.hdf5"
    monkeypatch.setattr(module.os, "replace", lambda *paths: (_ for _ in ()).throw(Interrupted))
    assert run(out) == 130
    assert run(out, "--augment.width", "16") == 2
    assert "holds rows of other settings" in capsys.readouterr().err
    (tmp_path / "y.txt").touch()
    assert run(tmp_path / "y.txt") == 2
