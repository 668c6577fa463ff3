"""CFDG's generator: balance, conditioning, guidance, screening, packing, and its contract."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.augment import cfdg as module
from cfdg_jax.augment.cfdg import CFDGConfig, cfdg, draw_balanced, labels_of
from cfdg_jax.augment.rows import online_mask, screen, to_rows
from cfdg_jax.core import ring
from cfdg_jax.diffusion.fit import Normaliser, unnormalise
from cfdg_jax.diffusion.samplers import Solver, sample
from cfdg_jax.errors import UserError
from cfdg_jax.types import Source, Spec

pytestmark = pytest.mark.usefixtures("generators_are_shallow")

SPEC = Spec(obs_dim=2, act_dim=1, horizon=100)
LAYOUT = SPEC.layout
SMALL = CFDGConfig(width=16, steps=20, batch=32, sampler_steps=4)
ONLINE, OFFLINE = int(Source.SYNTHETIC_ONLINE), int(Source.SYNTHETIC_OFFLINE)


def rows_around(centre, count, source, seed=0, spread=0.3, layout=LAYOUT):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (centre + spread * rng.normal(size=(count, *shape))).astype(np.float32)
    action = np.clip(normal(layout.act_dim), -1, 1)
    terminal = rng.random(count) < 0.2
    return jnp.asarray(
        layout.pack(normal(layout.obs_dim), action, normal(), normal(layout.obs_dim), terminal, -np.inf, source, xp=np)
    )


@pytest.fixture(scope="module")
def data():
    """Offline rows around -1 and a partly filled ring of online rows around +1."""
    online = ring.insert(ring.empty(500, LAYOUT.width), rows_around(1.0, 120, Source.ONLINE, seed=1))
    return rows_around(-1.0, 2_000, Source.OFFLINE), online


def jitted(config, spec=SPEC):
    augmenter = cfdg(config, spec)
    return (
        jax.jit(augmenter.init),
        jax.jit(augmenter.fit, static_argnums=4),
        jax.jit(augmenter.generate, static_argnums=(2, 3)),
    )


@pytest.fixture(scope="module")
def small(data):
    """A small generator's jitted functions and its fresh state."""
    init, fit, generate = jitted(SMALL)
    return SimpleNamespace(fit=fit, generate=generate, state=init(jax.random.key(0), *data))


@pytest.fixture(scope="module")
def trained(data):
    """A generator that has learnt the two clusters, with its config."""
    config = CFDGConfig(width=64, steps=600, lr=3e-3, sampler_steps=16, churn=0.0)
    init, fit, _ = jitted(config)
    state = init(jax.random.key(0), *data)
    state, metrics = fit(state, *data, jax.random.key(1), 600)
    assert metrics["loss"] < 1.0
    return config, state


# -- training set ------------------------------------------------------------------------------------------------------


def test_batches_are_balanced_by_label(data):
    offline, online = data
    rows = draw_balanced(offline, online, jax.random.key(0), 128)
    labels = labels_of(rows, LAYOUT)
    sources = np.asarray(rows[:, LAYOUT.source])
    assert np.bincount(np.asarray(labels)).tolist() == [128, 128]
    np.testing.assert_array_equal(sources[np.asarray(labels) == 0], Source.OFFLINE)
    np.testing.assert_array_equal(sources[np.asarray(labels) == 1], Source.ONLINE)
    assert np.all(np.abs(rows[:, 0]) > 1e-6), "an empty place of the ring was drawn"
    assert len(np.unique(np.asarray(rows[:128, 0]))) > 100 and len(np.unique(np.asarray(rows[128:, 0]))) > 50


def test_normaliser_is_the_balanced_mixtures(data, small):
    state = small.state.denoiser
    offline, online = (np.asarray(rows, np.float64)[:, 0] for rows in (data[0], data[1].rows[:120]))
    mean = 0.5 * (offline.mean() + online.mean())
    variance = 0.5 * (offline.var(ddof=1) + online.var(ddof=1)) + 0.25 * (offline.mean() - online.mean()) ** 2
    assert state.normaliser.mean[0] == pytest.approx(mean, abs=1e-5)
    assert state.normaliser.std[0] == pytest.approx(np.sqrt(variance) + 1e-5, rel=1e-5)
    assert state.normaliser.mean.shape == (6,)


