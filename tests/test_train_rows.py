"""``row_dtype bfloat16``: the arrays that hold rows, what is read from them, and resuming."""

import jax.numpy as jnp
import numpy as np
import pytest
from train_helpers import assert_same_run, interrupted_at, toy_config

import cfdg_jax
from cfdg_jax.core import ring
from cfdg_jax.training.memory import memory_plan
from cfdg_jax.training.progress import Interrupted, Progress
from cfdg_jax.types import Source

pytestmark = pytest.mark.usefixtures("programs_are_shared", "generators_are_shallow")


def test_what_is_kept_is_near_and_actions_stay_inside_the_box():
    exact = np.array([0.0, 1.0, 2.0, 3.0, -1.0, -np.inf], np.float32)
    near = np.array([0.9999, -0.99999, 1.25, -317.3, 1e-5], np.float32)
    for rows in (np.concatenate([exact, near])[None], jnp.concatenate([exact, near])[None]):
        kept = ring.rounded(rows)
        assert kept.dtype == np.uint16 and isinstance(kept, type(rows))
        read = np.asarray(ring.numbers(kept))[0]
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read[: len(exact)], exact)
        np.testing.assert_allclose(read[len(exact) :], near, rtol=2**-8)
        assert np.all(np.abs(read[len(exact) : len(exact) + 2]) < 1)
    plain = jnp.asarray(near)[None]
    assert ring.numbers(plain) is plain


def test_a_ring_of_half_the_bytes_gives_numbers():
    held = ring.insert(ring.empty(4, 2, dtype=jnp.uint16), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    held = ring.insert(held, jnp.array([[5.0, 6.0]]))
    assert held.rows.dtype == jnp.uint16
    assert ring.newest(held, 2).tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert {tuple(row) for row in ring.sample(held, jnp.uint32([0, 1]), 50).tolist()} <= {(1, 2), (3, 4), (5, 6)}


def test_a_run_keeps_its_rows_in_half_the_bytes_and_resumes_bit_identically(tmp_path, monkeypatch):
    config = toy_config(row_dtype="bfloat16")
    whole = cfdg_jax.train(config, tmp_path / "whole", progress=False)
    program, saved = whole.restore()
    rings = [saved.state.online, *saved.state.synthetic.values()]
    kept = [program.offline_rows, *(buffer.rows for buffer in rings)]
    assert len(rings) == 3 and {rows.dtype for rows in kept} == {np.dtype(np.uint16)}
    layout = program.spec.layout
    for source, buffer in {Source.ONLINE: saved.state.online, **saved.state.synthetic}.items():
        rows = np.asarray(ring.numbers(buffer.rows))[:, : int(buffer.size)]
        assert np.all(rows[..., layout.source] == source) and np.isfinite(rows[..., : layout.mc_return]).all()
        assert set(np.unique(rows[..., layout.terminal])) <= {0.0, 1.0}
        assert np.abs(rows[..., layout.obs]).max() < 20
    with np.load(whole.folder / "samples.npz") as samples:
        assert {samples[name].dtype for name in ("offline", "online", "synthetic_online")} == {np.dtype(np.float32)}
    plan = memory_plan(program, Progress(False))
    held = plan["offline rows, shared"] + plan["online rings"]
    assert held == pytest.approx((program.offline_rows.shape[0] + 2 * 100) * layout.width * 2 / 1e6)
    with interrupted_at(4, monkeypatch), pytest.raises(Interrupted):
        cfdg_jax.train(config, tmp_path / "part", progress=False)
    assert_same_run(whole, cfdg_jax.train(resume=tmp_path / "part", progress=False))
