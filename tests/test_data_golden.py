"""Loaded rows, return ranges, moments, scores and returns-to-go beside those of D4RL's, IQL's and CORL's own code."""

import golden
import numpy as np
import pytest

from cfdg_jax.data.arrays import to_transitions
from cfdg_jax.data.dataset import from_arrays
from cfdg_jax.data.reference_scores import normalized_score
from cfdg_jax.data.returns import ReturnRule, mc_returns
from cfdg_jax.data.transforms import apply_observation, apply_reward, fit_transforms


@pytest.fixture
def recording(golden_dir):
    return golden.load(golden_dir, "data_d4rl.npz")


def part(z, name):
    return {key.removeprefix(f"{name}/"): z[key] for key in z.files if key.startswith(f"{name}/")}


def ours_of(z):
    """The recording's rows as D4RL's loader sees them: it ignores the recorded next observations."""
    return {name: array for name, array in part(z, "raw").items() if name != "next_observations"}


@pytest.mark.parametrize("release", ["d4rl_qlearning", "iql_dataset"])
def test_rows_without_next_observations_are_those_of_the_released_loaders(recording, release):
    ours, theirs = to_transitions(ours_of(recording)), part(recording, release)
    terminals = theirs["terminals"] if release == "d4rl_qlearning" else theirs["masks"] == 0
    np.testing.assert_array_equal(ours.terminals, terminals)
    np.testing.assert_array_equal(ours.observations, theirs["observations"])
    np.testing.assert_array_equal(ours.rewards, theirs["rewards"])
    np.testing.assert_allclose(ours.actions, theirs["actions"], atol=1.1e-5)  # D4RL's are not clipped
    if release == "iql_dataset":
        np.testing.assert_array_equal(ours.actions, theirs["actions"])
        np.testing.assert_array_equal(ours.ends, theirs["dones_float"] > 0)
    on = ~ours.terminals  # theirs show the next episode's start behind a terminal row, which nothing reads
    np.testing.assert_array_equal(ours.next_observations[on], theirs["next_observations"][on])
    assert (ours.next_observations[~on] != theirs["next_observations"][~on]).any()


def test_rows_with_next_observations_are_all_kept(recording):
    """D4RL's loader drops the rows at a time limit and the last one (docs/differences.md, The run)."""
    raw = part(recording, "raw")
    ours, dropped = to_transitions(raw), part(recording, "d4rl_qlearning")
    np.testing.assert_array_equal(ours.next_observations, raw["next_observations"])
    keep = ~raw["timeouts"]
    keep[-1] = False
    np.testing.assert_array_equal(ours.observations[keep], dropped["observations"])
    np.testing.assert_array_equal(ours.rewards[keep], dropped["rewards"])


def test_fitted_transforms_are_those_of_the_releases(recording):
    data = from_arrays(ours_of(recording))
    transforms = fit_transforms(data, "return_range", "standardise")
    assert float(transforms.reward.scale) == pytest.approx(float(recording["iql_scale"]), rel=1e-6)
    rewards = apply_reward(transforms.reward, data.rewards)
    np.testing.assert_allclose(rewards, recording["iql_normalised_rewards"], rtol=1e-5)
    np.testing.assert_allclose(transforms.observation.mean, recording["corl_state_mean"], rtol=1e-5)
    np.testing.assert_allclose(transforms.observation.scale, recording["corl_state_std"], rtol=1e-5)
    seen = apply_observation(transforms.observation, data.observations)
    np.testing.assert_allclose(seen, recording["corl_states_normalised"], rtol=1e-4, atol=1e-6)
    low, high = recording["corl_return_range_min_max"]  # its windows straddle episodes: not IQL's, and not ours
    assert abs(1000 / (high - low) - float(transforms.reward.scale)) > 1


def test_scores_are_d4rls(recording):
    returns = recording["score/returns"]
    for task, name in {"hopper": "hopper", "walker2d": "walker2d", "antmaze-umaze": "antmaze"}.items():
        np.testing.assert_allclose(normalized_score(task, returns), recording[f"score/{name}"], rtol=1e-9)


@pytest.mark.parametrize("reward,rule", [("sparse", "last"), ("dense", "all")])
def test_returns_to_go_are_corls(golden_dir, reward, rule):
    z = part(golden.load(golden_dir, "calql_corl.npz"), f"rtg_{reward}")
    ends = np.zeros(len(z["rewards"]), bool)
    ends[np.cumsum(z["lengths"]) - 1] = True
    failure = -5.0 if reward == "sparse" else None
    found = mc_returns(ReturnRule(0.99, failure, rule), z["rewards"], ends, z["terminals"] > 0)
    np.testing.assert_allclose(found, z["return_to_go"], rtol=1e-6, atol=1e-6)