def test_training_moves_everything_but_the_frequencies(data, small):
    after, _ = small.fit(small.state, *data, jax.random.key(1), SMALL.steps)
    assert int(after.denoiser.step) == SMALL.steps
    moved = lambda a, b: jax.tree.map(lambda x, y: bool(jnp.any(x != y)), a.params, b.params)
    changed = moved(small.state.denoiser, after.denoiser)
    assert changed.pop("frequencies") is False
    assert all(jax.tree.leaves(changed)) and all(jax.tree.leaves(moved(small.state.flags, after.flags)))


# -- generating --------------------------------------------------------------------------------------------------------


def test_labels_choose_the_cluster_and_guidance_moves_beyond_it(data, trained):
    config, state = trained
    means = {}
    for w in (0.0, 1.0):
        _, _, generate = jitted(dataclasses.replace(config, w=w))
        for source in (ONLINE, OFFLINE):
            rows, metrics = generate(state, jax.random.key(2), source, 1_000)
            assert metrics["rejected"] < 5
            means[w, source] = float(rows[:, LAYOUT.next_obs].mean())
    assert means[0.0, ONLINE] == pytest.approx(1.0, abs=0.2)
    assert means[0.0, OFFLINE] == pytest.approx(-1.0, abs=0.2)
    assert means[1.0, ONLINE] > means[0.0, ONLINE] + 0.01
    assert means[1.0, OFFLINE] < means[0.0, OFFLINE] - 0.01


@pytest.mark.parametrize("terminates", [True, False])
def test_generated_rows_are_whole_rows(data, small, terminates):
    if terminates:
        state, generate = small.state, small.generate
    else:
        init, _, generate = jitted(SMALL, dataclasses.replace(SPEC, terminates=False))
        state = init(jax.random.key(0), *data)
    rows, metrics = generate(state, jax.random.key(1), ONLINE, 20)
    batch = LAYOUT.unpack(rows)
    assert rows.shape == (20, LAYOUT.width) and rows.dtype == jnp.float32
    assert np.all(np.isfinite(np.delete(np.asarray(rows), LAYOUT.mc_return, axis=1)))
    assert np.all(np.abs(batch.action) <= 1 - 1e-5)
    assert set(np.unique(batch.terminal)) <= ({0.0, 1.0} if terminates else {0.0})
    assert np.all(batch.mc_return == -jnp.inf) and np.all(batch.source == ONLINE)
    assert metrics["rejected"].dtype == jnp.float32


def test_screen_replaces_by_accepted_rows_of_the_chunk():
    z = jnp.arange(24.0).reshape(8, 3) / 10
    bad = z.at[1, 0].set(jnp.nan).at[3, 2].set(jnp.inf).at[4, 1].set(-jnp.inf).at[6, 1].set(-10.01).at[7, 0].set(10.0)
    within = lambda z: jnp.all(jnp.abs(z) <= 10, axis=1)
    screened, rejected = jax.jit(screen)(bad, within(bad))
    assert rejected == 4
    kept = np.array([0, 2, 5, 7])
    np.testing.assert_array_equal(screened[kept], bad[kept])
    for row in np.asarray(screened)[[1, 3, 4, 6]]:
        assert any(np.array_equal(row, np.asarray(bad[i])) for i in kept)
    assert len(np.unique(np.asarray(screened)[[1, 3, 4, 6]], axis=0)) == 4, "one accepted row stands in for all"
    untouched, none = screen(z, within(z))
    np.testing.assert_array_equal(untouched, z)
    assert none == 0


def test_screen_with_more_rejected_than_accepted_rows():
    z = jnp.full((5, 2), jnp.nan).at[3].set(1.0)
    screened, rejected = screen(z, jnp.arange(5) == 3)
    np.testing.assert_array_equal(screened, 1.0)
    assert rejected == 4


def test_as_many_rows_end_as_are_wanted():
    x = jnp.arange(10.0)[:, None]
    accepted, ends = jnp.arange(10) >= 4, jnp.isin(jnp.arange(10), jnp.array([0, 6, 9]))  # 0 is not accepted

    def filled(wanted, ends=ends):
        rows, rejected = jax.jit(screen)(x, accepted, ends, wanted)
        assert rejected == 4
        return np.asarray(rows)[:, 0].astype(int).tolist()

    kept = lambda rows, *places: all(rows[place] == place for place in places)
    assert [sum(row in (6, 9) for row in filled(wanted)) for wanted in range(11)] == list(range(11))
    assert set(filled(6)[:4]) == {6, 9} and kept(filled(6), *range(4, 10)), "the places of those not accepted first"
    assert set(filled(8)) == {4, 5, 6, 7, 8, 9} - {4, 5} and kept(filled(8), 6, 7, 8, 9)
    assert set(filled(0)) == {4, 5, 7, 8} and kept(filled(0), 4, 5, 7, 8)
    assert set(filled(3, ends & False)) == set(range(4, 10)), "no row ends"
    assert set(filled(3, ends | True)) == set(range(4, 10)), "every row ends"


