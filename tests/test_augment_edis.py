"""EDIS's generator: what the energies learn, how they push, the two kinds of steps, the released contrast."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfdg_jax.augment import edis as module
from cfdg_jax.augment.edis import Columns, EDISConfig, edis, energy_guidance, energy_inputs, energy_network
from cfdg_jax.core import ring
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import Normaliser
from cfdg_jax.diffusion.guidance import inpainted
from cfdg_jax.diffusion.samplers import Solver, integrate, sample
from cfdg_jax.errors import UserError
from cfdg_jax.types import Source, Spec

SPEC = Spec(obs_dim=2, act_dim=1, horizon=100)
LAYOUT = SPEC.layout
SMALL = EDISConfig(
    width=16, blocks=1, dim_t=8, steps=6, batch=16, solver="dpm++2m", sampler_steps=4,
    energy_steps=3, energy_batch=8, energy_hidden=(16,), negatives=2,
)  # fmt: skip
ONLINE = int(Source.SYNTHETIC_ONLINE)
COLUMNS = 6
MASKS = Columns.of(LAYOUT, COLUMNS)
IDENTITY = Normaliser(jnp.zeros(COLUMNS), jnp.ones(COLUMNS))


def rows_around(centre, count, source, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (centre + 0.3 * rng.normal(size=(count, *shape))).astype(np.float32)
    action, terminal = np.clip(normal(1), -1, 1), rng.random(count) < 0.2
    return jnp.asarray(LAYOUT.pack(normal(2), action, normal(), normal(2), terminal, -np.inf, source, xp=np))


@pytest.fixture(scope="module")
def data():
    online = ring.insert(ring.empty(100, LAYOUT.width), rows_around(1.0, 60, Source.ONLINE, seed=1))
    return rows_around(-1.0, 300, Source.OFFLINE), online


@pytest.fixture(scope="module")
def fitted(data):
    """The small generator's jitted functions, and its states before, between and after the two kinds of steps."""
    augmenter = edis(SMALL, SPEC, True)
    fit = jax.jit(augmenter.fit, static_argnums=4)
    states, metrics = [jax.jit(augmenter.init)(jax.random.key(0), *data)], [{}]
    for i in range(3):
        state, made = fit(states[-1], *data, jax.random.fold_in(jax.random.key(1), i), 3)
        states.append(state)
        metrics.append(made)
    return augmenter, fit, states, metrics


