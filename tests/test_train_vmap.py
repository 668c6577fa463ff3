"""`--vmap`: every value of a field with every seed in one program, lane by lane what a run of that value is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import interrupted_at, lines, mean_difference, toy_config

from cfdg_jax import upsample
from cfdg_jax.axis import points, read_axis, words
from cfdg_jax.config import at_point
from cfdg_jax.core import ring
from cfdg_jax.errors import UserError
from cfdg_jax.fields import config_hash, from_yaml, to_dict, to_yaml
from cfdg_jax.training import lanes
from cfdg_jax.training.build import load_program
from cfdg_jax.training.generate import fit_generator, generate, start_generator
from cfdg_jax.training.learn import learn, no_meters, offline_chunk
from cfdg_jax.training.prepare import go_online, init, prepare_stratifier
from cfdg_jax.training.progress import Interrupted, Progress
from cfdg_jax.training.results import load_run
from cfdg_jax.training.run import train
from cfdg_jax.training.stopwatch import Stopwatch

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

CASES = {
    "agent": {"augment": "none", "vmap": {"agent.expectile": (0.6, 0.9), "agent.temperature": (1.0, 5.0)}},
    "generator": {"vmap": {"augment.w": (0.0, 2.0), "augment.p_uncond": (0.1, 0.4)}},
    "stratifier": {"augment": "none", "stratify": "stratdiff", "vmap": {"stratify.guidance": (0.0, 3.0)}},
    "mix": {"augment": "none", "mix": "oorb", "vmap": {"mix.p_online": (0.0, 1.0)}},
}


def outcome(config):
    """What a run's programs make, without its environments: agents, stratifiers, generated rows, metrics."""
    program = load_program(config, Progress(False), Stopwatch())
    rows, lanes = program.offline_rows[:60], len(config.lanes)
    state, meters = offline_chunk(program, init(program, "offline"), no_meters(program, "offline"), rows, updates=3)
    for stage in program.stratifier.stages:
        stratifier, _ = prepare_stratifier(program, state, rows, jnp.asarray(0), stage, 2)
        state = state._replace(stratifier=stratifier)
    state = go_online(program, state)._replace(online=ring.full(jnp.tile(rows[None, :100], (lanes, 1, 1))))
    made = {}
    if program.augmenter.shares:
        generator = start_generator(program, state.online, state.key, rows)
        generator, _ = fit_generator(program, generator, state.online, rows, state.key, steps=5)
        made = {source: generate(program, generator, state.key, source, 20)[0] for source in program.augmenter.shares}
        state = state._replace(synthetic={source: ring.full(each) for source, each in made.items()})
    made_rows = {source: np.array(each)[..., : program.spec.layout.terminal] for source, each in made.items()}
    counts = program.mix.counts(program.augmenter.shares, len(rows))
    state, of_online = learn(program, state, no_meters(program, "online"), rows, counts, updates=3)
    return state.agent, made_rows, {"offline": meters.sums, "online": of_online.sums}


@pytest.mark.parametrize("name", CASES)
def test_a_lane_is_the_run_of_its_value(name):
    config = toy_config(**CASES[name], offline__updates_per_call=3, online__utd=3)  # as many as `outcome` makes
    agents, made, metrics = outcome(config)
    grid = points(config.vmap)
    for number in (0, len(grid) - 1):
        part = lambda tree, at=number * config.seeds: jax.tree.map(lambda leaf: leaf[at : at + config.seeds], tree)
        agent, rows, of_alone = outcome(at_point(config, grid[number]))
        assert mean_difference(part(agents), agent) < 1e-4
        for source, each in rows.items():
            np.testing.assert_allclose(part(made)[source], each, atol=0.02, rtol=0.02)
        for phase, sums in of_alone.items():
            for metric, value in sums.items():
                np.testing.assert_allclose(part(metrics)[phase][metric], value, rtol=0.01, atol=1e-3, err_msg=metric)
    last = {phase: {name: np.asarray(value) for name, value in sums.items()} for phase, sums in metrics.items()}
    assert any((value[0] != value[-config.seeds]).any() for sums in last.values() for value in sums.values())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = toy_config(vmap={"augment.w": (0.0, 2.0), "agent.expectile": (0.6, 0.9)})
    return train(config, tmp_path_factory.mktemp("vmap") / "run", progress=False)


