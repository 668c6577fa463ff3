"""Rings of rows: what goes in comes out, over wrap-around, for any sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfdg_jax.core import ring


@settings(max_examples=25, deadline=None)
@given(capacity=st.integers(2, 7), blocks=st.lists(st.integers(1, 2), min_size=1, max_size=12))
def test_ring_keeps_the_newest_rows(capacity, blocks):
    buffer, written = ring.empty(capacity, 1, seeds=2), []
    for count in blocks:
        new = np.arange(len(written), len(written) + count, dtype=np.float32)
        written += new.tolist()
        rows = jnp.asarray(np.stack([new, -new]))[..., None]
        buffer = ring.insert(buffer, rows)
    newest = written[-capacity:]
    assert int(buffer.size) == len(newest)
    assert sorted(np.asarray(buffer.rows[0, : len(newest), 0]).tolist()) == sorted(newest)
    np.testing.assert_array_equal(np.asarray(buffer.rows[1]), -np.asarray(buffer.rows[0]))
    assert int(buffer.position) == len(written) % capacity


def test_sampling_reaches_every_filled_row_and_no_other():
    buffer = ring.empty(10, 1)
    buffer = ring.insert(buffer, jnp.arange(1.0, 4.0)[:, None])
    drawn = np.asarray(ring.sample(buffer, jax.random.key(0), 500))
    assert set(drawn.ravel().tolist()) == {1.0, 2.0, 3.0}


def test_full_ring_samples_its_last_slot():
    buffer = ring.full(jnp.arange(4.0)[:, None])
    assert set(np.asarray(ring.sample(buffer, jax.random.key(0), 300)).ravel().tolist()) == {0.0, 1.0, 2.0, 3.0}


@pytest.mark.parametrize("inserted, newest", [(3, {1.0, 2.0}), (9, {7.0, 8.0})])
def test_recent_rows_over_wrap_around(inserted, newest):
    buffer = ring.empty(5, 1)
    for value in range(inserted):
        buffer = ring.insert(buffer, jnp.full((1, 1), float(value)))
    drawn = np.asarray(ring.sample_recent(buffer, jax.random.key(0), 200, window=2))
    assert set(drawn.ravel().tolist()) == newest


def test_too_many_rows_at_once_are_refused():
    with pytest.raises(ValueError, match="capacity 2"):
        ring.insert(ring.empty(2, 1), jnp.zeros((3, 1)))
