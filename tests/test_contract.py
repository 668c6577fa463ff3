"""What every registered agent, augmenter, mixing rule and stratifier promises, alone and together.

New ones are covered at once. One agent of each factory is trained offline to online on the toy task with every
augmenter and every stratifier, and both of these with every mixing rule. All other combinations of agent, augmenter and
stratifier are traced whole; ``pytest -m slow`` trains and resumes them.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import assert_same_run, lines, mean_difference, stopped_in, toy_config

import cfdg_jax
from cfdg_jax.agents.registry import AGENTS, make_agent
from cfdg_jax.augment.registry import AUGMENTERS
from cfdg_jax.config import choice
from cfdg_jax.core.seeds import over_seeds, seed_keys
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.fields import override
from cfdg_jax.mix.registry import MIXES
from cfdg_jax.stratify.registry import STRATIFIERS
from cfdg_jax.training.act import insert_learn_act
from cfdg_jax.training.build import build_program
from cfdg_jax.training.learn import no_meters
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import init
from cfdg_jax.training.progress import Interrupted
from cfdg_jax.types import Batch, Source, Spec

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")

SPEC = Spec(obs_dim=3, act_dim=2, horizon=20)
K, B = 3, 8


def small(config):
    """`config` with narrow networks of one hidden layer, whatever the fields that set widths are called."""
    changes = {f.name: (16,) for f in dataclasses.fields(config) if f.name.endswith("hidden")}
    changes |= {f.name: 2 for f in dataclasses.fields(config) if f.name == "policy_delay"}
    return dataclasses.replace(config, **changes)


@functools.cache
def agent_of(name: str, phase: str = "offline"):
    return make_agent(small(AGENTS[name].config()), SPEC, phase, 100)


@functools.cache
def updated_by(name: str, phase: str = "offline"):
    return jax.jit(agent_of(name, phase).update)


def batch_of(seed: int = 0, **fields) -> Batch:
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    batch = Batch(
        obs=normal(K, B, 3),
        action=np.sign(normal(K, B, 2)),  # the corners of the box
        reward=normal(K, B),
        next_obs=normal(K, B, 3),
        terminal=np.zeros((K, B), np.float32),
        mc_return=np.where(normal(K, B) > 0, -np.inf, normal(K, B)).astype(np.float32),
        source=np.full((K, B), Source.OFFLINE, np.int32),
        conserve=np.ones((K, B), np.float32),
    )
    return jax.tree.map(jnp.asarray, batch._replace(**fields))


def differ(a, b) -> bool:
    return any(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_close(a, b, rtol=2e-4, atol=2e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


@pytest.mark.parametrize("phase", ["offline", "online"])
@pytest.mark.parametrize("name", AGENTS)
def test_shapes_dtypes_and_finiteness_at_the_corners_of_the_box(name, phase):
    agent = agent_of(name, phase)
    state = agent.init(jax.random.key(0))
    new, metrics = updated_by(name, phase)(state, batch_of(), jax.random.key(1), jnp.asarray(0))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype
        assert np.isfinite(after).all()
    assert metrics and all(m.shape == () and m.dtype == jnp.float32 and np.isfinite(m) for m in metrics.values())
    for lead in ((), (5,), (2, 5)):
        obs = jnp.ones((*lead, 3))
        for explore in (False, True):
            action = agent.act(new, obs, jax.random.key(2), explore)
            assert action.shape == (*lead, 2) and action.dtype == jnp.float32
            assert np.isfinite(action).all() and np.abs(action).max() <= 1.0
        assert agent.value(new, obs, jnp.ones((*lead, 2))).shape == lead


def structure(name: str, phase: str):
    return jax.tree.structure(jax.eval_shape(agent_of(name, phase).init, jax.random.key(0)))


UPDATES = [(name, "offline") for name in AGENTS]
UPDATES += [(name, "online") for name in AGENTS if structure(name, "online") != structure(name, "offline")]
"""Every update there is: an agent with another state online learns otherwise there."""


@pytest.mark.parametrize(("name", "phase"), UPDATES)
def test_jit_changes_nothing(name, phase):
    agent = agent_of(name, phase)
    state = agent.init(jax.random.key(0))
    arguments = (state, batch_of(), jax.random.key(1), jnp.asarray(0))
    assert_close(updated_by(name, phase)(*arguments), agent.update(*arguments))


@pytest.mark.parametrize(("name", "phase"), UPDATES)
def test_a_seed_alone_equals_the_seed_among_many_and_seeds_differ(name, phase):
    agent, keys = agent_of(name, phase), seed_keys(0, 3)
    states = jax.vmap(agent.init)(keys)
    assert differ(*(jax.tree.map(lambda x, i=i: x[i], states) for i in (0, 1)))
    many = jax.jit(over_seeds(agent.update, (0, None, 0, None)))(states, batch_of(), keys, jnp.asarray(0))
    alone = updated_by(name, phase)(agent.init(keys[1]), batch_of(), keys[1], jnp.asarray(0))
    assert_close(jax.tree.map(lambda x: x[1], many), alone)


@pytest.mark.parametrize(("name", "phase"), UPDATES)
def test_a_terminal_cuts_the_bootstrap(name, phase):
    """A time limit is no terminal: it has no field of its own, and bootstraps like any other row."""
    agent = agent_of(name, phase)
    state = agent.init(jax.random.key(0))
    update = lambda batch: updated_by(name, phase)(state, batch, jax.random.key(1), jnp.asarray(0))
    (_, metrics), (_, ended) = update(batch_of()), update(batch_of(terminal=jnp.ones((K, B))))
    if "target_q" not in metrics:
        pytest.skip(f"{name} learns no values")
    reward = batch_of().reward.mean()
    assert ended["target_q"] == pytest.approx(float(reward), abs=1e-5) and abs(metrics["target_q"] - reward) > 1e-4


@pytest.mark.parametrize(("name", "phase"), UPDATES)
def test_conserve_is_the_weight_of_the_offline_regulariser(name, phase):
    agent = agent_of(name, phase)
    state = agent.init(jax.random.key(0))
    update = lambda conserve: updated_by(name, phase)(
        state, batch_of(conserve=jnp.full((K, B), conserve)), jax.random.key(1), jnp.asarray(0)
    )
    assert differ(update(1.0)[0], update(0.0)[0]) == (AGENTS[name].without is not None)


@pytest.mark.parametrize("name", [name for name, entry in AGENTS.items() if entry.without])
def test_conserve_zero_is_the_agent_without_its_regulariser(name):
    def after_an_update(changes):
        agent = make_agent(dataclasses.replace(small(AGENTS[name].config()), **changes), SPEC, "offline", 100)
        state, update = agent.init(jax.random.key(0)), jax.jit(agent.update)
        batch = lambda conserve: batch_of(conserve=jnp.full((K, B), conserve))
        return lambda conserve: update(state, batch(conserve), jax.random.key(1), jnp.asarray(0))[0]

    regularised, plain = map(after_an_update, AGENTS[name].without)
    assert mean_difference(regularised(0.0), plain(1.0)) < 1e-6
    assert mean_difference(regularised(0.0), regularised(1.0)) > 2e-6


@pytest.mark.parametrize(("name", "phase"), UPDATES)
def test_a_row_s_importance_weight_is_that_of_its_td_error(name, phase):
    """Rewards meet critics alone, through TD errors: of a row of weight 0 the reward does not matter."""
    agent = agent_of(name, phase)
    state = agent.init(jax.random.key(0))
    weight = jnp.ones((K, B)).at[:, 0].set(0.0)
    paid = batch_of(reward=batch_of().reward.at[:, 0].add(5.0))
    learnt = lambda batch: updated_by(name, phase)(state, batch, jax.random.key(1), jnp.asarray(0))
    if "target_q" not in learnt(batch_of())[1]:
        pytest.skip(f"{name} learns no values")
    update = lambda batch: learnt(batch)[0]
    ignored = (update(batch._replace(weight=weight)) for batch in (batch_of(), paid))
    assert mean_difference(*ignored) < 1e-6
    assert mean_difference(update(batch_of()), update(paid)) > 1e-5
    even = batch_of(weight=jnp.ones((K, B)))
    assert mean_difference(update(batch_of()), update(even)) < 1e-6


@pytest.mark.parametrize("anneal", ["never", "offline", "each"])
@pytest.mark.parametrize("name", ["iql", "pex", "cql", "td3bc"])
def test_an_annealed_policy_stands_still_at_the_end_of_its_phase_and_critics_never_do(name, anneal):
    config = dataclasses.replace(small(AGENTS[name].config()), anneal=anneal)
    for phase in ("offline", "online"):
        agent = make_agent(config, SPEC, phase, 100)
        state = agent.init(jax.random.key(0))
        obs = jax.random.normal(jax.random.key(2), (7, 3))
        acts = lambda state, agent=agent, obs=obs: agent.act(state, obs, jax.random.key(4), True)
        for step, still in ((50, False), (100, anneal in (phase, "each"))):
            new, _ = jax.jit(agent.update)(state, batch_of(), jax.random.key(1), jnp.int32(step))
            assert differ(state, new)
            if name != "pex" or phase == "offline":  # a choice by critics, which move
                assert differ(acts(state), acts(new)) != still, (phase, step)
            else:
                assert differ(state.iql.policy, new.iql.policy) != still, step


@pytest.mark.parametrize("name", AGENTS)
def test_the_hand_over_gives_what_the_online_phase_starts_from(name):
    offline, online = agent_of(name), agent_of(name, "online")
    state, _ = updated_by(name)(offline.init(jax.random.key(0)), batch_of(), jax.random.key(3), jnp.asarray(0))
    handed = offline.go_online(state, jax.random.key(1))
    fresh = online.init(jax.random.key(0))
    assert jax.tree.structure(handed) == jax.tree.structure(fresh)
    assert [x.shape for x in jax.tree.leaves(handed)] == [x.shape for x in jax.tree.leaves(fresh)]
    obs, action = jax.random.normal(jax.random.key(2), (7, 3)), jnp.zeros((7, 2))
    np.testing.assert_allclose(
        offline.value(state, obs, action),
        online.value(handed, obs, action),
        rtol=1e-5,
        atol=1e-6,
        err_msg="critics carry over",
    )
    if name != "pex":  # which chooses between two policies from here on (tests/test_agent_pex.py)
        chosen = (agent.act(s, obs, jax.random.key(4), False) for agent, s in ((offline, state), (online, handed)))
        np.testing.assert_array_equal(*chosen)


ONE_OF_EACH = list({entry.factory: name for name, entry in reversed(AGENTS.items())}.values())
"""One agent per factory: the others differ from it in numbers alone."""
GENERATORS, RULES, DRAWS = list(AUGMENTERS), list(STRATIFIERS), list(MIXES)
PAIRS = [
    (agent, GENERATORS[j % len(GENERATORS)], RULES[(i + j) % len(RULES)], DRAWS[(i + 3 * j) % len(DRAWS)])
    for i, agent in enumerate(ONE_OF_EACH)
    for j in range(max(map(len, (GENERATORS, RULES))))
]
"""Every agent with every augmenter and stratifier, and these with every mixing rule, in as few runs as that takes."""
COMBINATIONS = list(itertools.product(ONE_OF_EACH, AUGMENTERS, STRATIFIERS))
OTHERS = [triple for triple in COMBINATIONS if triple not in {pair[:3] for pair in PAIRS}]
DRAWN = [(*triple, mix) for triple, mix in zip(OTHERS, itertools.cycle(MIXES), strict=False)]
"""Those that are not trained, each with one of the mixing rules, in turn."""


@functools.cache
def kept_of(agent, stratify, mix):
    """What programs with these methods have traced: updates and fresh states ask no generator."""
    return {}


def program_of(agent, augment, stratify, mix):
    spec = Spec(4, 2, 50)
    rows = spec.layout.pack(np.zeros((16, 4)), np.zeros((16, 2)), 0, np.zeros((16, 4)), 0, 0, 0, xp=np)
    program = build_program(toy_config(augment, agent, stratify, mix), spec, identity_transforms(4), rows)
    object.__setattr__(program, "kept", kept_of(agent, stratify, mix))
    return program


@functools.cache
def meters_of(agent, stratify, mix):
    return no_meters(program_of(agent, "none", stratify, mix), "online")


@pytest.mark.parametrize(("agent", "augment", "stratify", "mix"), DRAWN)
def test_every_other_combination_traces_as_one_program(agent, augment, stratify, mix):
    """With one set of metrics, whatever the generator is."""
    program = program_of(agent, augment, stratify, mix)
    state = jax.eval_shape(lambda: init(program, "online"))
    counts = program.mix.counts(program.augmenter.shares, 16)
    ring = state.online
    state = state._replace(synthetic={source: ring for source, _ in counts.synthetic})
    packet = jnp.zeros((2, Packet.width(program.spec)))
    arguments = (state, meters_of(agent, stratify, mix), packet, jnp.asarray(1), program.offline_rows)
    step = functools.partial(insert_learn_act, program, counts=counts, random=False)
    new, meters, action = jax.eval_shape(step, *arguments)
    assert action.shape == (2, 2)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert set(meters.sums) == set(arguments[1].sums)


SHORT = {"online.start_steps": 60, "online.steps": 80}
"""Learning begins at the first refresh: batches without generated rows, another program, are met in test_train_run."""


def trains_offline_to_online(agent, augment, stratify, folder, mix=None, offline_from=None):
    config = toy_config(augment, agent, stratify, mix)
    config = override(config, {"offline.steps": 20 if config.offline.steps else 0} | SHORT)
    run = cfdg_jax.train(config, folder, offline_from=offline_from, progress=False)
    assert run.summary["status"] == "done" and not run.summary["failed_seeds"]
    state = run.restore()[1].state._replace(online=(), synthetic=())  # rows without a known return hold -inf
    leaves = [np.asarray(x) for x in jax.tree.leaves(state._replace(key=()))]
    assert all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind == "f")
    evaluations = lines(run.folder, "evaluations.jsonl")
    assert evaluations[-1]["phase"] == "online" and np.isfinite(evaluations[-1]["return"]).all()
    refreshed = [m for m in lines(run.folder, "metrics.jsonl") if m["phase"] == "refresh"]
    assert bool(refreshed) == (augment != "none")
    return run


PRETRAINED = {}
"""The first run of an agent, whose pre-training the others borrow: it asks the agent alone."""


@pytest.mark.parametrize(("agent", "augment", "stratify", "mix"), PAIRS)
def test_pairs_train_offline_to_online(agent, augment, stratify, mix, tmp_path):
    run = trains_offline_to_online(agent, augment, stratify, tmp_path / "run", mix, PRETRAINED.get(agent))
    if run.config.offline.steps:
        PRETRAINED.setdefault(agent, run.folder)


def test_pairs_meet_every_choice():
    choices = ONE_OF_EACH, AUGMENTERS, STRATIFIERS, MIXES
    for one, other in itertools.combinations(range(4), 2):
        met = {(pair[one], pair[other]) for pair in PAIRS + DRAWN * ((one, other) == (0, 3))}
        assert met == set(itertools.product(choices[one], choices[other]))


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "augment", "stratify"), OTHERS)
def test_triples_train_offline_to_online_and_resume_bit_identically(agent, augment, stratify, tmp_path, monkeypatch):
    whole = trains_offline_to_online(agent, augment, stratify, tmp_path / "whole")
    with stopped_in("online", 50, monkeypatch) as asked, pytest.raises(Interrupted):
        cfdg_jax.train(whole.config, tmp_path / "parts", progress=False)
    assert 50 <= asked[0] < whole.config.online.steps
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "parts", progress=False))


@pytest.mark.parametrize("agent", [name for name in AGENTS if name not in ONE_OF_EACH])
def test_the_other_agents_train_with_what_they_go_with(agent, tmp_path):
    entry = AGENTS[agent]
    wanted = entry.companions(entry.config)
    config = toy_config("cfdg", agent, wanted.get("stratify"))
    blocks = {"online.update_every": 20} if config.online.update_every > 1 else {}
    config = override(config, {"offline.steps": 20 if config.offline.steps else 0, "online.steps": 80} | blocks)
    assert {field: choice(config, field) for field in wanted} == wanted
    run = cfdg_jax.train(config, tmp_path / "run", progress=False)
    assert run.summary["status"] == "done" and not run.summary["failed_seeds"]
    logged = [line for line in lines(run.folder, "metrics.jsonl") if line["phase"] == "online"]
    assert np.isfinite(logged[-1]["critic_loss"]).all()
    if wanted.get("stratify") == "by_source":  # a block of batches of both origins: some rows are conservative
        assert 0.0 < np.mean(logged[-1]["conserve"]) < 1.0
