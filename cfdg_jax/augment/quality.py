"""How good generated rows are: measured against the offline and the online rows they were learnt from.

    fidelity    energy distance, marginals, correlations, bounds     is it the same distribution?
    copying     nearest neighbours in the data                       is it only the data again?
    physics     one step of the simulator from (s, a)                does s' follow, is r right?
    endings     the simulator's own rule, asked of s and of s'       are flags where the task ends?
    labels      nearer to the online or to the offline rows?         does the label mean what it says?

Everything is in units of the data's standard deviations, on subsamples of a few thousand rows, in NumPy on the host.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist
from scipy.stats import wasserstein_distance

from cfdg_jax.errors import require
from cfdg_jax.types import RowLayout

Simulate = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``(obs [n, O], action [n, A]) -> (next_obs [n, O], reward [n])`` in the units of the rows."""
Ended = Callable[[np.ndarray], np.ndarray]
"""``(obs [n, O]) -> [n]`` bool, the task's own rule, in the units of the rows."""
Report = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Scale:
    """Standardisation by the mean and standard deviation of reference rows; constant columns keep their units."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> Scale:
        std = x.std(axis=0)
        return cls(x.mean(axis=0), np.where(std > 1e-6, std, 1.0))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.std


def quality_report(
    generated: np.ndarray,
    layout: RowLayout,
    offline: np.ndarray | None = None,
    online: np.ndarray | None = None,
    simulate: Simulate | None = None,
    ended: Ended | None = None,
    samples: int = 2_000,
    searched: int = 50_000,
    seed: int = 0,
) -> Report:
    """Every measure that the arguments allow, in one flat dict of floats.

    Args:
      generated: `[n, D]` generated rows.
      layout: The columns of a row.
      offline: `[N, D]` offline rows; names ``offline/...``.
      online: `[m, D]` online rows; names ``online/...``, with both also ``online_nearer`` and ``label_gap``.
      simulate: The true dynamics, for ``dynamics_error`` and ``reward_error``.
      ended: The true rule of termination, for `endings`, which look at all generated rows as ``terminal_rate`` does.
      samples: Rows compared of each set, drawn without replacement; the cost grows with its square.
      searched: Rows of each dataset, at most, among which nearest neighbours are looked for.
      seed: Of the draw.

    Raises:
      UserError: if a set holds fewer than two rows.
    """
    rng = np.random.default_rng(seed)
    given = {"offline": offline, "online": online}
    present = {name: rows for name, rows in given.items() if rows is not None}
    for name, rows in {"generated": generated, **present}.items():
        require(len(rows) >= 2, name, f"holds {len(rows)} rows", "quality needs at least 2")
    new = _draw(generated, samples, rng)
    report: Report = {"terminal_rate": float(np.asarray(generated)[:, layout.terminal].mean())}
    columns, drawn = layout.generative_width, {}
    for name, rows in present.items():
        drawn[name] = _draw(rows, samples + searched, rng)[:, :columns]
        measured = compare(new[:, :columns], drawn[name], samples, len(rows))
        measured["out_of_bounds"] = out_of_bounds(new[:, :columns], np.asarray(rows)[:, :columns])
        measured["terminal_rate"] = float(np.asarray(rows)[:, layout.terminal].mean())
        report |= {f"{name}/{key}": value for key, value in measured.items()}
    if len(drawn) == 2:
        report |= separability(new[:, :columns], drawn["offline"][: 2 * samples], drawn["online"][: 2 * samples])
    if simulate is not None:
        report |= physics(new, layout, simulate)
    if ended is not None:
        report |= endings(np.asarray(generated, np.float64), layout, ended)
    return report


def compare(generated: np.ndarray, data: np.ndarray, samples: int = 2_000, population: int | None = None) -> Report:
    """Fidelity and copying: `generated` `[n, d]` against `data` `[m, d]` in random order, standardised by the data.

    Some of the data are held out to show what each measure gives between the data and themselves (``..._floor``), so
    that a number can be read without experience.

    Args:
      samples: Rows of the data on either side of the comparison.
      population: Rows that `data` were drawn from. A copy of a row that was not drawn goes unseen, so the share of
        copies seen is scaled up by ``population / m``.

    Returns:
      Besides `energy_distance`, `marginals` and `correlation_error`: ``nearest_ratio``, the median distance to the
      nearest row of the data over that of held-out rows, well below 1 where rows are copied with little noise; and
      ``copied``, the estimated share of rows within 1 % of that distance of a row of the data.
    """
    scale, held = Scale.of(data), min(samples, len(data) // 2)
    held_out, searched, new = scale(data[:held]), scale(data[held:]), scale(generated)
    reference = searched[:samples]
    near, near_floor = nearest(new, searched), nearest(held_out, searched)
    unseen = (population or len(data)) / len(searched)
    shifts = marginals(new, reference)
    return {
        "energy_distance": energy_distance(new, reference),
        "energy_distance_floor": energy_distance(held_out, reference),
        "marginal": float(shifts.mean()),
        "marginal_worst": float(shifts.max()),
        "marginal_floor": float(marginals(held_out, reference).mean()),
        "correlation_error": correlation_error(new, reference),
        "correlation_error_floor": correlation_error(held_out, reference),
        "nearest_ratio": float(np.median(near) / max(np.median(near_floor), 1e-12)),
        "copied": min(1.0, float(np.mean(near < 0.01 * np.median(near_floor))) * unseen),
    }


def out_of_bounds(generated: np.ndarray, data: np.ndarray) -> float:
    """Share of rows `[n, d]` with a column outside the range that column has in `data` `[m, d]`."""
    low, high = data.min(axis=0), data.max(axis=0)
    return float(np.mean(np.any((generated < low) | (generated > high), axis=1)))


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` of rows `[n, d]` and `[m, d]`, per square root of d; 0 iff equal in law.

    The unbiased estimate (Szekely and Rizzo 2013): about 0 for samples of one distribution, and then of either sign.
    """
    within = lambda x: cdist(x, x).sum() / (len(x) * (len(x) - 1))
    return float((2 * cdist(a, b).mean() - within(a) - within(b)) / np.sqrt(a.shape[1]))