def test_nothing_accepted_gives_nan_rows_that_stop_a_run(small):
    ema = jax.tree.map(lambda leaf: leaf * jnp.nan, small.state.denoiser.ema)
    broken = small.state._replace(denoiser=small.state.denoiser._replace(ema=ema))
    rows, metrics = small.generate(broken, jax.random.key(1), ONLINE, 20)
    assert metrics["rejected"] == 20
    batch = LAYOUT.unpack(rows)
    for field in (batch.obs, batch.action, batch.reward, batch.next_obs):
        assert np.all(np.isnan(field))


def test_columns_keep_their_places():
    x = jnp.array([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 2, -3, 4, 5, 6]])
    batch = LAYOUT.unpack(to_rows(x, LAYOUT, OFFLINE, jnp.array([True, False])))
    np.testing.assert_allclose(batch.obs, [[0.1, 0.2], [1, 2]])
    np.testing.assert_allclose(batch.action, [[0.3], [-1 + 1e-5]], rtol=1e-7)
    np.testing.assert_allclose(batch.reward, [0.4, 4])
    np.testing.assert_allclose(batch.next_obs, [[0.5, 0.6], [5, 6]])
    np.testing.assert_allclose(batch.terminal, [1, 0])
    assert np.all(batch.source == OFFLINE)


def test_rewards_of_an_ideal_generator_agree_with_the_data():
    """Rows through normalised space and back: real and generated reward means within 3 standard errors."""
    mean, std = jnp.array([0.0, 1.0, 0.2, 350.0, 0.0, 1.0]), jnp.array([1.0, 2.0, 0.1, 25.0, 1.0, 2.0])
    ideal = lambda x, sigma: x / (1 + sigma**2)  # standardised data
    z = jax.jit(lambda key: sample(ideal, Solver(steps=64, churn=0.0), key, (40_000, 6)))(jax.random.key(0))
    screened, rejected = screen(z, jnp.all(jnp.abs(z) <= 10, axis=1))
    rows = to_rows(unnormalise(Normaliser(mean, std), screened), LAYOUT, ONLINE, 0.0)
    assert rejected == 0
    reward = np.asarray(rows[:, LAYOUT.reward], np.float64)
    assert abs(reward.mean() - 350.0) < 3 * 25.0 / np.sqrt(40_000)
    assert reward.std() == pytest.approx(25.0, rel=0.02)


# -- contract ----------------------------------------------------------------------------------------------------------


def test_shares_split_a_refresh_eight_to_two():
    augmenter = cfdg(CFDGConfig(), SPEC)
    counts = {source: round(1_000_000 * share) for source, share in augmenter.shares.items()}
    assert counts == {ONLINE: 800_000, OFFLINE: 200_000}
    assert augmenter.fit_steps == 100_000
    assert cfdg(CFDGConfig(online_share=1.0), SPEC).shares == {ONLINE: 1.0}


def test_seeds_are_independent_copies(data):
    offline, online = data
    augmenter = cfdg(SMALL, SPEC)

    def one(key, online_rows):
        init_key, fit_key, generate_key = jax.random.split(key, 3)
        mine = online._replace(rows=online_rows)
        state, _ = augmenter.fit(augmenter.init(init_key, offline, mine), offline, mine, fit_key, 11)
        return state, augmenter.generate(state, generate_key, ONLINE, 8)[0]

    keys = jax.random.split(jax.random.key(3), 3)
    rings = jnp.stack([online.rows, 2 * online.rows, online.rows])
    states, rows = jax.jit(jax.vmap(one))(keys, rings)
    state, alone = jax.jit(one)(keys[1], rings[1])
    jax.tree.map(lambda many, single: np.testing.assert_allclose(many[1], single, rtol=1e-3, atol=2e-5), states, state)
    assert np.abs(rows[0] - rows[2])[:, 0].min() > 0
    finite = np.isfinite(np.asarray(alone))
    np.testing.assert_allclose(np.asarray(rows[1])[finite], np.asarray(alone)[finite], rtol=2e-3, atol=2e-3)


