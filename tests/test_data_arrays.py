"""From arrays in D4RL's layout to transitions: where episodes end, what is kept, types."""

import numpy as np
import pytest
from raw_rows import NEXT, raw

from cfdg_jax.data import arrays as reading
from cfdg_jax.data.arrays import ACTION_LIMIT
from cfdg_jax.data.dataset import from_arrays
from cfdg_jax.errors import UserError


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


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 100])
def test_jumps_are_found_wherever_parts_are_cut(monkeypatch, rows):
    monkeypatch.setattr(reading, "CHUNK", rows)
    arrays = raw(9, timeouts=(2, 5))
    del arrays["timeouts"]
    assert np.flatnonzero(from_arrays(arrays).ends).tolist() == [2, 5, 8]


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


LENGTHS = (30, 25, 40, 21, 33, 28)


def demonstrations(jump=5.0, lengths=LENGTHS, limit=20):
    """Walks of small steps that end in terminals, with a time-out in row `limit` of each as D4RL's Adroit has them."""
    rng, ends = np.random.default_rng(0), np.cumsum(lengths) - 1
    walks = [np.cumsum(rng.normal(0, 0.1, (n, 2)), axis=0) + jump * (-1) ** i for i, n in enumerate(lengths)]
    arrays = raw(sum(lengths), (), following=False) | {"observations": np.concatenate(walks).astype(np.float32)}
    starts = np.concatenate([[0], ends[:-1] + 1])
    rows = np.arange(len(arrays["rewards"]))
    return arrays | {"terminals": np.isin(rows, ends), "timeouts": np.isin(rows, starts + limit - 1)}


def test_time_outs_in_the_middle_of_a_recording_are_no_ends():
    arrays = demonstrations()
    data = from_arrays(arrays)
    np.testing.assert_array_equal(data.episode_lengths, LENGTHS)
    assert len(data) == sum(LENGTHS) and data.notes[0].startswith("6 time-outs are no ends")
    go_on = ~data.terminals
    np.testing.assert_array_equal(data.next_observations[go_on], arrays["observations"][np.flatnonzero(go_on) + 1])


def no_reset_shows(arrays):
    return demonstrations(jump=0.0)


def a_time_out_with_a_jump(arrays):
    arrays["observations"][20:30] += 3.0
    return arrays


def a_time_out_elsewhere(arrays):
    arrays["timeouts"][[19, 15]] = [False, True]
    return arrays


def few(arrays):
    return demonstrations(lengths=LENGTHS[:4])


def next_observations(arrays):
    following = np.where(arrays["terminals"][:, None], 0, np.roll(arrays["observations"], -1, axis=0))
    return arrays | {"next_observations": following}


@pytest.mark.parametrize(
    "change", [no_reset_shows, a_time_out_with_a_jump, a_time_out_elsewhere, few, next_observations]
)
def test_without_all_the_evidence_a_time_out_is_an_end(change):
    arrays = change(demonstrations())
    data = from_arrays(arrays)
    assert len(data.episode_lengths) == arrays["terminals"].sum() + arrays["timeouts"].sum()
    assert not any("no ends" in note for note in data.notes)


def test_terminals_that_are_time_outs_too_are_named():
    arrays = raw(9, timeouts=(2, 5), terminals=(5,))
    data = from_arrays(arrays)
    assert data.warnings == ("1 rows are terminals and time-outs at once; they are read as terminals",)
    assert from_arrays(arrays, task="antmaze-umaze").warnings == ()


def test_actions_are_clipped_on_demand():
    arrays = raw(6)
    arrays["actions"][4, 1] = -1.5
    with pytest.raises(UserError, match="--clip-actions"):
        from_arrays(arrays)
    data = from_arrays(arrays, clip_actions=True)
    assert data.actions.min() == -np.float32(ACTION_LIMIT)
    np.testing.assert_array_equal(np.delete(data.actions, 4, axis=0), np.delete(arrays["actions"], 4, axis=0))
