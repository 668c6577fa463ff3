"""Flags of generated rows: their rate, their place, and rows that would start where the task has ended."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from cfdg_jax.augment import rows as rows_module
from cfdg_jax.augment.quality import endings
from cfdg_jax.augment.synther import SynthERConfig, synther
from cfdg_jax.augment.terminals import KEPT, flags_of
from cfdg_jax.core import ring
from cfdg_jax.diffusion.fit import Normaliser
from cfdg_jax.types import RowLayout, Source, Spec

SPEC = Spec(obs_dim=2, act_dim=1, horizon=100)
LAYOUT = SPEC.layout
ONLINE = int(Source.SYNTHETIC_ONLINE)
UNIT = Normaliser(jnp.zeros(LAYOUT.generative_width), jnp.ones(LAYOUT.generative_width))


def fallen(obs):
    """The rule of a hand-made task: it ends beyond an ellipse that no single column tells."""
    return obs[..., 0] ** 2 + (obs[..., 1] - 0.3 * obs[..., 0]) ** 2 / 0.5 > 1.0


def task_rows(count, seed=0, source=Source.ONLINE):
    """Steps from inside the ellipse; about 3 % of them leave it."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(scale=0.4, size=(6 * count, 2))
    obs = obs[~fallen(obs)][:count]
    action = rng.uniform(-1, 1, (count, 1))
    next_obs = obs + 0.15 * np.concatenate([action, -action], axis=1) + 0.02 * rng.normal(size=obs.shape)
    rows = LAYOUT.pack(obs, action, obs[:, 0], next_obs, fallen(next_obs), -np.inf, float(source), xp=np)
    return rows.astype(np.float32)


def learnt(parts, steps=1_500, draw=256, seed=0):
    """A classifier after `steps` steps on rows drawn in equal shares from the parts."""
    flags, data = flags_of(SPEC), [(jnp.asarray(rows), None) for rows in parts]

    def step(state, key):
        keys = jax.random.split(key, len(data) + 1)
        take = lambda rows, key: rows[jax.random.randint(key, (draw // len(data),), 0, rows.shape[0])]
        batch = jnp.concatenate([take(rows, key) for (rows, _), key in zip(data, keys[1:], strict=True)])
        return flags.step(state, UNIT, batch, keys[0]), None

    state = flags.init(jax.random.key(seed), data)
    state = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(1), steps))[0])(state)
    rows = jnp.concatenate([rows[:8_000] for rows, _ in data])
    return flags, flags.settle(state, UNIT, rows, jax.random.key(2))


# -- the classifier ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    return learnt([task_rows(30_000)])


def test_rate_and_place_of_flags_on_rows_it_never_saw(classifier):
    flags, state = classifier
    states = task_rows(100_000, seed=5)[:, LAYOUT.next_obs]
    flagged, true = np.asarray(flags.ended(state, UNIT, jnp.asarray(states))), fallen(states)
    assert 0.01 < true.mean() < 0.06
    assert flagged.mean() == pytest.approx(true.mean(), rel=0.1)
    assert np.mean(flagged[true]) > 0.95 and np.mean(flagged & ~true) < 0.05 * true.mean()


def test_the_rate_is_right_where_no_state_tells_for_sure():
    """Two normals of one column, the rarer one ends: flags are as many as ends, where ends are likeliest."""
    rng, share = np.random.default_rng(0), 0.05
    ends = rng.random(60_000) < share
    obs = np.where(ends, 2.0, 0.0)[:, None] * [1, 0] + rng.normal(size=(60_000, 2)) * [1, 1e-6]
    before = rng.normal(size=(60_000, 2)) * [1, 1e-6]
    rows = LAYOUT.pack(before, np.zeros((60_000, 1)), 0.0, obs, ends, -np.inf, 0.0, xp=np).astype(np.float32)
    flags, state = learnt([rows], steps=1_000)
    flagged = np.asarray(flags.ended(state, UNIT, jnp.asarray(rows[:, LAYOUT.next_obs])))
    assert flagged.mean() == pytest.approx(share, rel=0.1)
    border = (1 - share) * norm.sf(obs[flagged, 0].min()) + share * norm.sf(obs[flagged, 0].min() - 2)
    assert border == pytest.approx(share, rel=0.15), "one border, beyond which everything is flagged"


def test_rows_are_not_screened_where_flags_are_no_function_of_the_state():
    rows = task_rows(20_000)
    rows[:, LAYOUT.terminal] = np.random.default_rng(0).random(20_000) < 0.2
    flags, state = learnt([rows], steps=300)
    assert np.asarray(flags.over(state, UNIT, jnp.asarray(rows[:, LAYOUT.obs]))).mean() < 0.003
    assert np.asarray(flags.ended(state, UNIT, jnp.asarray(rows[:, LAYOUT.next_obs]))).mean() == pytest.approx(
        0.2, rel=0.15
    )


def test_parts_count_the_same_whatever_their_sizes():
    many, few = task_rows(5_000), task_rows(200, seed=1)
    few[:, LAYOUT.terminal] = 0.0
    state = flags_of(SPEC).init(jax.random.key(0), [(jnp.asarray(many), None), (jnp.asarray(few), None)])
    np.testing.assert_allclose(state.rates, [many[:, LAYOUT.terminal].mean(), 0.0], rtol=1e-5)
    assert state.last.shape == (2, KEPT, LAYOUT.mc_return) and not np.asarray(state.last[1]).any()