def differ(a, b):
    return any(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# -- columns that are known --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [Solver(64), Solver(24, "dpm++3m")], ids=lambda solver: solver.kind)
def test_known_columns_are_kept_and_the_others_follow(solver):
    """A correlated Gaussian: what is drawn beside a known column has nearly its conditional mean and spread."""
    rho, count = 0.8, 4_000
    covariance = jnp.array([[1.0, rho], [rho, 1.0]])
    ideal = lambda x, sigma: x @ jnp.linalg.solve(covariance + sigma**2 * jnp.eye(2), covariance)
    known = jnp.full((count, 2), 1.5).at[:, 1].set(jnp.nan)
    field = inpainted(ideal, known, jnp.array([True, False]))
    x = np.asarray(jax.jit(lambda key: sample(field, solver, key, (count, 2)))(jax.random.key(0)))
    np.testing.assert_allclose(x[:, 0], 1.5, rtol=1e-4)
    assert x[:, 1].mean() == pytest.approx(rho * 1.5, abs=0.09) and x[:, 1].std() == pytest.approx(0.6, abs=0.05)


def test_columns_without_a_tie_are_not_moved_by_known_ones():
    ideal = lambda x, sigma: x / (1 + sigma**2)
    field = inpainted(ideal, jnp.full((3, 2), 7.0), jnp.array([True, False]))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    out = field(x, jnp.float32(0.7))
    np.testing.assert_allclose(out[:, 1], ideal(x, 0.7)[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        out[:, 0], 7.0, rtol=1e-5, atol=1e-6
    )  # one column by itself: the pseudo-inverse is exact


# -- energies ----------------------------------------------------------------------------------------------------------


def test_energies_learn_the_log_ratio_of_online_and_generated_rows():
    """Generated N(0, 1), online N(1, 1): at noise sigma the log ratio has the slope 1 / (1 + sigma^2) everywhere.

    The policy's and the transition's negatives share s, so in s these two learn nothing.
    """
    config = dataclasses.replace(
        SMALL, energy_batch=256, negatives=4, energy_hidden=(48,), sampler_steps=8, solver="dpm++3m"
    )
    energy, adam = energy_network(config, COLUMNS), optax.adam(1e-2)
    ideal = lambda x, sigma: x / (1 + sigma**2)

    @jax.jit
    def train(key):
        params = energy.init(key)

        def step(carry, key):
            params, moments = carry
            row_key, loss_key = jax.random.split(key)
            rows = 1.0 + jax.random.normal(row_key, (256, COLUMNS))
            loss = module._corrected(config, energy, MASKS, ideal, IDENTITY, rows, loss_key)
            value, gradient = jax.value_and_grad(loss)(params)
            updates, moments = adam.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), value

        return jax.lax.scan(step, (params, adam.init(params)), jax.random.split(key, 250))[0][0]

    params = train(jax.random.key(0))
    for sigma in (0.05, 1.0):
        x = 0.5 + np.hypot(1, sigma) * jax.random.normal(jax.random.key(1), (400, COLUMNS))
        value = lambda x, kind, sigma=sigma: energy.apply(params, energy_inputs(x, sigma, "corrected", IDENTITY))[kind]
        slopes = [-jax.grad(lambda x, k=k, value=value: value(x, k).sum())(x).mean(axis=0) for k in range(3)]
        expected = 1 / (1 + sigma**2)
        assert slopes[module.STATE][:2].mean() == pytest.approx(expected, rel=0.35)
        assert slopes[module.POLICY][2] == pytest.approx(expected, rel=0.45)
        assert slopes[module.TRANSITION][4:].mean() == pytest.approx(expected, rel=0.35)
        assert abs(slopes[module.POLICY][:2].mean()) < 0.3 * expected
        assert abs(slopes[module.TRANSITION][:3].mean()) < 0.3 * expected


@pytest.mark.parametrize("part", ["state", "action", "next_state"])
def test_the_score_form_samples_the_tilted_density(part):
    """Exact energies of N(m, 1) over N(0, 1): the pushed columns move by m, all others stay."""
    config = dataclasses.replace(SMALL, kappa_state=1.0, kappa_policy=1.0, kappa_transition=1.0, kappa_of="score")
    shift, kind = 0.8, ["state", "action", "next_state"].index(part)
    energies = lambda x, sigma: jnp.zeros((3, len(x))).at[kind].set(-shift * x.sum(axis=1) / (1 + sigma**2))
    guided = energy_guidance(lambda x, sigma: x / (1 + sigma**2), energies, config, MASKS)
    start = jnp.concatenate([jnp.zeros((1, COLUMNS)), jnp.eye(COLUMNS)])
    out = np.asarray(jax.jit(lambda: integrate(guided, Solver(32, "dpm++3m"), start, None))())
    np.testing.assert_allclose(out[0], shift * getattr(MASKS, part) * (1 - 1 / 80), atol=0.02)
    np.testing.assert_allclose(out[1:] - out[0], np.eye(COLUMNS), atol=0.02)


def test_the_slope_form_adds_scaled_gradients_to_the_slope_and_clips_them():
    config = dataclasses.replace(SMALL, kappa_state=2.0, kappa_policy=0.1, kappa_transition=0.5)
    plain, sigma = lambda x, sigma: 0.3 * x, jnp.float32(1.7)
    energies = lambda x, sigma: jnp.stack([3 * x.sum(1), 5 * x.sum(1), (x**2).sum(1)]) * sigma
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, COLUMNS)), jnp.float32)
    push = 1.7 * np.c_[np.full((4, 2), 2 * 3), np.full((4, 1), 0.1 * 5), np.zeros((4, 1)), 0.5 * 2 * x[:, 4:]]
    slope = lambda guided: (x - guided(x, sigma)) / sigma - (x - plain(x, sigma)) / sigma
    np.testing.assert_allclose(slope(energy_guidance(plain, energies, config, MASKS)), push, rtol=1e-4, atol=1e-4)
    units = jnp.arange(1.0, 7.0)
    scaled = slope(energy_guidance(plain, energies, config, MASKS, units))
    np.testing.assert_allclose(scaled, push / units, rtol=1e-4, atol=1e-4)
    clipped = slope(energy_guidance(plain, energies, dataclasses.replace(config, guidance_clip=0.5), MASKS))
    norms = np.linalg.norm(clipped, axis=1)
    np.testing.assert_allclose(norms, 0.5 * COLUMNS**0.5, rtol=1e-4)
    np.testing.assert_allclose(clipped / norms[:, None], push / np.linalg.norm(push, axis=1, keepdims=True), atol=1e-4)
    off = dataclasses.replace(config, kappa_state=0.0, kappa_policy=0.0, kappa_transition=0.0)
    assert energy_guidance(plain, energies, off, MASKS) is plain