def test_lanes_of_one_seed_share_their_draws_and_differ_by_their_values(run):
    _, saved = run.restore()
    keys = np.asarray(jax.random.key_data(saved.state.key)).reshape(4, 2, -1)
    assert (keys == keys[:1]).all() and (keys[:, 0] != keys[:, 1]).any()
    offline = [line for line in lines(run.folder, "evaluations.jsonl") if line["phase"] == "offline"]
    returns = np.array(offline[-1]["return"]).reshape(2, 2, 2, -1)  # w, expectile, seed, episodes
    np.testing.assert_allclose(returns, np.broadcast_to(returns[:1], returns.shape))  # w comes after pre-training
    for buffer in saved.state.synthetic.values():
        rows = np.asarray(buffer.rows).reshape(2, 2, 2, *buffer.rows.shape[1:])
        assert (rows[0] != rows[1]).any()


def test_the_record_says_which_lane_is_which(run):
    found = load_run(run.folder)
    assert len(found.lanes) == 8 and found.lanes == tuple(run.config.lanes)
    assert found.lanes[3].seed == 1 and found.lanes[3].values == {"augment.w": 0.0, "agent.expectile": 0.9}
    assert found.lanes[3].name == "1 at w 0, expectile 0.9"
    assert found.summary["seeds"] == [0, 1] * 4
    assert found.summary["lanes"] == [dict(lane.values) for lane in found.lanes]
    assert len(lines(run.folder, "metrics.jsonl")[0]["value_loss"]) == 8
    obs = np.zeros((8, run.acting()[0].spec.obs_dim), np.float32)
    assert run.policy()(obs).shape[0] == 8


def test_other_values_find_the_same_executable(run):
    program, _ = run.restore()
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), program.settings)
    assert {name: leaf.shape for name, leaf in shapes.items()} == {"augment.w": (8,), "agent.expectile": (8,)}
    text = offline_chunk.of(program).lower(*_arguments(program), updates=2).as_text()
    other = dataclasses.replace(program, settings={name: 0.5 * leaf for name, leaf in program.settings.items()})
    assert offline_chunk.of(other).lower(*_arguments(other), updates=2).as_text() == text


def _arguments(program):
    return init(program, "offline"), no_meters(program, "offline"), program.offline_rows


def test_resumes_to_the_same_numbers(run, tmp_path, monkeypatch):
    with interrupted_at(7, monkeypatch), pytest.raises(Interrupted):
        train(run.config, tmp_path / "cut", progress=False)
    resumed = train(resume=tmp_path / "cut", progress=False)
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert lines(resumed.folder, name) == lines(run.folder, name)


def test_scanned_lanes_are_the_batched_ones(run):
    other = dataclasses.replace(run.restore()[0], config=dataclasses.replace(run.config, seed_axis="scan"))
    of_each = [offline_chunk(each, *_arguments(each), updates=2)[1].sums for each in (other, run.restore()[0])]
    for name, value in of_each[0].items():
        np.testing.assert_allclose(value, of_each[1][name], rtol=1e-4, atol=1e-6)


def test_the_axis_is_part_of_the_config():
    plain, config = toy_config(), toy_config(vmap="augment.w=0,0.3")
    assert config.vmap == {"augment.w": (0.0, 0.3)} and len(config.lanes) == 4
    assert from_yaml(to_yaml(config)) == config and config_hash(config) != config_hash(plain)
    assert "vmap" not in to_dict(plain)  # a run without one has the hash that it had
    assert read_axis(["--augment.p-uncond=0.1,0.2"], "vmap") == {"augment.p_uncond": ["0.1", "0.2"]}
    assert words({"agent.tau": 0.1, "mix.tau": 0.2}) == "agent.tau 0.1, mix.tau 0.2"


