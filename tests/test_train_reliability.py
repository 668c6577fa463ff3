"""Nothing lost, nothing silently wrong: damaged checkpoints and logs, changed data, two processes, borrowed agents."""

import functools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from train_helpers import assert_same_run, final_leaves, flip, lines, stopped_in, toy_config

import cfdg_jax
from cfdg_jax.errors import UserError
from cfdg_jax.training import results, store
from cfdg_jax.training import run as run_module
from cfdg_jax.training.build import load_program
from cfdg_jax.training.lock import only_process
from cfdg_jax.training.origin import read_origin
from cfdg_jax.training.progress import Interrupted, Progress
from cfdg_jax.training.stopwatch import Stopwatch

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHORT = {"seeds": 1, "offline__steps": 40, "online__steps": 60, "evaluate__episodes": 1, "evaluate__offline_every": 20}
SHORT |= {"online__start_steps": 30, "online__capacity": 60}

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")


def short(**values):
    return toy_config(augment="none", **(SHORT | values))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return cfdg_jax.train(short(), tmp_path_factory.mktemp("whole") / "run", progress=False)


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    return tmp_path / "run"


def checkpoints(folder):
    return sorted((p for p in (folder / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


def resume(folder):
    return cfdg_jax.train(resume=folder, progress=False)


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["arrays", "record", "gone", "foreign"])
def test_a_bad_newest_checkpoint_is_passed_over_and_the_run_ends_as_it_would_have(
    whole, copy, damage, capsys, tmp_path
):
    newest = checkpoints(copy)[-1]
    if damage == "gone":
        shutil.rmtree(newest / store.ARRAYS)
    elif damage == "foreign":  # of equal shapes
        other = cfdg_jax.train(short(run_key=1), tmp_path / "other", progress=False)
        shutil.rmtree(newest)
        shutil.copytree(checkpoints(other.folder)[-1], newest)
    else:
        flip(newest / {"arrays": store.ARRAYS, "record": store.RECORD}[damage])
    policy = cfdg_jax.load_run(copy).policy()(np.zeros((1, 1, 4)))
    assert np.isfinite(policy).all() and f"{newest} is damaged and passed over" in capsys.readouterr().err
    assert_same_run(whole, resume(copy))
    assert f"{newest} is damaged and passed over" in capsys.readouterr().err
    assert [path.name for path in checkpoints(copy)] == [path.name for path in checkpoints(whole.folder)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_random_bits_are_told_or_change_nothing(whole, tmp_path, monkeypatch, capsys):
    """Over all files of all checkpoints: the run goes on from a whole one and ends with the same numbers."""
    kept = functools.cache(lambda: load_program(whole.config, Progress(False), Stopwatch()))
    for module in (run_module, results):  # so that nothing is compiled a hundred times
        monkeypatch.setattr(module, "load_program", lambda *arguments: kept())
    luck, newest = random.Random(0), checkpoints(whole.folder)[-1].name
    for trial in range(100):
        folder = tmp_path / str(trial)
        shutil.copytree(whole.folder, folder)
        path = luck.choice(sorted(p for place in checkpoints(folder) for p in place.rglob("*") if p.is_file()))
        data = bytearray(path.read_bytes())
        data[luck.randrange(len(data))] ^= 1 << luck.randrange(8)
        path.write_bytes(data)
        assert_same_run(whole, resume(folder))
        hit = path.relative_to(folder / "checkpoints").parts[0]
        told = f"checkpoints/{hit} is damaged and passed over" in capsys.readouterr().err
        assert told == (hit == newest), path
        shutil.rmtree(folder)


def test_without_a_whole_checkpoint_it_stops_with_one_line_and_changes_nothing(copy):
    for place in checkpoints(copy):
        flip(place / store.ARRAYS)
    before = {path: path.read_bytes() for path in copy.rglob("*.json*")}
    for use in (resume, lambda folder: cfdg_jax.load_run(folder).policy(), cfdg_jax.evaluate):
        with pytest.raises(UserError, match="holds no whole checkpoint") as error:
            use(copy)
        assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in copy.rglob("*.json*")} == before


def test_a_damaged_borrowed_agent_is_one_line(copy, tmp_path):
    flip(copy / "checkpoints" / "offline_agent" / store.ARRAYS)
    with pytest.raises(UserError, match="offline_agent: is damaged"):
        cfdg_jax.train(short(), tmp_path / "new", offline_from=copy, progress=False)


# -- resuming destroys nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["all", "renamed", "file"])
def test_a_run_whose_checkpoints_are_lost_is_not_begun_anew(copy, lost):
    if lost == "renamed":
        for place in checkpoints(copy):
            place.rename(place.with_name(f"old{place.name}"))
    else:
        shutil.rmtree(copy / "checkpoints")
        if lost == "file":
            (copy / "checkpoints").write_text("")
    before = {path: path.read_bytes() for path in copy.iterdir() if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match="shows that there was one; restore it"):
        resume(copy)
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_killed_before_its_first_checkpoint_begins_anew(whole, copy):
    first = (copy / "evaluations.jsonl").read_text().splitlines()[0]
    for name in ("checkpoints", "samples.npz", "summary.json", "metrics.jsonl"):
        shutil.rmtree(copy / name) if name == "checkpoints" else (copy / name).unlink()
    (copy / "evaluations.jsonl").write_text(first + "\n")
    assert_same_run(whole, resume(copy))


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [("short", "holds 9 bytes"), ("gone", "is missing"), ("folder", "is no file"), ("edited", "was edited")],
)
def test_logs_that_are_not_what_was_recorded_are_told_and_not_touched(copy, name, damage, told):
    path, other = copy / name, copy / {"metrics.jsonl": "evaluations.jsonl"}.get(name, "metrics.jsonl")
    text = path.read_text()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "gone":
        path.write_text("x" * 9 if damage == "short" else text.replace("0.", "1.", 1))
    with other.open("a") as file:
        file.write("a line after the checkpoint\n")
    before = other.read_bytes()
    with pytest.raises(UserError, match=f"{name}: {told}"):
        resume(copy)
    assert other.read_bytes() == before and (damage != "short" or path.read_text() == "x" * 9)


# -- a resumed run is the same run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["stratify", "online"])
def test_a_borrowed_pre_training_is_remembered(phase, whole, tmp_path, monkeypatch):
    """An interrupted run goes on from the agent it was given, and not from a fresh one."""
    fields = {"offline__steps": 0, "stratify": "stratdiff", "stratify__cached_states": 20}
    fields |= {"stratify__behavior_steps": 20, "stratify__energy_steps": 20}
    unbroken = cfdg_jax.train(short(**fields), tmp_path / "whole", offline_from=whole.folder, progress=False)
    origin = read_origin(unbroken.folder).offline_from
    assert origin is not None and origin.folder == str(whole.folder)
    assert origin.agent == store.read_about(whole.folder / "checkpoints" / "offline_agent")[1]
    with stopped_in(phase, 10, monkeypatch), pytest.raises(Interrupted):
        cfdg_jax.train(short(**fields), tmp_path / "run", offline_from=whole.folder, progress=False)
    assert_same_run(unbroken, resume(tmp_path / "run"))


def test_another_pre_training_than_recorded_is_refused(whole, tmp_path):
    out, source = tmp_path / "run", tmp_path / "source"
    shutil.copytree(whole.folder, source)
    cfdg_jax.train(short(), out, offline_from=source, progress=False)
    other = cfdg_jax.train(short(offline__steps=20), tmp_path / "other", progress=False)
    with pytest.raises(UserError, match="--from-offline: cannot change on --resume"):
        cfdg_jax.train(resume=out, offline_from=other.folder, progress=False)
    for name in ("checkpoints", "samples.npz", "summary.json", "metrics.jsonl", "evaluations.jsonl"):  # begins anew
        shutil.rmtree(out / name) if name == "checkpoints" else (out / name).unlink()
    agent = source / "checkpoints" / "offline_agent"
    shutil.rmtree(agent)
    shutil.copytree(other.folder / "checkpoints" / "offline_agent", agent)
    with pytest.raises(UserError, match="is another pre-training"):
        resume(out)


def test_a_run_keeps_its_transforms_and_refuses_other_data(tmp_path):
    path = tmp_path / "data.hdf5"
    data = cfdg_jax.load_dataset(toy_config().dataset)
    with h5py.File(path, "w") as file:
        for name, values in data.arrays().items():
            file[name] = values[:2_000]
    config = cfdg_jax.make_config(
        path, "td3bc", preset="smoke", env__task="toy-dense", seeds=1, offline__steps=20, online__steps=0,
        evaluate__episodes=1, evaluate__offline_every=20, transform__observation="standardise",
    )  # fmt: skip
    run = cfdg_jax.train(config, tmp_path / "run", progress=False)
    obs = np.full((1, 1, 4), 0.3, np.float32)
    action, returns = run.policy()(obs), cfdg_jax.evaluate(run)["return"]
    with h5py.File(path, "a") as file:
        for name in ("observations", "next_observations"):
            file[name][...] = file[name][()] * 3 + 5
    changed = r"dataset: .* has changed since .*/run began: its rows have digest [0-9a-f]{16}, then [0-9a-f]{16}"
    for use in (resume, lambda folder: cfdg_jax.load_run(folder).restore()):
        with pytest.raises(UserError, match=changed):
            use(run.folder)
    path.unlink()
    again = cfdg_jax.load_run(run.folder)
    np.testing.assert_array_equal(again.policy()(obs), action)
    np.testing.assert_array_equal(cfdg_jax.evaluate(again)["return"], returns)


@pytest.mark.parametrize("damage", ["gone", "edited", "no json"])
def test_a_damaged_origin_is_one_line(copy, damage):
    path = copy / "origin.json"
    text = path.read_text()
    path.unlink()
    if damage != "gone":
        path.write_text(text.replace('"rows": 2', '"rows": 3') if damage == "edited" else text[:50])
    with pytest.raises(UserError, match=r"origin\.json: is (missing|not what the run wrote)"):
        resume(copy)


def test_another_number_of_cores_is_told(copy, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "cores", lambda: 99)
    resume(copy)
    assert "and goes on with 99; its numbers will differ by rounding" in capsys.readouterr().err


# -- one process per folder --------------------------------------------------------------------------------------------


def test_a_folder_in_use_is_refused(copy, tmp_path):
    with only_process(copy), pytest.raises(UserError, match=rf"is in use by another process \({os.getpid()}\)"):
        resume(copy)
    new = tmp_path / "new"
    new.mkdir()
    with only_process(new), pytest.raises(UserError, match="is in use by another process"):
        cfdg_jax.train(short(), new, progress=False)


def test_the_lock_goes_with_its_process(copy):
    hold = (
        f"import pathlib; from cfdg_jax.training.lock import only_process as o\nwith o(pathlib.Path({str(copy)!r})):\n"
    )
    code = hold + "    print('held', flush=True); import os; os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "held\n" and done.returncode == -9
    with only_process(copy):
        pass


def test_a_refused_run_leaves_no_folder_behind(tmp_path):
    with pytest.raises(UserError, match="return_range"):
        cfdg_jax.train(
            cfdg_jax.make_config("", "sac", preset="smoke", env__task="toy-dense", transform__reward="return_range"),
            tmp_path / "deep" / "run",
            progress=False,
        )
    assert list(tmp_path.iterdir()) == []


# -- small damaged files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"[1, 2", b"\xff\xfe", b"3", b'{"status": 5}'])
def test_a_damaged_summary_is_done_without(whole, copy, text):
    (copy / "summary.json").write_bytes(text)
    assert cfdg_jax.load_run(copy).policy()(np.zeros((1, 1, 4))).shape == (1, 1, 2)
    again = resume(copy)
    assert again.summary["status"] == "done"
    assert_same_run(whole, again)


def test_a_config_that_is_no_text_is_one_line(copy):
    (copy / "config.yaml").write_bytes(b"hash: \xff\xfe")
    with pytest.raises(UserError, match=r"config\.yaml: is not UTF-8 text"):
        resume(copy)


def test_a_run_of_another_version_is_refused_with_both(copy):
    summary = json.loads((copy / "summary.json").read_text())
    summary["versions"]["cfdg-jax"] = "9.9.9"
    (copy / "summary.json").write_text(json.dumps(summary))
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("run_key:", "key_of_run:"))
    with pytest.raises(UserError, match=r"was written by cfdg-jax 9\.9\.9, which this version \d+\.\d+\.\d+ cannot"):
        resume(copy)


def test_the_folders_name_does_not_matter(whole, tmp_path):
    folder = tmp_path / "lr=[3e-4,64]" / "a\\b"
    folder.parent.mkdir()
    shutil.copytree(whole.folder, folder)
    for a, b in zip(final_leaves(whole), final_leaves(resume(folder)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert lines(folder, "evaluations.jsonl") == lines(whole.folder, "evaluations.jsonl")