def test_kept_ends_are_spread_over_all_of_them_and_empty_places_of_a_ring_do_not_count():
    rows = task_rows(400)
    rows[:, LAYOUT.terminal] = 0.0
    rows[[3, 150, 390], LAYOUT.terminal] = 1.0
    held = ring.insert(ring.empty(1_000, LAYOUT.width), jnp.asarray(rows))
    held = held._replace(rows=held.rows.at[400:].set(1.0))  # what an empty place holds is of no account
    state = flags_of(SPEC).init(jax.random.key(0), [(held.rows, rows_module.online_mask(held))])
    assert float(state.rates[0]) == pytest.approx(3 / 400)
    found, counts = np.unique(np.asarray(state.last[0]), axis=0, return_counts=True)
    np.testing.assert_array_equal(found, np.unique(rows[[3, 150, 390], : LAYOUT.mc_return], axis=0))
    assert counts.min() > KEPT / 3 - 2


def test_without_any_end_in_the_data_nothing_ends():
    rows = task_rows(500)
    rows[:, LAYOUT.terminal] = 0.0
    flags, state = learnt([rows], steps=50)
    assert not np.asarray(flags.ended(state, UNIT, jnp.asarray(rows[:, LAYOUT.next_obs]))).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_task_that_never_ends_has_no_classifier():
    spec = Spec(obs_dim=2, act_dim=1, horizon=100, terminates=False)
    assert flags_of(spec) is None
    held = ring.full(jnp.asarray(task_rows(100)))
    augmenter = synther(SynthERConfig(width=16, steps=5, batch=16, sampler_steps=3), spec)
    state = augmenter.init(jax.random.key(0), held.rows, held)
    rows, _ = augmenter.generate(state, jax.random.key(1), ONLINE, 10)
    assert state.flags == () and not np.asarray(rows[:, LAYOUT.terminal]).any()


# -- generated rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("next_obs", ["change", "absolute"])
def test_generated_rows_end_as_often_and_where_the_task_does(next_obs):
    real = task_rows(30_000)
    held = ring.full(jnp.asarray(real))
    config = SynthERConfig(
        width=128, steps=2_000, batch=256, lr=3e-3, solver="dpm++3m", sampler_steps=16, churn=0.0, next_obs=next_obs
    )
    augmenter = synther(config, SPEC)
    state = jax.jit(augmenter.init)(jax.random.key(0), held.rows[:0], held)
    state, _ = jax.jit(augmenter.fit, static_argnums=4)(state, held.rows[:0], held, jax.random.key(1), config.steps)
    rows, metrics = jax.jit(augmenter.generate, static_argnums=(2, 3))(state, jax.random.key(2), ONLINE, 30_000)
    report = endings(np.asarray(rows), LAYOUT, fallen)
    assert np.asarray(rows[:, LAYOUT.terminal]).mean() == pytest.approx(report["ended"], rel=0.1)
    assert report["ended"] == pytest.approx(real[:, LAYOUT.terminal].mean(), rel=0.1)
    assert report["flag_missed"] + report["flag_invented"] < 0.08 * report["ended"]
    assert report["started_over"] < 0.06 * report["ended"] and metrics["rejected"] < 0.05 * 30_000


def test_rows_that_start_after_the_end_are_replaced_like_other_rejected_rows(monkeypatch):
    """A sampler that hands out given rows, and a rule instead of a classifier."""
    z = jnp.asarray([[0.0, 0, 0, 0, 1, 0], [9, 0, 0, 0, 0, 0], [0, 0.5, 0, 0, 8, 0], [0, 0, 0, 11, 0, 0]])
    monkeypatch.setattr(rows_module, "sample", lambda *args: z)
    fell = lambda obs: obs[..., 0] > 5
    model = rows_module.RowModel(None, UNIT, None, fell, fell)
    rows, metrics = rows_module.generate_rows(model, SynthERConfig(), LAYOUT, jax.random.key(0), ONLINE, 4)
    batch = LAYOUT.unpack(rows)
    assert metrics["rejected"] == 2 and np.asarray(batch.obs)[:, 0].max() < 5
    np.testing.assert_array_equal(batch.terminal[jnp.array([0, 2])], [0, 1])
    for row in np.asarray(rows)[[1, 3]]:
        assert any(np.array_equal(row, np.asarray(rows)[i]) for i in (0, 2))


def test_endings_by_hand():
    layout = RowLayout(obs_dim=1, act_dim=1)
    obs, next_obs, flag = np.array([0, 0, 0, 9, 0.0]), np.array([9, 9, 0, 0, 0.0]), np.array([1, 0, 1, 0, 0.0])
    rows = layout.pack(obs[:, None], obs[:, None], 0.0, next_obs[:, None], flag, 0.0, 0.0, xp=np)
    report = endings(rows, layout, lambda obs: obs[:, 0] > 5)
    assert report == pytest.approx({"ended": 0.4, "flag_missed": 0.2, "flag_invented": 0.2, "started_over": 0.2})
