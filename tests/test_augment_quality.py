"""The quality measures on distributions whose answers are known."""

import numpy as np
import pytest
from scipy.stats import norm

from cfdg_jax.augment import quality
from cfdg_jax.augment.quality import (
    compare,
    correlation_error,
    energy_distance,
    marginals,
    nearest,
    physics,
    quality_report,
    separability,
)
from cfdg_jax.errors import UserError
from cfdg_jax.types import RowLayout, Source

LAYOUT = RowLayout(obs_dim=3, act_dim=2)


def normal(count, columns=4, mean=0.0, std=1.0, seed=0):
    return mean + std * np.random.default_rng(seed).normal(size=(count, columns))


def rows_of(obs, action, reward, next_obs, terminal=0.0):
    return LAYOUT.pack(obs, action, reward, next_obs, terminal, -np.inf, float(Source.OFFLINE), xp=np)


def simulate(obs, action):
    """Linear dynamics and a quadratic reward."""
    push = np.concatenate([action, action[:, :1]], axis=1)
    return 0.9 * obs + 0.3 * push, -np.sum(obs**2, axis=1)


def transitions(count, mean=0.0, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    obs, action = mean + rng.normal(size=(count, 3)), rng.uniform(-1, 1, (count, 2))
    next_obs, reward = simulate(obs, action)
    next_obs = next_obs + noise * rng.normal(size=next_obs.shape)
    return rows_of(obs, action, reward + noise * rng.normal(size=count), next_obs, rng.random(count) < 0.1)


# -- distances ---------------------------------------------------------------------------------------------------------


def gaussian_energy(shift):
    """Energy distance of N(0, 1) and N(shift, 1): E|N(m, 2)| in closed form, by the folded normal."""
    folded = lambda m: 2 / np.sqrt(np.pi) * np.exp(-(m**2) / 4) + m * (1 - 2 * norm.cdf(-m / np.sqrt(2)))
    return 2 * folded(shift) - 2 * folded(0.0)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_energy_distance_of_shifted_gaussians(shift):
    ours = energy_distance(normal(4_000, 1), normal(4_000, 1, shift, seed=1))
    assert ours == pytest.approx(gaussian_energy(shift), abs=0.03)


def test_energy_distance_sees_what_moments_do_not():
    same_moments = np.sign(normal(2_000, 3, seed=1))
    assert energy_distance(normal(2_000, 3), same_moments) > 0.05
    floor = [energy_distance(normal(1_000, 3, seed=s), normal(1_000, 3, seed=s + 50)) for s in range(12)]
    assert abs(np.mean(floor)) < 1e-3 and min(floor) < 0 < max(floor)  # unbiased


def test_marginals_are_shifts_and_changes_of_scale():
    a, b = normal(20_000, 3), normal(20_000, 3, seed=1) * [1, 1, 1.5] + [0, 0.7, 0]
    np.testing.assert_allclose(marginals(a, b), [0, 0.7, 0.5 * np.sqrt(2 / np.pi)], atol=0.03)


def test_correlation_error_of_a_broken_dependence():
    a = normal(20_000, 2)
    tied = np.stack([a[:, 0], 0.8 * a[:, 0] + 0.6 * a[:, 1]], axis=1)
    assert correlation_error(tied, a) == pytest.approx(0.8, abs=0.02)
    assert correlation_error(tied, tied * [3.0, 0.2]) == pytest.approx(0, abs=1e-12)
    assert correlation_error(np.c_[tied, np.ones(20_000)], np.c_[a, a[:, 0]]) == pytest.approx(0.8, abs=0.02)


# -- reports -----------------------------------------------------------------------------------------------------------


def test_perfect_rows_reach_the_floor_whatever_the_units():
    units, centre = np.array([1.0, 100.0, 1e-3, 5.0]), np.array([0.0, 500.0, 0.0, -3.0])
    report = compare(centre + units * normal(2_000), centre + units * normal(8_000, seed=1))
    assert abs(report["energy_distance"]) < 3e-3 and abs(report["energy_distance_floor"]) < 3e-3
    assert report["marginal"] < 1.6 * report["marginal_floor"] < 0.1
    assert report["correlation_error"] < 2 * report["correlation_error_floor"] < 0.1
    assert report["nearest_ratio"] == pytest.approx(1.0, abs=0.05) and report["copied"] == 0


@pytest.mark.parametrize(
    ("made", "measure", "low", "high"),
    [
        (lambda data: data[:2_000] + 0.5, "marginal", 0.45, 0.55),
        (lambda data: data[:2_000] * [1, 1, 1, 3], "marginal_worst", 1.4, 1.8),
        (lambda data: np.c_[data[:2_000, :2], data[2_000:4_000, 2:]], "correlation_error", 0.3, 0.8),
        (lambda data: data[:2_000] + 0.03 * normal(2_000, seed=9), "nearest_ratio", 0.0, 0.4),
        (lambda data: data[-2_000:], "copied", 0.99, 1.0),
        (
            lambda data: np.r_[data[-500:], normal(1_500, seed=9) + 0.01],
            "copied",
            0.3,
            0.37,
        ),  # a quarter, and a quarter of the data is held out
    ],
)
def test_every_fault_shows_in_its_measure(made, measure, low, high):
    mixing = np.array([[1, 0, 0.9, 0], [0, 1, 0, 0.9], [0, 0, 0.4, 0], [0, 0, 0, 0.4]])
    data = normal(8_000) @ mixing
    shuffled = data[np.random.default_rng(1).permutation(8_000)]
    assert low <= compare(made(data), shuffled if measure != "copied" else data)[measure] <= high


def test_copies_of_rows_that_were_not_searched_are_extrapolated():
    data = normal(20_000)
    report = compare(data[np.random.default_rng(1).permutation(20_000)[:2_000]], data[:5_000], 1_000, 20_000)
    assert report["copied"] == pytest.approx(1.0, abs=0.15)


def test_bounds_are_the_datas():
    data = np.random.default_rng(0).uniform(-1, 1, (50_000, 2))
    wide = np.random.default_rng(1).uniform(-1.25, 1.25, (20_000, 2))
    assert quality.out_of_bounds(wide, data) == pytest.approx(1 - 0.8**2, abs=0.01)
    assert quality.out_of_bounds(data[:100], data) == 0


@pytest.mark.parametrize(("share", "expected"), [(1.0, "online"), (0.0, "offline"), (0.5, None)])
def test_labels_are_separable_where_rows_take_sides(share, expected):
    offline, online = normal(4_000, mean=-1.0), normal(3_000, mean=1.0, seed=1)
    side = np.where(np.random.default_rng(2).random(2_000) < share, 1.0, -1.0)
    report = separability(side[:, None] + normal(2_000, seed=3), offline, online)
    assert report["online_nearer_offline"] < 0.05 and report["online_nearer_online"] > 0.95
    if expected is None:
        assert report["online_nearer"] == pytest.approx(0.5, abs=0.05) and abs(report["label_gap"]) < 0.05
    else:
        assert report["online_nearer"] == pytest.approx(report[f"online_nearer_{expected}"], abs=0.03)
        assert (report["label_gap"] > 0.5) == (expected == "online")


def test_physics_of_true_and_of_noisy_rows():
    exact = physics(transitions(3_000).astype(np.float64), LAYOUT, simulate)
    assert max(exact.values()) < 1e-4  # float32 rows
    rows = transitions(3_000).astype(np.float64)
    next_obs, reward = simulate(rows[:, LAYOUT.obs], rows[:, LAYOUT.action])
    step = np.sqrt(np.mean((next_obs - rows[:, LAYOUT.obs]) ** 2, axis=0))
    rows[:, LAYOUT.next_obs] += 0.2 * step * np.random.default_rng(1).choice([-1, 1], (3_000, 3))
    rows[:, LAYOUT.reward] += 0.5 * reward.std()
    noisy = physics(rows, LAYOUT, simulate)
    assert noisy["dynamics_error"] == pytest.approx(0.2, rel=1e-3)
    assert noisy["reward_error"] == pytest.approx(0.5, rel=1e-3)
    assert noisy["reward_error_p90"] == pytest.approx(0.5, rel=1e-3)


def test_standing_still_is_an_error_of_one():
    rows = transitions(5_000).astype(np.float64)
    rows[:, LAYOUT.next_obs] = rows[:, LAYOUT.obs]
    next_obs, _ = simulate(rows[:, LAYOUT.obs], rows[:, LAYOUT.action])
    report = physics(rows, LAYOUT, simulate)
    assert report["dynamics_error"] == pytest.approx(1.0, abs=0.15) and not np.allclose(next_obs, rows[:, LAYOUT.obs])


def test_the_whole_report_is_flat_floats_and_repeatable():
    arguments = (transitions(900, 0.5, seed=5), LAYOUT, transitions(3_000), transitions(1_200, 1.0, seed=1))
    report = quality_report(*arguments, simulate=simulate, samples=500)
    assert report == quality_report(*arguments, simulate=simulate, samples=500)
    assert all(type(value) is float and np.isfinite(value) for value in report.values())
    assert report["terminal_rate"] == pytest.approx(0.1, abs=0.04)
    assert report["offline/terminal_rate"] == pytest.approx(0.1, abs=0.02)
    assert report["offline/marginal"] > 3 * report["offline/marginal_floor"]
    assert 0.2 < report["online_nearer"] < 0.8
    assert report != quality_report(*arguments, simulate=simulate, samples=500, seed=1)


def test_parts_that_are_not_given_are_not_reported():
    report = quality_report(transitions(300), LAYOUT, offline=transitions(600, seed=1), samples=200)
    assert {key.partition("/")[0] for key in report} == {"terminal_rate", "offline"}
    assert "online_nearer" not in report and "dynamics_error" not in report
    assert set(quality_report(transitions(300), LAYOUT)) == {"terminal_rate"}


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match="online: holds 1 rows; quality needs at least 2"):
        quality_report(transitions(10), LAYOUT, online=transitions(1))


def test_nearest_by_brute_force():
    a, b = normal(50, 3), normal(70, 3, seed=1)
    brute = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(nearest(a, b), brute)
