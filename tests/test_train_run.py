"""Whole runs: what they write, that seeds are what they would be alone, that a broken seed stays alone."""

import dataclasses
import json
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import assert_same_run, final_leaves, hopper_config, lines, seed_alone, toy_config

import cfdg_jax
from cfdg_jax import cli
from cfdg_jax.augment.base import first_refresh
from cfdg_jax.config import named_choice, remarks
from cfdg_jax.core import ring
from cfdg_jax.dryrun import dry_run
from cfdg_jax.errors import UserError
from cfdg_jax.fields import override
from cfdg_jax.presets import make_config
from cfdg_jax.report.build import build_report
from cfdg_jax.report.runs import read_run
from cfdg_jax.training import memory, online, refresh
from cfdg_jax.training import run as run_module
from cfdg_jax.training.act import online_step
from cfdg_jax.training.build import load_program
from cfdg_jax.training.generate import generate, start_generator, synthetic_capacity, synthetic_rows
from cfdg_jax.training.learn import no_meters, offline_chunk, traced_update
from cfdg_jax.training.lock import only_process
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import init
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.types import Source

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    uneven = {"evaluate.offline_every": 30, "evaluate.online_every": 30}  # between two lines of the log
    return cfdg_jax.train(toy_config(**uneven), tmp_path_factory.mktemp("toy") / "run", progress=False)


@pytest.fixture(scope="module")
def hopper_run(tmp_path_factory):
    return cfdg_jax.train(hopper_config(), tmp_path_factory.mktemp("hopper") / "run", progress=False)


def test_run_folder_is_the_public_surface(toy_run):
    names = {path.name for path in toy_run.folder.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "evaluations.jsonl", "summary.json", "samples.npz", "checkpoints"} <= names
    metrics = lines(toy_run.folder, "metrics.jsonl")
    assert [m["step"] for m in metrics if m["phase"] == "offline"] == [20, 40, 60]
    assert [m["step"] for m in metrics if m["phase"] == "online"] == [20, 40, 60, 80, 100, 120]
    assert [m["step"] for m in metrics if m["phase"] == "refresh"] == [60]
    assert all(len(m["q"]) == 2 for m in metrics if m["phase"] == "offline")
    evaluations = lines(toy_run.folder, "evaluations.jsonl")
    assert [(e["phase"], e["step"]) for e in evaluations] == [
        *(("offline", step) for step in (0, 30, 60)),
        *(("online", step) for step in (0, 30, 60, 90, 120)),
    ]
    assert np.shape(evaluations[0]["return"]) == (2, 2) and evaluations[0]["normalized_score"] is None
    assert toy_run.summary["status"] == "done" and toy_run.summary["label"] == "IQL + CFDG"


def test_synthetic_rows_are_kept_labelled_and_used(toy_run):
    _, saved = toy_run.restore()
    sizes = {source: int(buffer.size) for source, buffer in saved.state.synthetic.items()}
    assert sizes == {Source.SYNTHETIC_ONLINE: 48, Source.SYNTHETIC_OFFLINE: 12}
    for source, buffer in saved.state.synthetic.items():
        rows = np.asarray(buffer.rows)[:, : sizes[source]]
        assert (rows[..., -1] == source).all() and np.isneginf(rows[..., -2]).all()
        assert set(np.unique(rows[..., -3]).tolist()) <= {0.0, 1.0}
        assert np.abs(rows[..., 4:6]).max() <= 1.0


