"""A generator pre-trained once for all seeds: found again, continued, and what refreshes make of it."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from train_helpers import WALL_CLOCK, assert_same_run, lines, toy_config

import cfdg_jax
from cfdg_jax import cli, upsample
from cfdg_jax.augment.registry import make_augmenter
from cfdg_jax.core import ring
from cfdg_jax.errors import UserError
from cfdg_jax.training import checkpoint, once
from cfdg_jax.training.build import load_program
from cfdg_jax.training.generate import fit_generator, scores_of
from cfdg_jax.training.prepare import init
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.training.refresh import beginning
from cfdg_jax.training.stopwatch import Stopwatch

pytestmark = pytest.mark.usefixtures("generators_are_shallow")

SHORT = {"offline__steps": 0, "online__steps": 110, "refresh__every": 40, "augment__pretrain_steps": 25}
WHOLE_CALLS = SHORT | {"augment__pretrain_steps": 20}  # one program less to compile


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data folder without generators."""
    known = cfdg_jax.data.files.cache_dir()
    (tmp_path / "data").mkdir()
    if (known / "local").is_dir():
        (tmp_path / "data" / "local").symlink_to(known / "local")
    monkeypatch.setenv("CFDG_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "generators"


def pretrained(config):
    program = load_program(config, Progress(False), Stopwatch())
    return program, once.pretrained(program, Progress(False), Interrupts())


def fit_alone(program):
    """The pre-training as plain calls of the augmenter's functions."""
    before, rows = program.augmenter.pretraining, program.offline_rows
    key = once.purpose_key(jax.random.key(program.config.run_key), "generator")
    state = jax.jit(before.init)(once.purpose_key(key, "init"), rows, ring.full(rows))
    fit = jax.jit(before.fit, static_argnames="steps")
    for start in (0, 10):
        state, _ = fit(state, rows, ring.full(rows), once.purpose_key(key, "fit", start), steps=10)
    return state


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("augment", ["cfdg", "synther", "edis"])
def test_it_is_the_fit_on_the_offline_rows_and_every_seed_begins_with_it(augment, folder):
    program, found = pretrained(toy_config(augment, **WHOLE_CALLS))
    assert same(found.generator, fit_alone(program))
    state = ready(program)
    begun = beginning(program, state, found.generator, state.key)
    rows = getattr(begun, "rows", begun)
    single = getattr(found.generator, "rows", found.generator)
    for kept, seeds in zip(jax.tree.leaves(single.denoiser.ema), jax.tree.leaves(rows.denoiser.params), strict=True):
        assert all(np.array_equal(kept, seed) for seed in seeds)


@pytest.mark.parametrize(("condition", "share"), [("surprise", 1.0), ("advantage", 0.0)])
def test_of_a_condition_is_told_what_needs_no_agent(condition, share, folder):
    program, found = pretrained(toy_config(augment__condition=condition, **WHOLE_CALLS))
    np.testing.assert_array_equal(found.metrics["told"], share)
    state, rows = ready(program), program.offline_rows
    generator = beginning(program, state, found.generator, state.key)
    scores = scores_of(program, state, rows, state.key)
    metrics = fit_generator(program, generator, state.online, rows, state.key, steps=2, scores=scores)[1]
    np.testing.assert_array_equal(metrics["told"], 1.0)


def ready(program):
    state = init(program, "online")
    spread = np.asarray(program.offline_rows)[np.arange(2 * 40).reshape(2, 40)]
    full = jax.numpy.zeros_like(state.online.rows).at[:, :40].set(spread)
    held = jax.numpy.int32(40)
    return state._replace(online=state.online._replace(rows=full, position=held, size=held))


def test_a_second_run_finds_it_and_logs_the_same_lines(folder, tmp_path, programs_are_shared):
    runs = [cfdg_jax.train(toy_config(**SHORT), tmp_path / name, progress=False) for name in "ab"]
    (kept,) = folder.iterdir()
    logged = [[line for line in lines(run.folder, "metrics.jsonl") if line["phase"] == "generator"] for run in runs]
    assert [line["step"] for line in logged[0]] == [10, 20, 25] and np.isfinite(logged[0][0]["loss"]).all()
    for line in logged[0] + logged[1]:
        for name in WALL_CLOCK & set(line):
            del line[name]
    assert logged[0] == logged[1]
    assert_same_run(*runs)
    shutil.rmtree(kept)
    assert_same_run(runs[0], cfdg_jax.train(toy_config(**SHORT), tmp_path / "c", progress=False))


def test_what_it_does_not_ask_shares_it_and_what_it_does_makes_another():
    program = load_program(toy_config(**SHORT), Progress(False), Stopwatch())

    def name(run_key=0, **fields):
        augment = dataclasses.replace(program.config.augment, **fields)
        config = dataclasses.replace(program.config, augment=augment, run_key=run_key)
        made = dataclasses.replace(program, config=config, augmenter=make_augmenter(augment, program.spec))
        return once.identity(once.before_online(made))

    first = name()
    for fields in ({"w": 2.0, "online_share": 0.5, "sampler_steps": 4}, {"steps": 7}):
        assert name(**fields) == first
    others = [{"lr": 1e-3}, {"pretrain_steps": 15}, {"p_uncond": 0.3}, {"run_key": 1}]
    assert len({first, *(name(**fields) for fields in others)}) == 5


@pytest.mark.parametrize("lost", [False, True])
def test_interrupted_it_continues_bit_identically(lost, folder, tmp_path, monkeypatch, programs_are_shared):
    whole = cfdg_jax.train(toy_config(**SHORT), tmp_path / "whole", progress=False)
    shutil.rmtree(folder)
    save, made = checkpoint.Kept.save, []

    def save_and_interrupt(self, tree, now=False):
        save(self, tree, now)
        made.append(int(tree.done))
        if len(made) == 2:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Kept, "save", save_and_interrupt)
        with pytest.raises(Interrupted):
            cfdg_jax.train(whole.config, tmp_path / "run", progress=False)
    assert made[:2] == [10, 20] and cfdg_jax.load_run(tmp_path / "run").summary["status"] == "interrupted"
    if lost:
        shutil.rmtree(folder)
    begun, fit_on = [], once.fit_on
    monkeypatch.setattr(once, "fit_on", lambda fit, gen, done, bar: begun.append(done) or fit_on(fit, gen, done, bar))
    told = []
    monkeypatch.setattr(Progress, "say", lambda self, text: told.append(text))
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "run", progress=False))
    assert begun == [0 if lost else 20]
    said = [line for line in told if line.startswith("generator: ")]
    assert said == ([] if lost else ["generator: continues at step 20 of 25"])


