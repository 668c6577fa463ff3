"""A condition beside the label in runs: the agents' own scores, resumed runs, an axis, stratified rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from settings import learns_values
from train_helpers import assert_same_run, toy_config

import cfdg_jax
from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.augment.conditions import quantiles
from cfdg_jax.core import ring
from cfdg_jax.training import checkpoint
from cfdg_jax.training.build import load_program
from cfdg_jax.training.generate import fit_generator, generate, score_rows, start_generator
from cfdg_jax.training.prepare import go_online, init
from cfdg_jax.training.progress import Interrupted, Progress
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.types import Source

pytestmark = pytest.mark.usefixtures("generators_are_shallow", "programs_are_shared")


def begun(config):
    """A program, its state after a hand-over whose rings hold some offline rows, offline rows, and all rows' scores."""
    program = load_program(config, Progress(False), Stopwatch())
    rows, lanes = program.offline_rows[:80], len(config.lanes)
    online = ring.insert(ring.empty(100, rows.shape[1], lanes), jnp.tile(rows[None, :40], (lanes, 1, 1)))
    state = go_online(program, init(program, "offline"))._replace(online=online)
    return program, state, rows, score_rows(program, state, rows, state.key)


OF_UPDATES = {entry.factory: name for name, entry in reversed(AGENTS.items())}.values()


@pytest.mark.parametrize("agent", list(filter(learns_values, OF_UPDATES)))
def test_every_agents_critic_judges_every_seeds_rows(agent):
    program, state, rows, scores = begun(toy_config(agent=agent, augment__condition="td"))
    layout, batch = program.spec.layout, program.spec.layout.unpack(rows)
    for seed in range(2):
        own = jax.tree.map(lambda leaf: leaf[seed], state.agent)  # noqa: B023
        value = functools.partial(program.online_agent.value, own)
        after = value(batch.next_obs, program.online_agent.act(own, batch.next_obs, state.key[seed], False))
        target = batch.reward + program.config.agent.discount * (1 - batch.terminal) * after
        expected = quantiles(jnp.abs(target - value(batch.obs, batch.action)), jnp.full(100, jnp.nan)).offline
        found = np.argsort(scores.offline[seed])
        assert layout.width == rows.shape[1] and scores.online[seed, :40].min() > 0
        assert np.all(scores.online[seed, 40:] == -1)
        if agent != "pex":  # whose evaluation policy draws between two
            np.testing.assert_array_equal(found, np.argsort(expected))
    assert np.any(scores.offline[0] != scores.offline[1])


def test_rows_of_running_episodes_have_no_return():
    program, state, rows, _ = begun(toy_config(augment__condition="return"))
    column = program.spec.layout.mc_return
    running = state._replace(online=state.online._replace(rows=state.online.rows.at[1, 30:40, column].set(-jnp.inf)))
    scores = score_rows(program, running, rows, state.key).online
    assert (scores[0, :40] > 0).all() and (scores[1, :30] > 0).all() and (scores[1, 30:] == -1).all()


def test_tops_are_an_axis():
    """All lanes of a seed fit the same, and generate at quantiles of their own."""
    config = toy_config(augment__condition="surprise", vmap={"augment.condition_top": (0.01, 0.9)})
    program, state, rows, scores = begun(config)
    np.testing.assert_array_equal(scores.offline[:2], scores.offline[2:])
    generator = start_generator(program, state.online, state.key, rows)
    generator, metrics = fit_generator(program, generator, state.online, rows, state.key, steps=3, scores=scores)
    np.testing.assert_allclose(metrics["loss"][:2], metrics["loss"][2:], rtol=1e-5)
    np.testing.assert_array_equal(metrics["told"], 1.0)
    made, _ = generate(program, generator, state.key, int(Source.SYNTHETIC_ONLINE), 10)
    assert np.any(made[:2, :, 0] != made[2:, :, 0])


def test_a_fit_interrupted_half_way_continues_bit_identically(tmp_path, monkeypatch, programs_are_shared):
    """Its scores are made again, with stratified rows."""
    few = {"offline__steps": 20, "online__steps": 80, "evaluate__episodes": 1}
    config = toy_config(stratify="stratdiff", augment__condition="advantage", **few)
    whole = cfdg_jax.train(config, tmp_path / "whole", progress=False)
    save, made = checkpoint.Kept.save, []

    def save_and_interrupt(self, tree, now=False):
        save(self, tree, now)
        if 0 < int(tree.fitted) < config.augment.steps:
            made.append(tree)
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Kept, "save", save_and_interrupt)
        with pytest.raises(Interrupted):
            cfdg_jax.train(config, tmp_path / "cut", progress=False)
    assert made
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "cut", progress=False))