def test_the_released_contrast_in_numpy():
    """Group by group and level by level, with the indices that flat arrays ordered by level give."""
    config = dataclasses.replace(SMALL, contrast="released", energy_every=40, negatives=3)
    energy, count = energy_network(config, COLUMNS), 5
    params, key = energy.init(jax.random.key(0)), jax.random.key(1)
    rows = jax.random.normal(jax.random.key(2), (count, COLUMNS))
    normaliser = Normaliser(jnp.arange(6.0), 0.02 * jnp.arange(1.0, 7.0))
    ours = module._released(config, energy, MASKS, None, normaliser, rows, key)(params)

    steps, levels = [0, 40, 80, 120], edm.schedule(128)
    noise_key, start_key = jax.random.split(key)
    noise = np.asarray(jax.random.normal(noise_key, (3, 4, count, COLUMNS)))
    start = np.asarray(jax.random.normal(start_key, (3, count * 3, COLUMNS)))
    loss = 0.0
    for kind, shared in enumerate((0, 2, 3)):
        positive, negative = [], []
        for i, step in enumerate(steps):
            for b in range(count):
                positive.append([*(np.asarray(rows[b]) + levels[step] * noise[kind, i, b]), step])
            for j in range(count * 3):
                constant = np.where(np.arange(6) < shared, rows[j // 3], 0.0)
                pure = np.asarray(normaliser.mean) + np.asarray(normaliser.std) * 80.0 * start[kind, j]
                negative.append([*(constant if i else pure), step])
        of = lambda x, kind=kind: np.asarray(energy.apply(params, jnp.asarray(np.array(x, np.float32))))[kind]
        high, low = of(positive), of(negative)
        if kind == 0:
            everything = np.concatenate([high[:count], low[: count * 3]])
            loss += sum(h + np.log(np.exp(-everything).sum()) for h in high[:count])
            continue
        for b in range(count):
            for level in range(4):
                mine = high[b * 4 + level]
                others = [low[b * 12 + n * 4 + level] for n in range(3)]
                loss += mine + np.log(np.exp(-np.array([mine, *others])).sum())
    assert ours == pytest.approx(loss, rel=1e-4)


def test_inputs_of_the_energies():
    x, sigma = jnp.ones((2, 3)), jnp.array([80.0, 0.002])
    normaliser = Normaliser(jnp.array([0.0, 5.0, 0.0]), jnp.array([1.0, 2.0, 10.0]))
    released = energy_inputs(x, sigma, "released", normaliser)
    np.testing.assert_allclose(released, [[1, 7, 10, 0], [1, 7, 10, 127]], rtol=1e-5, atol=1e-4)
    ours = energy_inputs(x, sigma, "corrected", normaliser)
    np.testing.assert_allclose(ours[:, -1], 0.25 * np.log([80.0, 0.002]), rtol=1e-5)
    np.testing.assert_allclose(ours[:, 0], 1 / np.sqrt([6401, 1 + 4e-6]), rtol=1e-5)


# -- contract ----------------------------------------------------------------------------------------------------------


def test_a_refresh_trains_the_denoiser_first_and_the_energies_after(fitted):
    augmenter, _, states, metrics = fitted
    assert augmenter.fit_steps == 9 and [int(state.step) for state in states] == [0, 3, 6, 9]
    assert [int(state.denoiser.step) for state in states] == [0, 3, 6, 6]
    moved = [(differ(a.denoiser, b.denoiser), differ(a.energies, b.energies)) for a, b in itertools.pairwise(states)]
    assert moved == [(True, False), (True, False), (False, True)]
    assert float(metrics[2]["energy_loss"]) == 0.0 < float(metrics[3]["energy_loss"])
    assert metrics[3]["loss"] == metrics[2]["loss"] > 0


def test_a_call_may_hold_both_kinds_of_steps_and_all_seeds(fitted, data):
    augmenter, fit, states, _ = fitted
    keys = jax.random.split(jax.random.key(5), 2)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), states[1])
    many = jax.jit(jax.vmap(lambda state, key: augmenter.fit(state, *data, key, 5)[0]))(stacked, keys)
    alone, _ = fit(states[1], *data, keys[1], 5)
    assert int(alone.step) == 8 and int(alone.denoiser.step) == 6
    assert int(alone.opt_state[0].count) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=2e-5), many, alone)


