"""Stopping and continuing: SIGKILL, SIGINT, SIGTERM, half-written checkpoints, changed configs, full disks."""

import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
from train_helpers import assert_same_run, final_leaves, hopper_config, interrupted_at, stopped_in, toy_config

import cfdg_jax
from cfdg_jax import cli, process
from cfdg_jax.commands import train as train_command
from cfdg_jax.errors import UserError
from cfdg_jax.training import checkpoint, refresh, store
from cfdg_jax.training.progress import Interrupted

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import conftest, train_helpers, cfdg_jax
from cfdg_jax.training.progress import Interrupted
try:
    if {resume}:
        cfdg_jax.train(resume={out!r}, progress=False)
    else:
        cfdg_jax.train(train_helpers.{kind}_config(**{values}), {out!r}, progress=False)
except Interrupted:
    sys.exit(130)
"""


def start(kind, out, resume=False, **values):
    code = SCRIPT.format(tests=str(ROOT / "tests"), kind=kind, out=str(out), resume=resume, values=values)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def wait_for_checkpoint(out, process, number=0):
    deadline = time.time() + 240
    while not (out / "checkpoints" / str(number)).is_dir():
        assert process.poll() is None and time.time() < deadline, "no checkpoint in time"
        time.sleep(0.01)


@pytest.fixture(scope="module", params=["toy", "hopper"])
def uninterrupted(request, tmp_path_factory):
    config = {"toy": toy_config, "hopper": hopper_config}[request.param]()
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, cfdg_jax.train(config, folder, progress=False)


def test_killed_anywhere_and_resumed_is_bit_identical(uninterrupted, tmp_path):
    kind, whole = uninterrupted
    out, luck = tmp_path / "killed", random.Random(7)
    process = start(kind, out)
    wait_for_checkpoint(out, process, 2 if kind == "toy" else 1)  # the end of pre-training, or online
    time.sleep(luck.uniform(0.0, 0.5))
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = cfdg_jax.train(resume=out, progress=False)
    assert_same_run(whole, resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_write_a_checkpoint_and_exit_130(tmp_path, number):
    out = tmp_path / "stopped"
    endless = {"online__steps": 1_000_000, "augment": "none"}
    process = start("toy", out, **endless)
    wait_for_checkpoint(out, process)
    process.send_signal(number)
    assert process.wait(timeout=240) == 130
    run = cfdg_jax.load_run(out)
    assert run.summary["status"] == "interrupted"
    _, saved = run.restore()
    assert [saved.record.phase, saved.record.step] == [run.summary["phase"], run.summary["step"]]


def test_interrupted_between_events_resumes_bit_identically(uninterrupted, tmp_path, monkeypatch):
    _, whole = uninterrupted
    with interrupted_at(3, monkeypatch), pytest.raises(Interrupted):
        cfdg_jax.train(whole.config, tmp_path / "run", progress=False)
    run = cfdg_jax.load_run(tmp_path / "run")
    assert run.summary["status"] == "interrupted"
    assert_same_run(whole, cfdg_jax.train(resume=run.folder, progress=False))


@pytest.fixture(scope="module")
def refreshed(tmp_path_factory):
    """By steps of pre-training, a run with several refreshes."""
    folder = tmp_path_factory.mktemp("refreshed")
    configs = {steps: toy_config(augment__pretrain_steps=steps, refresh__every=30) for steps in (0, 20)}
    return {steps: cfdg_jax.train(config, folder / str(steps), progress=False) for steps, config in configs.items()}


@pytest.mark.parametrize(
    ("dispatch", "pretrain_steps", "lost"), [(1, 0, False), (4, 0, False), (6, 20, False), (4, 0, True)]
)
def test_a_refresh_interrupted_after_any_dispatch_continues_bit_identically(
    dispatch, pretrain_steps, lost, refreshed, tmp_path, monkeypatch
):
    """In the fit, among the rows, in a second refresh that goes on; and anew where the kept half is lost."""
    whole = refreshed[pretrain_steps]
    config = whole.config
    save, made = checkpoint.Kept.save, []

    def save_and_interrupt(self, tree, now=False):
        save(self, tree, now)
        made.append(int(tree.fitted))
        if len(made) == dispatch:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Kept, "save", save_and_interrupt)
        with pytest.raises(Interrupted):
            cfdg_jax.train(config, tmp_path / "run", progress=False)
    (folder,) = (tmp_path / "run" / "checkpoints").glob("refresh-*")
    if lost:
        shutil.rmtree(folder)
    begun, advance = [], refresh.advance
    monkeypatch.setattr(refresh, "advance", lambda *args: begun.append(int(args[3].fitted)) or advance(*args))
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "run", progress=False))
    assert begun[0] == (0 if lost else made[-1])
    assert not folder.exists()


def test_a_half_written_checkpoint_is_never_picked_up(uninterrupted, tmp_path):
    _, whole = uninterrupted
    out = tmp_path / "copy"
    shutil.copytree(whole.folder, out)
    newest = max(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit())
    half = out / "checkpoints" / f"{newest + 1}{store.PARTIAL}"
    shutil.copytree(out / "checkpoints" / str(newest), half)
    (half / store.ARRAYS).rename(half / "elsewhere")
    run = cfdg_jax.load_run(out)
    for a, b in zip(final_leaves(whole), final_leaves(run), strict=True):
        np.testing.assert_array_equal(a, b)


def test_resuming_a_finished_run_changes_nothing(uninterrupted, tmp_path):
    _, whole = uninterrupted
    out = tmp_path / "copy"
    shutil.copytree(whole.folder, out)
    assert_same_run(whole, cfdg_jax.train(resume=out, progress=False))


def test_a_changed_config_is_refused(uninterrupted, tmp_path):
    _, whole = uninterrupted
    out = tmp_path / "copy"
    shutil.copytree(whole.folder, out)
    text = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(text.replace("run_key: 0", "run_key: 1"))
    with pytest.raises(UserError, match=r"config.yaml: was changed since the run began"):
        cfdg_jax.train(resume=out, progress=False)


def test_used_folders_and_missing_runs_are_refused(uninterrupted, tmp_path, capsys):
    _, whole = uninterrupted
    with pytest.raises(UserError, match="is not empty; continue it with --resume"):
        cfdg_jax.train(whole.config, whole.folder, progress=False)
    assert cli.main(["train", "--resume", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and "is no run folder" in error


def test_a_full_disk_is_one_line_and_keeps_what_was_complete(uninterrupted, tmp_path, monkeypatch, capsys):
    _, whole = uninterrupted
    room = iter([10**12, 10**12, 0])
    free = lambda folder: types.SimpleNamespace(free=next(room))
    with monkeypatch.context() as patch:
        patch.setattr(process, "setup", lambda *arguments: None)
        patch.setattr(train_command, "resolve", lambda preset, given: whole.config)
        patch.setattr(store.shutil, "disk_usage", free)
        assert cli.main(["train", "--quiet", "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and error.startswith("error: disk full while writing"), error
    summary = cfdg_jax.load_run(tmp_path / "run").summary
    assert summary["status"] == "failed" and summary["error"].startswith("OSError: [Errno 28] No space left on device")
    assert summary["command"] == shlex.join(sys.argv)
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "run", progress=False))


def test_a_write_that_fails_half_way_says_so(tmp_path):
    """A file-size limit stands for a disk that fills up while a checkpoint is written."""
    out = tmp_path / "full"
    code = (
        f"import sys, signal, resource; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "import conftest, jax, train_helpers, cfdg_jax.cli as c, cfdg_jax.process as p, cfdg_jax.commands.train as t\n"
        "jax.config.update('jax_enable_compilation_cache', False)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "p.setup, t.resolve = lambda *a: None, lambda *a: train_helpers.toy_config()\n"
        f"sys.exit(c.main(['train', '--quiet', '--out', {str(out)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 1, done.stderr
    assert any(line.startswith("error: disk full") for line in done.stderr.splitlines()), done.stderr
    assert (out / "config.yaml").is_file()


@pytest.fixture(scope="module")
def stratified(tmp_path_factory):
    """A run whose stratifier has everything that changes online: energy, cache, adaptive rho and guidance."""
    config = toy_config("none", "iql", "stratdiff", stratify__adaptive_rho=True, stratify__guided_supports=0.5)
    return cfdg_jax.train(config, tmp_path_factory.mktemp("stratified") / "run", progress=False)


@pytest.mark.parametrize(("phase", "step"), [("stratify", 80), ("online", 70)])
def test_interrupted_while_the_stratifier_learns_resumes_bit_identically(
    phase, step, stratified, tmp_path, monkeypatch
):
    whole, config = stratified, stratified.config
    with stopped_in(phase, step, monkeypatch) as asked, pytest.raises(Interrupted):
        cfdg_jax.train(config, tmp_path / "run", progress=False)
    run = cfdg_jax.load_run(tmp_path / "run")
    assert [run.summary["phase"], run.summary["step"], run.summary["status"]] == [phase, asked[0], "interrupted"]
    assert_same_run(whole, cfdg_jax.train(resume=run.folder, progress=False))


def test_a_shared_behaviour_model_is_the_same_for_all_seeds_and_the_energies_are_not(stratified):
    program, saved = stratified.restore()
    shared, own = saved.state.stratifier
    alone = jax.eval_shape(lambda: program.stratifier.init_shared(jax.random.key(0)))
    shapes = lambda tree: [leaf.shape for leaf in jax.tree.leaves(tree)]
    assert shapes(shared) == shapes(alone), "held once, however many seeds there are"
    energies = [np.asarray(leaf) for leaf in jax.tree.leaves(own.energy) if leaf.dtype == np.float32]
    assert not all(np.array_equal(leaf[0], leaf[1]) for leaf in energies)