def test_jit_changes_nothing(data, small):
    augmenter = cfdg(SMALL, SPEC)
    fast, _ = small.fit(small.state, *data, jax.random.key(1), SMALL.steps)
    rows, _ = small.generate(fast, jax.random.key(2), ONLINE, 20)
    slow, _ = augmenter.fit(small.state, *data, jax.random.key(1), SMALL.steps)
    plain, _ = augmenter.generate(fast, jax.random.key(2), ONLINE, 20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), fast, slow)
    finite = np.isfinite(np.asarray(rows))
    np.testing.assert_allclose(np.asarray(rows)[finite], np.asarray(plain)[finite], rtol=1e-4, atol=1e-4)


def test_state_is_float32_and_donatable(data):
    augmenter = cfdg(SMALL, SPEC)
    fit = jax.jit(augmenter.fit, static_argnums=4, donate_argnums=0)
    for init in (jax.jit(augmenter.init), augmenter.init):
        state = init(jax.random.key(0), *data)
        state, _ = fit(state, *data, jax.random.key(1), 5)
        state, _ = fit(state, *data, jax.random.key(2), 5)
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
        assert int(state.denoiser.step) == 10
    assert fit._cache_size() == 1


def test_a_refresh_that_goes_on_keeps_the_averaged_network_for_the_present_rows(data, small):
    offline, online = data
    moved = online._replace(rows=online.rows.at[:, 0].add(10.0))
    before, _ = small.fit(small.state, offline, online, jax.random.key(1), SMALL.steps)
    after = jax.jit(cfdg(SMALL, SPEC).adopt)(before, offline, moved)
    for name in ("params", "ema"):
        for kept, made in zip(
            jax.tree.leaves(before.denoiser.ema), jax.tree.leaves(getattr(after.denoiser, name)), strict=True
        ):
            np.testing.assert_array_equal(kept, made)
    assert float(after.denoiser.normaliser.mean[0] - before.denoiser.normaliser.mean[0]) == pytest.approx(5.0, abs=1e-4)
    assert int(after.denoiser.step) == 0 and all(not np.any(leaf) for leaf in jax.tree.leaves(after.denoiser.opt_state))


def test_a_pre_training_tells_the_online_label_of_no_row(data):
    offline, _ = data
    config = dataclasses.replace(SMALL, pretrain_steps=7)
    before = cfdg(config, SPEC).pretraining
    assert before.fit_steps == 7 and before.pretraining is None and cfdg(SMALL, SPEC).pretraining is None
    labels = labels_of(draw_balanced(offline, ring.full(offline), jax.random.key(0), 64), LAYOUT)
    assert set(np.asarray(labels).tolist()) == {0}


def test_mask_of_recent_rows_follows_a_ring_that_wrapped():
    rows = jnp.arange(7.0)[:, None]
    buffer = ring.insert(ring.insert(ring.empty(5, 1), rows[:4]), rows[4:])
    assert sorted(np.asarray(buffer.rows[:, 0])[online_mask(buffer, 3)]) == [4, 5, 6]
    assert online_mask(buffer).all() and online_mask(buffer, 9).all()
    assert online_mask(ring.insert(ring.empty(5, 1), rows[:2]), 4).tolist() == [True, True, False, False, False]


def test_recent_window_is_the_online_data(data):
    offline, online = data
    online = ring.insert(online, rows_around(4.0, 40, Source.ONLINE, seed=7))
    config = dataclasses.replace(SMALL, recent_window=40)
    state = jax.jit(cfdg(config, SPEC).init)(jax.random.key(0), offline, online)
    assert state.denoiser.normaliser.mean[0] == pytest.approx((4.0 - 1.0) / 2, abs=0.1)
    rows = draw_balanced(offline, online, jax.random.key(0), 64, 40)
    labels = labels_of(rows, LAYOUT)
    assert rows[:, 0][labels == 1].min() > 2.5 and rows[:, 0][labels == 0].max() < 1.0