def test_a_condition_on_the_step_is_not_run_for_both_kinds(data):
    """Batched over seeds the two loops keep their own lengths: neither becomes a select over the whole state."""
    augmenter = edis(SMALL, SPEC, True)
    states = jax.eval_shape(jax.vmap(lambda key: augmenter.init(key, *data)), jax.random.split(jax.random.key(0), 2))
    fit = jax.vmap(lambda state, key: augmenter.fit(state, *data, key, 5)[0])
    traced = jax.make_jaxpr(fit)(states, jax.random.split(jax.random.key(0), 2))
    loops = [e for e in traced.jaxpr.eqns if e.primitive.name == "while"]
    assert len(loops) == 2
    for loop in loops:
        (condition,) = [e for e in loop.params["cond_jaxpr"].jaxpr.eqns if e.primitive.name == "lt"]
        assert condition.outvars[0].aval.shape == ()


@pytest.mark.parametrize("terminals", [True, False])
def test_rows_are_whole_and_online(data, fitted, terminals):
    augmenter, _, states, _ = fitted
    state = states[-1]
    if not terminals:
        augmenter = edis(dataclasses.replace(SMALL, terminals=False), SPEC, True)
        state = jax.jit(augmenter.init)(jax.random.key(0), *data)
    rows, metrics = jax.jit(augmenter.generate, static_argnums=(2, 3))(state, jax.random.key(1), ONLINE, 20)
    batch = LAYOUT.unpack(rows)
    assert augmenter.shares == {ONLINE: 1.0} and metrics["rejected"].dtype == jnp.float32
    assert rows.shape == (20, LAYOUT.width) and np.all(batch.source == ONLINE)
    assert np.all(np.isfinite(np.delete(np.asarray(rows), LAYOUT.mc_return, axis=1)))
    assert set(np.unique(batch.terminal)) <= ({0.0, 1.0} if terminals else {0.0})


def test_the_released_contrast_runs(data):
    augmenter = edis(dataclasses.replace(SMALL, contrast="released", steps=1, energy_steps=2), SPEC, False)
    state = jax.jit(augmenter.init)(jax.random.key(0), *data)
    state, metrics = jax.jit(augmenter.fit, static_argnums=4)(state, *data, jax.random.key(1), 3)
    rows, _ = jax.jit(augmenter.generate, static_argnums=(2, 3))(state, jax.random.key(2), ONLINE, 4)
    assert np.isfinite(metrics["energy_loss"]) and np.all(np.isfinite(rows[:, : LAYOUT.mc_return]))


def test_published_constants():
    config = EDISConfig()
    assert (config.kappa_state, config.kappa_policy, config.kappa_transition) == (2.0, 0.1, 0.1)
    assert (config.energy_hidden, config.energy_lr, config.energy_steps) == ((256, 256, 256), 1e-3, 20)
    assert (config.negatives, config.energy_batch, config.width, config.steps) == (10, 256, 1024, 30_000)
    params = jax.eval_shape(energy_network(config, COLUMNS).init, jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 3] == [
        (3, 7, 256), (3, 256, 256), (3, 256, 256), (3, 256, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 5}, "augment.batch: is 5; must be even"),
        ({"energy_steps": 0}, "augment.energy_steps: is 0; must be at least 1"),
        ({"energy_every": 129}, "augment.energy_every: is 129; must be 1 to 128"),
        ({"kappa_policy": -1.0}, "augment.kappa_policy: is -1.0; must be at least 0"),
        ({"guidance_clip": 0.0}, "augment.guidance_clip: is 0.0; must be positive"),
        ({"energy_hidden": (8, 0)}, "augment.energy_hidden: has a width of 0"),
        ({"energy_window": -1}, "augment.energy_window: is -1; must be at least 0"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(UserError) as error:
        EDISConfig(**fields)
    assert message in str(error.value)


def test_no_offline_rows_are_refused(data):
    with pytest.raises(UserError, match=r"augment\.data: is pooled but there are no offline rows"):
        edis(SMALL, SPEC, True).init(jax.random.key(0), data[0][:0], data[1])
