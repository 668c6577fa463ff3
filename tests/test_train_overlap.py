"""``online.overlap``: actions by the parameters before the updates that run while simulators step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import assert_same_run, hopper_config, stopped_in

import cfdg_jax
from cfdg_jax.training import act
from cfdg_jax.training.build import load_program
from cfdg_jax.training.learn import no_meters
from cfdg_jax.training.packet import Packet
from cfdg_jax.training.prepare import init
from cfdg_jax.training.progress import Interrupted, Progress
from cfdg_jax.training.stopwatch import Stopwatch

COUNTS = {"online__start_steps": 4, "mix__batch_size": 4, "seeds": 2}


def stepped(overlap):
    """The state after some rows, and what an online step makes of it: by the compiled step, and by its two halves."""
    program = load_program(hopper_config(online__overlap=overlap, **COUNTS), Progress(False), Stopwatch())
    state, rng = init(program, "online"), np.random.default_rng(0)
    meters, counts = no_meters(program, "online"), program.mix.counts({}, 0)
    draw = lambda *shape: rng.normal(size=(2, *shape)).astype(np.float32)
    packets = [Packet(draw(11), np.tanh(draw(3)), draw(), draw(11), np.zeros(2), draw(11)).pack() for _ in range(7)]
    for t, packet in enumerate(packets[:6]):
        learn = counts if t >= 4 else None
        state, meters, _ = act.online_step(program, state, meters, packet, t, program.offline_rows, learn, False)
    copy = lambda tree: jax.tree.map(jnp.copy, tree)
    arguments = (packets[6], np.int32(6), program.offline_rows, counts)
    whole = act.online_step(program, copy(state), copy(meters), *arguments, False)
    action = act.acting_step(program, state, packets[6], np.int32(6), False)
    halves = (*act.learning_step(program, copy(state), copy(meters), *arguments), action)
    return program, state, packets[6], whole, halves


@pytest.fixture(scope="module")
def with_overlap():
    return stepped(True)


def close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_it_acts_by_the_parameters_before_the_updates_and_learns_the_same(with_overlap):
    program, state, packet, (learnt, _, action), halves = with_overlap
    current = Packet.unpack(jnp.asarray(packet), program.spec).current
    before, after = (act.act(program, each, current, jnp.asarray(6), False) for each in (state, learnt))
    np.testing.assert_allclose(action, before, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(before - after)).max() > 1e-4
    close(halves[0], learnt)
    np.testing.assert_allclose(halves[2], action, rtol=1e-5, atol=1e-6)
    *_, (plain, _, later), _ = stepped(False)
    close(plain, learnt)
    np.testing.assert_allclose(later, after, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_continues_bit_identically(tmp_path, monkeypatch):
    config = hopper_config(online__overlap=True, seeds=1)
    whole = cfdg_jax.train(config, tmp_path / "whole", progress=False)
    with stopped_in("online", 70, monkeypatch), pytest.raises(Interrupted):
        cfdg_jax.train(config, tmp_path / "run", progress=False)
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "run", progress=False))