@pytest.mark.parametrize(
    ("axis", "field", "said"),
    [
        ({"augment.w": (-1.0, 0.0)}, "augment.w", "must be at least 0"),
        ({"augment.w": (0.0, 0.0)}, "augment.w", "twice"),
        ({"augment.w": ()}, "augment.w", "no value"),
        ({"augment.w": ("much",)}, "augment.w", "must be a number"),
        ({"augment.steps": (10, 20)}, "augment.steps", "shapes the program"),
        ({"online.steps": (10, 20)}, "online.steps", "no field of a method"),
        ({"agent.expectil": (0.1, 0.2)}, "agent.expectil", "no field of a method"),
        ({"augment.p_uncond": (0.0, 0.1)}, "augment.p_uncond", "guidance needs a trained null label"),
        ("augment.w", "vmap", "must be FIELD=v1,v2"),
        (["augment.w=1", "augment.w=2"], "vmap", "twice"),
    ],
)
def test_an_axis_that_cannot_be_is_refused_at_once(axis, field, said):
    with pytest.raises(UserError, match=said) as error:
        toy_config(vmap=axis)
    assert error.value.field == field


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ({"augment.online_share": (0.5, 0.8)}, "shapes the program"),
        ({"mix.synthetic_share": (0.2, 0.5)}, "shapes the program"),
        ({"augment.w": (0.0, 1.0), "agent.advantage_limit": (10.0, 100.0)}, "shapes the program"),
        ({"agent.discount": (0.9, 0.99)}, "changes the offline rows"),
    ],
)
def test_a_field_that_the_program_depends_on_is_refused_before_the_run(axis, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        train(toy_config(vmap=axis), tmp_path / "run", progress=False)
    assert error.value.field == list(axis)[-1] and not (tmp_path / "run").exists()


def test_a_field_of_what_all_seeds_share_is_refused(monkeypatch, tmp_path):
    original = lanes.make_stratifier

    def shares_rho(config, spec):
        return original(config, spec)._replace(init_shared=lambda key: {"rho": jnp.asarray(config.rho)})

    monkeypatch.setattr(lanes, "make_stratifier", shares_rho)
    config = toy_config(
        augment="none", stratify="stratdiff", vmap={"stratify.rho": (0.2, 0.3)}, stratify__score="random"
    )
    with pytest.raises(UserError, match=r"stratify\.rho: changes what one training gives to all seeds"):
        train(config, tmp_path / "run", progress=False)


def test_an_axis_of_one_value_and_one_seed_has_one_lane():
    config = dataclasses.replace(toy_config(augment="none", vmap={"agent.expectile": (0.8,)}), seeds=1)
    mine, theirs = (
        outcome(each)[2]["offline"]["value_loss"] for each in (config, at_point(config, points(config.vmap)[0]))
    )
    assert mine.shape == theirs.shape == (1,)
    np.testing.assert_allclose(mine, theirs, rtol=1e-4)


def test_every_value_may_begin_with_one_pre_training(tmp_path):
    short = {"online.steps": 40, "refresh.every": 1_000, "evaluate.episodes": 1}
    first = train(toy_config("none", **short), tmp_path / "first", progress=False)
    config = toy_config("none", vmap={"agent.expectile": (0.6, 0.9)}, **short)
    borrowed = train(config, tmp_path / "values", offline_from=first.folder, progress=False)
    theirs, mine = (
        [line for line in lines(each.folder, "evaluations.jsonl") if line["phase"] == "offline"]
        for each in (first, borrowed)
    )
    assert len(theirs) == len(mine) and [each["return"] for each in mine] == [each["return"] * 2 for each in theirs]
    at_hand_over = next(line for line in lines(borrowed.folder, "evaluations.jsonl") if line["phase"] == "online")
    np.testing.assert_allclose(at_hand_over["return"], theirs[-1]["return"] * 2, rtol=1e-3)
    other = toy_config("none", vmap={"agent.expectile": (0.6, 0.8)}, **short)
    with pytest.raises(UserError, match=r"^vmap: is .* was pre-trained with"):
        train(other, tmp_path / "other", offline_from=borrowed.folder, progress=False)
    with pytest.raises(UserError, match=r"^seeds: is 1, and .* pre-trained 2; use as many"):
        train(dataclasses.replace(config, seeds=1), tmp_path / "few", offline_from=first.folder, progress=False)


def test_a_generator_of_one_dataset_has_no_axis(tmp_path):
    config = toy_config("synther", augment__data="offline", vmap={"augment.lr": (1e-4, 1e-3)})
    with pytest.raises(UserError, match=r"^vmap: is an axis of training"):
        upsample.prepare(config, None, 10, tmp_path / "rows.hdf5", Progress(False))