def test_ablations_are_configuration(data, small):
    """One label alone; no guidance evaluates no null branch; guidance outside every level is no guidance."""
    assert cfdg(CFDGConfig(online_share=0.0), SPEC).shares == {OFFLINE: 1.0}
    assert cfdg(CFDGConfig(online_share=1.0), SPEC).shares == {ONLINE: 1.0}
    rows = lambda **fields: jitted(dataclasses.replace(SMALL, **fields))[2](small.state, jax.random.key(1), ONLINE, 9)[
        0
    ]
    unguided, guided = rows(w=0.0), rows(w=2.0)
    np.testing.assert_allclose(rows(w=2.0, guide_above=1e5)[:, :6], unguided[:, :6], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(rows(w=2.0, guide_below=1e5)[:, :6], guided[:, :6], rtol=1e-4, atol=1e-4)
    part = rows(w=2.0, guide_above=0.1, guide_below=5.0)
    assert all(np.abs(part - other)[:, :6].max() > 1e-2 for other in (guided, unguided))


@pytest.mark.parametrize("solver", ["dpm++2m", "dpm++2m-sde", "dpm++3m"])
def test_solvers_draw_the_same_distribution(data, trained, solver):
    config, state = trained
    faster = dataclasses.replace(config, solver=solver, sampler_steps=20, w=0.0)
    for source, centre in ((ONLINE, 1.0), (OFFLINE, -1.0)):
        rows, metrics = jitted(faster)[2](state, jax.random.key(2), source, 1_000)
        assert metrics["rejected"] < 5
        assert rows[:, LAYOUT.next_obs].mean() == pytest.approx(centre, abs=0.2)
        assert rows[:, LAYOUT.next_obs].std() == pytest.approx(0.3, abs=0.12)


def test_other_options(data):
    config = dataclasses.replace(SMALL, label_embed="onehot_concat", precision="bfloat16", w=0.0)
    init, fit, generate = jitted(config)
    state, metrics = fit(init(jax.random.key(0), *data), *data, jax.random.key(1), 5)
    rows, _ = generate(state, jax.random.key(2), OFFLINE, 6)
    assert np.isfinite(metrics["loss"]) and np.all(np.isfinite(rows[:, : LAYOUT.mc_return]))


def test_no_offline_rows_are_refused(data):
    with pytest.raises(UserError, match="needs offline rows"):
        cfdg(SMALL, SPEC).init(jax.random.key(0), data[0][:0], data[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 255}, "augment.batch: is 255; must be even"),
        ({"width": 0}, "augment.width: is 0; must be at least 1"),
        ({"sampler_steps": 1}, "augment.sampler_steps: is 1; must be at least 2"),
        ({"w": -0.1}, "augment.w: is -0.1; must be at least 0"),
        ({"churn": -1.0}, "augment.churn: is -1.0; must be at least 0"),
        ({"p_uncond": 1.5}, "augment.p_uncond: is 1.5; must lie between 0 and 1"),
        ({"online_share": -0.2}, "augment.online_share: is -0.2; must lie between 0 and 1"),
        ({"recent_window": 1}, "augment.recent_window: is 1; must be 0"),
        ({"guide_above": 2.0, "guide_below": 1.0}, "augment.guide_below: is 1.0; must be greater than guide_above"),
        ({"lr": 0.0}, "augment.lr: is 0.0; must be positive"),
        ({"p_uncond": 0.0}, "augment.p_uncond: is 0 while w is 0.3"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(UserError) as error:
        CFDGConfig(**fields)
    assert message in str(error.value)


def test_labels_name_both_synthetic_sources():
    assert (
        module.LABELS == {ONLINE: module.ONLINE, OFFLINE: module.OFFLINE} and module.NULL not in module.LABELS.values()
    )


def test_modelling_changes_gives_back_next_observations_of_the_right_size():
    """Where s' = s + 0.01 noise, generated changes are as small as the data's, which absolute s' cannot resolve."""
    spec, rng = Spec(obs_dim=2, act_dim=1, horizon=10), np.random.default_rng(0)
    obs = rng.normal(size=(2_000, 2)).astype(np.float32) * 10
    next_obs = obs + 0.01 * rng.normal(size=obs.shape)
    rows = jnp.asarray(spec.layout.pack(obs, np.tanh(obs[:, :1]), obs[:, 0], next_obs, 0.0, 0.0, 0.0, xp=np))
    spread = {}
    for kind in ("absolute", "change"):
        config = CFDGConfig(width=32, steps=300, batch=64, sampler_steps=16, churn=0.0, next_obs=kind)
        made = cfdg(config, dataclasses.replace(spec, terminates=False))
        state = made.init(jax.random.key(0), rows, ring.full(rows))
        state, _ = jax.jit(made.fit, static_argnames="steps")(
            state, rows, ring.full(rows), jax.random.key(1), steps=300
        )
        new, _ = jax.jit(made.generate, static_argnums=(2, 3))(state, jax.random.key(2), 3, 500)
        spread[kind] = float(np.std(new[:, spec.layout.next_obs] - new[:, spec.layout.obs]))
        assert np.std(new[:, spec.layout.obs]) == pytest.approx(10, rel=0.2)
    assert spread["change"] == pytest.approx(0.01, rel=0.3) and spread["absolute"] > 0.1
