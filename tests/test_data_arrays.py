"""From arrays in D4RL's layout to transitions: where episodes end, what is kept, types."""

import numpy as np
import pytest
from raw_rows import NEXT, raw

from cfdg_jax.data.arrays import ACTION_LIMIT
from cfdg_jax.data.dataset import from_arrays


@pytest.mark.parametrize("following,rows", [(True, 3), (False, 2)])
def test_three_rows_with_a_timeout(following, rows):
    data = from_arrays(raw(3, following=following))
    assert len(data) == rows and not data.terminals.any()
    np.testing.assert_array_equal(data.next_observations, data.observations + NEXT)
    np.testing.assert_array_equal(data.ends, np.arange(rows) == rows - 1)


def test_next_observations_are_preferred():
    arrays = raw()
    arrays["next_observations"] = arrays["next_observations"] + np.float32(0.5)
    data = from_arrays(arrays)
    np.testing.assert_array_equal(data.next_observations, arrays["next_observations"])


def test_next_observation_never_crosses_a_boundary():
    data = from_arrays(raw(9, timeouts=(2,), terminals=(5,), following=False))
    # Dropped: the timeout (row 2) and the last row. Kept: the terminal, repeating its own observation.
    np.testing.assert_array_equal(data.rewards, [0, 1, 3, 4, 5, 6, 7])
    np.testing.assert_array_equal(data.ends, [0, 1, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(data.terminals, [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(data.next_observations[4], data.observations[4])
    others = ~data.terminals
    np.testing.assert_array_equal(data.next_observations[others], data.observations[others] + NEXT)
    assert "2 rows without a next observation were dropped" in data.notes[0]


def test_antmaze_goes_on_after_a_goal():
    arrays = raw(6, timeouts=(5,), following=False)
    arrays["terminals"] = np.array([0, 0, 1, 1, 0, 1], bool)
    data = from_arrays(arrays, task="antmaze-umaze")
    # A goal row's next observation is the following row; the last row is goal and time limit at once, and kept.
    np.testing.assert_array_equal(data.next_observations[2], data.observations[3])
    np.testing.assert_array_equal(data.next_observations[5], data.observations[5])
    np.testing.assert_array_equal(data.terminals, arrays["terminals"])


def test_missing_timeouts_are_found_from_jumps():
    arrays = raw(9, timeouts=(3, 8))
    del arrays["timeouts"]
    data = from_arrays(arrays)
    np.testing.assert_array_equal(np.flatnonzero(data.ends), [3, 8])
    assert not data.terminals.any()
    assert "1 episode ends were found where observations jump; there are no timeouts" in data.notes


def test_missing_timeouts_without_next_observations_are_admitted():
    arrays = raw(5, timeouts=(), terminals=(2,), following=False)
    del arrays["timeouts"]
    data = from_arrays(arrays)
    np.testing.assert_array_equal(np.flatnonzero(data.ends), [2, 3])
    assert any("time limits are invisible" in note for note in data.notes)


@pytest.mark.parametrize("flags", [np.uint8, np.int64, np.float32])
def test_types_of_older_files(flags):
    arrays = raw(4, timeouts=(3,), terminals=(1,), dtype=np.float64, flags=flags)
    arrays["rewards"] = arrays["rewards"][:, None]
    data = from_arrays(arrays)
    assert {x.dtype for x in (data.observations, data.actions, data.rewards, data.next_observations)} == {
        np.dtype(np.float32)
    }
    assert data.terminals.dtype == data.ends.dtype == bool and data.rewards.shape == (4,)
    np.testing.assert_array_equal(data.ends, [0, 1, 0, 1])


def test_actions_are_clipped_inside_the_box():
    arrays = raw(3)
    arrays["actions"][:] = 1.000005
    assert float(from_arrays(arrays).actions.max()) == np.float32(ACTION_LIMIT)


def test_episodes_and_returns():
    data = from_arrays(raw(9, timeouts=(2, 3)))
    assert [(e.start, e.stop) for e in data.episodes()] == [(0, 3), (3, 4), (4, 9)]
    np.testing.assert_array_equal(data.episode_returns, [0 + 1 + 2, 3, 4 + 5 + 6 + 7 + 8])
    np.testing.assert_array_equal(data.episode_lengths, [3, 1, 5])