def test_a_fit_that_leaves_the_finite_numbers_is_told(folder):
    config = toy_config(**SHORT)
    with pytest.raises(FloatingPointError, match=r"lower --augment\.lr"):
        pretrained(dataclasses.replace(config, augment=dataclasses.replace(config.augment, lr=1e30)))


def test_an_axis_may_not_change_it(folder):
    refused = toy_config(vmap={"augment.lr": (1e-3, 2e-3)}, **SHORT)
    with pytest.raises(UserError, match=r"augment\.lr: .*one training gives to all seeds \(generator\)"):
        load_program(refused, Progress(False), Stopwatch())
    load_program(toy_config(vmap={"augment.w": (0.1, 0.3)}, **SHORT), Progress(False), Stopwatch())


def test_without_a_dataset_it_is_refused(tmp_path, capsys):
    command = [
        "train",
        "--preset",
        "smoke",
        "--dataset",
        "",
        "--env.task",
        "toy-dense",
        "--agent",
        "sac",
        "--augment",
        "synther",
    ]
    assert cli.main([*command, "--augment.pretrain_steps", "10", "--out", str(tmp_path / "x")]) == 2
    assert "augment.pretrain_steps: is 10 and there is no dataset; use 0" in capsys.readouterr().err


def test_sample_makes_the_steps_of_both_in_one_fit(tmp_path):
    config = upsample.job_config("local:toy-dense-medium-replay-v0", "synther", None, "smoke", {})
    job = upsample.prepare(config, None, 10, tmp_path / "more.hdf5", Progress(False))
    assert job.augmenter.fit_steps == config.augment.pretrain_steps + config.augment.steps == 200
    assert job.augmenter.pretraining is None