@pytest.mark.parametrize(("capacity", "kept"), [(60, [(2, 60)]), (90, [(1, 30), (2, 60)]), (200, [(1, 60), (2, 60)])])
def test_generated_rows_gather_until_the_ring_is_full(capacity, kept, tmp_path, monkeypatch):
    """Two refreshes of 60 rows, whose rewards say which of them made a row."""
    made = []

    def numbered(program, generator, keys, source, rows):
        new, metrics = generate(program, generator, keys, source, rows)
        made.append(source)
        return new.at[..., program.spec.layout.reward].set(1 + (len(made) - 1) // 3), metrics  # in three chunks

    monkeypatch.setattr(refresh, "generate", numbered)
    config = toy_config(refresh__every=40, refresh__capacity=capacity, offline__steps=20, evaluate__episodes=1)
    program, saved = cfdg_jax.train(config, tmp_path / "run", progress=False).restore()
    held = {source: np.asarray(b.rows)[:, : int(b.size)] for source, b in saved.state.synthetic.items()}
    assert {source: b.rows.shape[1] for source, b in saved.state.synthetic.items()} == synthetic_capacity(program)
    rewards = np.concatenate([rows[0, :, program.spec.layout.reward] for rows in held.values()])
    assert sorted(dict(zip(*np.unique(rewards, return_counts=True), strict=True)).items()) == kept
    for source, buffer in saved.state.synthetic.items():
        newest = np.asarray(ring.newest(buffer, synthetic_rows(program)[source]))
        assert (newest[..., program.spec.layout.reward] == 2).all()


def test_online_ring_wrapped_around_and_holds_transitions(toy_run):
    program, saved = toy_run.restore()
    assert int(saved.state.online.size) == 100 and int(saved.state.online.position) == 20
    batch = program.spec.layout.unpack(saved.state.online.rows)
    assert (np.asarray(batch.source) == Source.ONLINE).all()
    order = (20 + np.arange(100)) % 100
    obs, next_obs = np.asarray(batch.obs)[:, order], np.asarray(batch.next_obs)[:, order]
    follows = np.isclose(obs[:, 1:], next_obs[:, :-1]).all(axis=-1)
    assert follows.mean() > 0.95, "inside an episode a row continues the row before it"


def test_seed_i_of_a_run_equals_the_single_run_of_seed_i(toy_run, tmp_path):
    alone = cfdg_jax.train(seed_alone(toy_run.config, 1), tmp_path / "alone", progress=False)
    for many, one in zip(lines(toy_run.folder, "metrics.jsonl"), lines(alone.folder, "metrics.jsonl"), strict=True):
        for name in set(many) - {"phase", "step"}:
            a, b = many[name][1], one[name][0]
            assert (a is None) == (b is None)
            if a is not None:
                assert a == pytest.approx(b, rel=2e-3, abs=2e-4), (name, many["phase"], many["step"])


def test_seeds_differ_from_step_zero(toy_run):
    first = lines(toy_run.folder, "evaluations.jsonl")[0]["return"]
    assert first[0] != first[1]


def test_mujoco_seed_alone_and_many_agree(hopper_run, tmp_path):
    alone = cfdg_jax.train(seed_alone(hopper_run.config, 1), tmp_path / "alone", progress=False)
    many, one = lines(hopper_run.folder, "metrics.jsonl"), lines(alone.folder, "metrics.jsonl")
    assert [m["episodes"][1] for m in many[:2]] == [m["episodes"][0] for m in one[:2]]
    assert many[0]["episode_return"][1] == pytest.approx(one[0]["episode_return"][0], rel=1e-6)


def test_seeds_may_be_taken_at_once_instead_of_one_after_the_other(toy_run, tmp_path):
    config = dataclasses.replace(toy_run.config, seed_axis="vmap")
    at_once = cfdg_jax.train(config, tmp_path / "vmap", progress=False)
    many, other = lines(toy_run.folder, "metrics.jsonl"), lines(at_once.folder, "metrics.jsonl")
    np.testing.assert_allclose(many[0]["q"], other[0]["q"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_a_cpu_takes_seeds_in_turn_where_each_is_updated_several_times(platform, monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: platform)
    program = load_program(toy_config(seeds=3, online__utd=1), Progress(False), Stopwatch())
    assert program.config.offline.updates_per_call not in (1, 3)
    loops = lambda phase: [it.params.get("length") for it in traced_update(program, phase)[0].eqns]
    assert [3 in loops(phase) for phase in ("offline", "online")] == [platform == "cpu", False]


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({}, 60),
        ({"online.steps": 60}, None),
        ({"online.steps": 60, "refresh.last": True}, 60),
        ({"refresh.min_online": 61}, None),
        ({"refresh.every": 20}, 40),
        ({"mix.batch_size": 101}, None),
        ({"mix.batch_size": 101, "online.capacity": 200, "refresh.every": 110}, 110),
    ],
)
def test_the_first_refresh_waits_for_a_batch_of_online_rows(fields, first):
    assert first_refresh(override(toy_config(), fields)) == first


def test_a_generator_that_is_never_refreshed_is_told(tmp_path, capsys):
    config = toy_config(refresh__every=500, offline__steps=0, online__steps=50)
    run = cfdg_jax.train(config, tmp_path / "run", progress=True)
    assert "no refresh comes before the end" in capsys.readouterr().err
    assert any("cfdg never generated a row" in note for note in read_run(run.folder).notes)


def test_marks_that_nobody_reads_and_borrowed_rows_are_told(tmp_path, capsys):
    config = toy_config(agent="sac", augment="none", stratify="by_source", offline__steps=0)
    assert "marks change nothing" in " ".join(remarks(config))
    tiny = override(
        config, {"online.steps": 60, "evaluate.episodes": 1}
    )  # one seed diverges at level 0: see conftest.py
    cfdg_jax.train(tiny, tmp_path / "run", progress=True)
    told = capsys.readouterr().err
    assert "marks change nothing" in told and f"batches mix {config.dataset}" in told
    assert list(remarks(toy_config(agent="iql", augment="none", stratify="by_source"))) == []
    assert not any("no pre-training" in remark for remark in remarks(toy_config(agent="sac")))


@pytest.mark.parametrize(
    ("choices", "changes", "told"),
    [
        ({}, {"online.start_steps": 120}, "no update is made online, since online.start_steps is 120"),
        ({}, {"mix.synthetic_share": 0.0}, "generated rows are in no batch"),
        ({"agent": "pex", "augment": "none"}, {"offline.steps": 0}, "the offline policy is a random one"),
        ({}, {"transform.failure_rule": "last"}, "failure_rule changes nothing without transform.failure_reward"),
    ],
)
def test_what_never_happens_is_told(choices, changes, told):
    config = toy_config(**choices)
    assert not any(told in remark for remark in remarks(config))
    assert any(told in remark for remark in remarks(override(config, changes)))


def test_a_rule_has_no_field_that_changes_nothing():
    with pytest.raises(UserError, match=r"mix\.offline_share: is no config field"):
        override(toy_config(mix="oorb"), {"mix.offline_share": 0.25})


def test_a_mixing_rule_without_a_dataset_is_told():
    of = lambda kind: make_config("", "sac", mix=kind, preset="smoke", env__task="toy-dense")
    assert any("this mix changes nothing" in remark for remark in remarks(of("uniform")))
    assert not list(remarks(of("balanced")))


def test_warnings_are_told_without_bars_too(tmp_path, capsys):
    config = toy_config(augment="none", offline__steps=0, online__steps=10, evaluate__episodes=1)
    cfdg_jax.train(config, tmp_path / "run", progress=False)
    told = capsys.readouterr().err
    assert "no update is made online" in told and "memory plan" not in told


def test_every_label_gets_a_row(toy_run):
    config = override(toy_config(), {"refresh.rows": 2, "augment.online_share": 0.999})
    program = load_program(config, Progress(False), Stopwatch())
    assert synthetic_rows(program) == {Source.SYNTHETIC_ONLINE: 1, Source.SYNTHETIC_OFFLINE: 1}
    one = dataclasses.replace(program, config=override(config, {"refresh.rows": 1}))
    with pytest.raises(UserError, match=r"refresh\.rows: is 1; must be at least 2"):
        synthetic_rows(one)


def test_log_density_is_that_of_the_last_generator(toy_run):
    """Its own rows are likelier than the same rows with noise."""
    pytest.importorskip("diffrax", reason="the extra `likelihood` is not installed")
    _, saved = toy_run.restore()
    rows = np.asarray(saved.state.synthetic[Source.SYNTHETIC_ONLINE].rows[1, :48])
    noisy = rows + np.float32(2.0) * np.random.default_rng(0).standard_normal(rows.shape, np.float32)
    options = {"probes": 1, "key": jax.random.key(0), "tolerance": 1e-2}
    own, other = (toy_run.log_density(x, seed=1, **options) for x in (rows, noisy))
    assert own.shape == (len(rows),) and np.isfinite(own).all() and own.mean() > other.mean()
    with pytest.raises(UserError, match="seed: is 2; must lie between 0 and 1"):
        toy_run.log_density(rows, seed=2)
    with pytest.raises(UserError, match=r"source: is 0; valid for this run: SYNTHETIC_ONLINE"):
        toy_run.log_density(rows, source=0)


def test_nan_in_one_seed_leaves_the_others_untouched_and_is_reported(toy_run, tmp_path, monkeypatch, capsys):
    go_online = run_module.go_online

    def poisoned(program, state):
        state = go_online(program, state)
        break_first = lambda x: x.at[0].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x
        return state._replace(agent=jax.tree.map(break_first, state.agent))

    summarise, told = run_module.summarise, []

    def watched(session, status, *error):
        told.append((status, dict(session.failed)))
        summarise(session, status, *error)

    monkeypatch.setattr(run_module, "go_online", poisoned)
    monkeypatch.setattr(run_module, "summarise", watched)
    broken = cfdg_jax.train(toy_run.config, tmp_path / "nan", progress=True)
    assert broken.summary["failed_seeds"] == {"0": ["online", 20]}
    lost = {"0": ("online", 20)}
    assert told == [("running", {}), ("running", lost), ("done", lost)], "a run killed from here on has said so"
    assert "seed 0: parameters are not finite (online, step 20)" in capsys.readouterr().err
    scores = cfdg_jax.evaluate(broken, episodes=1)
    assert np.isnan(scores["return"]).tolist() == np.isnan(scores["success"]).tolist() == [[True], [False]]
    for healthy, other in zip(final_leaves(toy_run), final_leaves(broken), strict=True):
        if healthy.ndim and healthy.shape[0] == 2:
            np.testing.assert_array_equal(healthy[1], other[1])


def test_a_run_may_start_from_another_runs_pre_training(toy_run, tmp_path):
    again = cfdg_jax.train(toy_run.config, tmp_path / "again", offline_from=toy_run.folder, progress=False)
    offline = lambda folder: [e for e in lines(folder, "evaluations.jsonl") if e["phase"] == "offline"]
    assert offline(again.folder) == offline(toy_run.folder)
    for a, b in zip(final_leaves(toy_run), final_leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="holds no finished pre-training"):
        cfdg_jax.train(toy_config(), tmp_path / "none", offline_from=tmp_path, progress=False)
    for changes in (
        {"dataset": "local:toy-sparse-medium-replay-v0"}, {"transform.observation": "standardise"}, {"first_seed": 4}
    ):  # fmt: skip
        (name,) = changes
        with pytest.raises(UserError, match=f"^{re.escape(name)}: .* was pre-trained with"):
            config = override(toy_run.config, changes)
            cfdg_jax.train(config, tmp_path / "other", offline_from=toy_run.folder, progress=False)
    with pytest.raises(UserError, match=r"^seeds: is 3, and .* pre-trained 2; use as many"):
        cfdg_jax.train(override(toy_run.config, {"seeds": 3}), tmp_path / "other", offline_from=toy_run.folder)
    assert not (tmp_path / "other").exists(), "refused before anything is written"


def test_evaluation_right_before_and_right_after_the_hand_over_is_the_same(toy_run):
    """IQL's policy is the same, and so are the starts; PEX's evaluation policy is another from there on."""
    evaluations = lines(toy_run.folder, "evaluations.jsonl")
    (before,) = (e for e in evaluations if (e["phase"], e["step"]) == ("offline", toy_run.config.offline.steps))
    after = [e for e in evaluations if e["phase"] == "online"]
    assert after[0]["step"] == 0 and after[0]["return"] == before["return"] and after[0]["length"] == before["length"]
    assert after[1]["return"] != before["return"] != evaluations[0]["return"]


def test_a_run_from_scratch_has_the_rewards_it_asks_for(tmp_path):
    config = make_config("", "sac", preset="smoke", env__task="toy-dense", seeds=1)
    config = override(config, {"online.steps": 40, "online.start_steps": 40, "online.random_steps": 30})
    rewards = {}
    for kind in ("raw", "scale_bias"):
        run = cfdg_jax.train(override(config, {"transform.reward": kind}), tmp_path / kind, progress=False)
        program, saved = run.restore()
        rewards[kind] = np.asarray(saved.state.online.rows[0, :30, program.spec.layout.reward])
    np.testing.assert_allclose(rewards["scale_bias"], 10 * rewards["raw"] - 5, rtol=1e-5, atol=1e-5)
    for field, value in (("transform.reward", "return_range"), ("transform.observation", "standardise")):
        with pytest.raises(UserError, match=f"^{re.escape(field)}: is {value}, which is fitted on a dataset"):
            cfdg_jax.train(override(config, {field: value}), tmp_path / "refused", progress=False)


def test_load_run_evaluate_policy_and_report(toy_run):
    run = cfdg_jax.load_run(toy_run.folder)
    assert run.config == toy_run.config
    result = cfdg_jax.evaluate(run, episodes=3)
    assert result["return"].shape == (2, 3)
    action = run.policy()(np.zeros((2, 4, 4), np.float32))
    assert action.shape == (2, 4, 2) and np.abs(action).max() <= 1
    page = build_report([toy_run.folder], toy_run.folder / "report")
    assert "IQL + CFDG" in page.read_text(encoding="utf-8")


def test_two_equal_configs_give_the_same_numbers(hopper_run, tmp_path):
    assert_same_run(hopper_run, cfdg_jax.train(hopper_config(), tmp_path / "again", progress=False))


def test_update_blocks_make_the_same_number_of_updates(tmp_path):
    config = toy_config(augment="none", online__update_every=30, online__utd=2, offline__steps=20)
    run = cfdg_jax.train(config, tmp_path / "blocks", progress=False)
    _, saved = run.restore()
    blocks = [t for t in range(30, 121, 30) if t >= 40]
    assert int(saved.state.step) == len(blocks) * 60
    assert online.BLOCK_UPDATES >= 60


def test_no_retrace_after_the_second_step_and_no_copy_of_the_ring():
    from cfdg_jax.bench.programs import program_of

    program = program_of("hopper", 5, 1_000, {"online.capacity": 1_000_000, "agent.hidden": (32, 32)})
    counts = program.mix.counts({}, 1_000)
    packet = np.zeros((5, Packet.width(program.spec)), np.float32)
    shapes = jax.eval_shape(lambda: init(program, "online"))
    arguments = (shapes, no_meters(program, "online"), packet, np.int32(1), program.offline_rows, counts, False)
    compiled = online_step.of(program).lower(*arguments).compile()
    ring = 5 * 1_000_000 * 29 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 64e6 < ring

    small = program_of("hopper", 2, 1_000, {"online.capacity": 500, "agent.hidden": (32, 32)})
    state, meters = init(small, "online"), no_meters(small, "online")
    for t in range(1, 5):
        state, meters, action = online_step(
            small, state, meters, packet[:2], np.int32(t), small.offline_rows, counts, False
        )
    assert online_step.of(small)._cache_size() == 1
    assert action.shape == (2, 3)


def test_offline_rows_are_held_once_whatever_the_seeds():
    from cfdg_jax.bench.programs import program_of

    sizes = {}
    for seeds in (1, 5):
        program = program_of("hopper", seeds, 50_000, {"agent.hidden": (32, 32), "offline.updates_per_call": 10})
        shapes = jax.eval_shape(lambda program=program: init(program, "offline"))
        lowered = offline_chunk.of(program).lower(
            shapes, no_meters(program, "offline"), program.offline_rows, updates=10
        )
        memory = lowered.compile().memory_analysis()
        sizes[seeds] = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    assert sizes[5] - sizes[1] < 50_000 * 29 * 4


def test_summary_is_valid_json_with_versions(toy_run):
    summary = json.loads((toy_run.folder / "summary.json").read_text())
    assert summary["versions"]["jax"] == jax.__version__ and "offline" in summary["seconds"]


@pytest.mark.parametrize(("field", "name"), [("augment", "cfdg"), ("stratify", "stratdiff")])
def test_what_learns_from_offline_rows_is_refused_without_them_before_the_run(tmp_path, field, name):
    with pytest.raises(UserError, match=f"{field}.*offline"):
        cfdg_jax.train(
            dataclasses.replace(hopper_config(), **{field: named_choice(field, name)}), tmp_path / "run", progress=False
        )
    assert not (tmp_path / "run").exists()


def test_a_refresh_needs_the_memory_of_a_chunk_beside_the_rings():
    from cfdg_jax.bench.programs import program_of

    small = {"augment.width": 32, "augment.sampler_steps": 3, "refresh.rows": 1_000_000, "refresh.chunk": 5_000}
    small |= {"refresh.capacity": 1_000_000}
    program = program_of("hopper", 2, 1_000, small)
    state = jax.eval_shape(lambda: init(program, "online"))
    generator = jax.eval_shape(start_generator.of(program), state.online, state.key, program.offline_rows)
    source, rows = next(iter(synthetic_rows(program).items()))
    generated = generate.of(program).lower(generator, state.key, source, program.config.refresh.chunk).compile()
    chunk = 2 * program.config.refresh.chunk * program.spec.layout.width * 4
    assert generated.memory_analysis().temp_size_in_bytes < 40 * chunk  # activations of the network
    ring = jax.ShapeDtypeStruct((2, rows, program.spec.layout.width), np.float32)
    new = jax.ShapeDtypeStruct((2, program.config.refresh.chunk, program.spec.layout.width), np.float32)
    written = refresh.write.lower(ring, new, np.int32(0)).compile().memory_analysis()
    assert written.temp_size_in_bytes < chunk
    assert written.alias_size_in_bytes == 2 * rows * program.spec.layout.width * 4  # in place


def test_a_plan_that_does_not_fit_says_how_many_seeds_would(monkeypatch, tmp_path):
    """With half of the memory half of the seeds fit, next to what all share; one alone cannot be parted."""
    sizes = {}
    for seeds in (1, 6):
        program = load_program(toy_config(seeds=seeds), Progress(False), Stopwatch())
        sizes[seeds] = sum(memory.memory_plan(program, Progress(False)).values())
    monkeypatch.setattr(memory, "available_mb", lambda: (sizes[1] + sizes[6]) / 2 / 0.9)
    with pytest.raises(UserError, match=r"groups of 3 seeds, which a new cfdg-jax train .* makes; or fewer"):
        cfdg_jax.train(toy_config(seeds=6), tmp_path / "run", progress=False)
    monkeypatch.setattr(memory, "available_mb", lambda: sizes[1] / 2)
    with pytest.raises(UserError, match=r"memory: the plan needs [^;]*; use (?!.*--seeds)(?!.*--vmap).* more memory"):
        cfdg_jax.train(toy_config(seeds=1), tmp_path / "run", progress=False)


def test_a_dry_run_from_a_pre_training_makes_none_and_refuses_what_the_run_would(toy_run):
    said = dict(line.split(maxsplit=1) for line in dry_run(toy_config(), toy_run.folder, toy_run.folder).splitlines())
    assert said["pre-training"] == f"that of {toy_run.folder}" and said["online"].startswith("120 environment steps")
    for fields, told in (
        ({"first_seed": 5}, "first_seed: is 5"),
        ({"agent__hidden": (8,)}, "does not fit this config"),
        ({"agent": "td3bc"}, "agent: is td3bc, and .* pre-trained iql; use an agent that goes on from it"),
    ):
        with pytest.raises(UserError, match=told):
            dry_run(toy_config(**fields), toy_run.folder, toy_run.folder)


def test_the_first_updates_are_told_once(toy_run, tmp_path, capsys):
    cfdg_jax.train(toy_run.config, tmp_path / "run", progress=True)
    assert len(re.findall(r"^first updates after \d+\.\d s$", capsys.readouterr().err, re.MULTILINE)) == 1


def test_a_dry_run_of_a_killed_run_says_so_and_what_is_kept(toy_run, tmp_path):
    folder = shutil.copytree(toy_run.folder, tmp_path / "run")
    started = toy_run.summary | {"status": "running", "phase": "offline", "step": 0}  # a killed run's is of its start
    (folder / "summary.json").write_text(json.dumps(started))
    dead = dry_run(toy_run.config, folder)
    shutil.rmtree(folder / "checkpoints")
    with only_process(folder):
        alive = dry_run(toy_run.config, folder)
    assert "so far        killed; kept: the checkpoint at online step 120; all else is of the whole run" in dead
    assert "so far        running; kept: nothing yet; " in alive


def test_a_second_signal_says_what_is_kept_and_how_to_go_on(toy_run, tmp_path, capsys, monkeypatch):
    new = tmp_path / "new run"
    twice = lambda *_: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
    for name in ("_continued", "_new"):
        monkeypatch.setattr(run_module, name, twice)
    assert cli.main(["train", "--resume", str(toy_run.folder)]) == 130
    resume = f"continue with: cfdg-jax train --resume {toy_run.folder}"
    told = f"interrupted; kept of {toy_run.folder}: the checkpoint at online step 120; {resume}"
    assert capsys.readouterr().err.splitlines()[-1] == told
    assert cli.main(["train", "--preset", "smoke", "--out", str(new)]) == 130
    told = f"interrupted; kept of {new}: nothing yet; run the same command again"
    assert capsys.readouterr().err.splitlines()[-1] == told and not new.exists()
    grid_like = lambda *_, **__: run_module.train(toy_run.config, new)  # as a sweep calls it
    monkeypatch.setattr("cfdg_jax.sweep.sweep", grid_like)
    (tmp_path / "one.yaml").write_text("runs:\n- {agent: iql}\n")
    assert cli.main(["sweep", str(tmp_path / "one.yaml")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"{told} to continue"