def marginals(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1-Wasserstein distance of every column `[d]`: for a shift of a standardised column, the shift itself."""
    return np.array([wasserstein_distance(x, y) for x, y in zip(a.T, b.T, strict=True)])


def correlation_error(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of the correlations of all pairs of columns that vary in both."""
    varying = (a.std(axis=0) > 1e-6) & (b.std(axis=0) > 1e-6)
    if varying.sum() < 2:
        return 0.0
    difference = np.corrcoef(a[:, varying].T) - np.corrcoef(b[:, varying].T)
    return float(np.sqrt(np.mean(difference[np.triu_indices_from(difference, 1)] ** 2)))


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance `[n]` of each row of `a` `[n, d]` to its nearest row of `b` `[m, d]`."""
    return KDTree(b).query(a)[0]


def separability(generated: np.ndarray, offline: np.ndarray, online: np.ndarray) -> Report:
    """Whose neighbours generated rows are, standardised by the equal-weight mixture of both sets.

    Returns:
      ``online_nearer``, the share of generated rows whose nearest row is an online one, from equally many of each;
      ``online_nearer_online`` and ``online_nearer_offline``, the same for held-out online and offline rows: what a
      perfect online label and a perfect offline label give; and ``label_gap``, energy distance to the offline rows
      minus that to the online rows, positive for rows that are online-like.
    """
    count = min(len(offline), len(online)) // 2
    scale = Scale.of(np.concatenate([offline[: 2 * count], online[: 2 * count]]))
    off, on, new = scale(offline[: 2 * count]), scale(online[: 2 * count]), scale(generated)
    share = lambda x: float(np.mean(nearest(x, on[:count]) < nearest(x, off[:count])))
    return {
        "online_nearer": share(new),
        "online_nearer_online": share(on[count:]),
        "online_nearer_offline": share(off[count:]),
        "label_gap": energy_distance(new, off) - energy_distance(new, on),
    }


def physics(rows: np.ndarray, layout: RowLayout, simulate: Simulate) -> Report:
    """One-step errors of rows `[n, D]` against the true dynamics, where the observation determines the state.

    Returns:
      Medians over rows: ``dynamics_error``, the error of s' in units of the true step, each column's by its root mean
      square over rows, so that 1 is as bad as not moving at all; ``reward_error`` in units of the rewards' standard
      deviation. And the 90 % quantiles, ``..._p90``.
    """
    next_obs, reward = simulate(rows[:, layout.obs], rows[:, layout.action])
    moved = next_obs - rows[:, layout.obs]
    step = np.maximum(np.sqrt(np.mean(moved**2, axis=0)), 1e-6)
    error = np.sqrt(np.mean(((rows[:, layout.next_obs] - next_obs) / step) ** 2, axis=1))
    spread = max(float(np.std(reward)), 1e-6)
    reward_error = np.abs(rows[:, layout.reward] - reward) / spread
    return {
        "dynamics_error": float(np.median(error)),
        "dynamics_error_p90": float(np.quantile(error, 0.9)),
        "reward_error": float(np.median(reward_error)),
        "reward_error_p90": float(np.quantile(reward_error, 0.9)),
    }


def endings(rows: np.ndarray, layout: RowLayout, ended: Ended) -> Report:
    """Flags of rows `[n, D]` against the task's own rule, where the observation determines the state.

    Returns:
      Shares of all rows: ``ended``, those whose s' the rule ends; ``flag_missed``, those of them that go on;
      ``flag_invented``, rows that end and should go on; ``started_over``, rows whose s the rule has ended already.
    """
    over, flagged = ended(rows[:, layout.next_obs]), rows[:, layout.terminal] > 0
    return {
        "ended": float(np.mean(over)),
        "flag_missed": float(np.mean(over & ~flagged)),
        "flag_invented": float(np.mean(flagged & ~over)),
        "started_over": float(np.mean(ended(rows[:, layout.obs]))),
    }


def _draw(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(rows)[rng.permutation(len(rows))[:count]].astype(np.float64)
