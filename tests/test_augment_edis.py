"""EDIS's generator: what the energies learn, how they push, the two kinds of steps, the release number by number."""

import dataclasses
import itertools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfdg_jax.augment import energies as module
from cfdg_jax.augment.edis import ENERGY_LR, VARIANTS, EDISConfig, edis
from cfdg_jax.augment.energies import Columns, Energies, Switches, energy_network, energy_push, inputs, pushed
from cfdg_jax.core import ring
from cfdg_jax.core.packed import unpack
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import Normaliser, fit_normaliser, unnormalise
from cfdg_jax.diffusion.guidance import inpainted
from cfdg_jax.diffusion.network import resmlp
from cfdg_jax.diffusion.samplers import Solver, integrate, sample
from cfdg_jax.errors import UserError
from cfdg_jax.types import Source, Spec

pytestmark = pytest.mark.usefixtures("generators_are_shallow")

SPEC = Spec(obs_dim=2, act_dim=1, horizon=100)
LAYOUT = SPEC.layout
SMALL = EDISConfig(
    width=16, steps=6, batch=16, solver="dpm++2m", sampler_steps=4,
    energy_steps=3, energy_batch=8, energy_hidden=(16,), negatives=2,
)  # fmt: skip
ONLINE = int(Source.SYNTHETIC_ONLINE)
COLUMNS = 6
MASKS = Columns.of(LAYOUT, COLUMNS)
IDENTITY = Normaliser(jnp.zeros(COLUMNS), jnp.ones(COLUMNS))
RELEASED = VARIANTS["released"].switches


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
    augmenter = edis(SMALL, SPEC)
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
    energy, adam = energy_network((48,), COLUMNS), optax.adam(1e-2)
    energies = Energies(energy, MASKS, 4, Solver(8, "dpm++3m"), Switches())
    ideal = lambda x, sigma: x / (1 + sigma**2)

    @jax.jit
    def train(key):
        params = energy.init(key)

        def step(carry, key):
            params, moments = carry
            row_key, loss_key = jax.random.split(key)
            rows = 1.0 + jax.random.normal(row_key, (256, COLUMNS))
            loss = module.contrast(energies, ideal, IDENTITY, rows, loss_key)
            value, gradient = jax.value_and_grad(loss)(params)
            updates, moments = adam.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), value

        return jax.lax.scan(step, (params, adam.init(params)), jax.random.split(key, 250))[0][0]

    params = train(jax.random.key(0))
    for sigma in (0.05, 1.0):
        x = 0.5 + np.hypot(1, sigma) * jax.random.normal(jax.random.key(1), (400, COLUMNS))
        value = lambda x, kind, sigma=sigma: energies(params, x, sigma, IDENTITY)[kind]
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
    exact = VARIANTS["exact"]
    shift, kind = 0.8, ["state", "action", "next_state"].index(part)
    energies = lambda x, sigma: jnp.zeros((3, len(x))).at[kind].set(-shift * x.sum(axis=1) / (1 + sigma**2))
    push = energy_push(energies, exact.fields["kappa"], MASKS)
    guided = pushed(lambda x, sigma: x / (1 + sigma**2), push, exact.switches.kappa_of)
    start = jnp.concatenate([jnp.zeros((1, COLUMNS)), jnp.eye(COLUMNS)])
    out = np.asarray(jax.jit(lambda: integrate(guided, Solver(32, "dpm++3m"), start, None))())
    np.testing.assert_allclose(out[0], shift * getattr(MASKS, part) * (1 - 1 / 80), atol=0.02)
    np.testing.assert_allclose(out[1:] - out[0], np.eye(COLUMNS), atol=0.02)


def test_the_slope_form_adds_scaled_gradients_to_the_slope_and_clips_them(monkeypatch):
    kappa, plain, sigma = (2.0, 0.1, 0.5), lambda x, sigma: 0.3 * x, jnp.float32(1.7)
    energies = lambda x, sigma: jnp.stack([3 * x.sum(1), 5 * x.sum(1), (x**2).sum(1)]) * sigma
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, COLUMNS)), jnp.float32)
    push = 1.7 * np.c_[np.full((4, 2), 2 * 3), np.full((4, 1), 0.1 * 5), np.zeros((4, 1)), 0.5 * 2 * x[:, 4:]]
    slope = lambda guided: (x - guided(x, sigma)) / sigma - (x - plain(x, sigma)) / sigma
    guided = lambda *units: pushed(plain, energy_push(energies, kappa, MASKS, *units))
    np.testing.assert_allclose(slope(guided()), push, rtol=1e-4, atol=1e-4)
    units = jnp.arange(1.0, 7.0)
    np.testing.assert_allclose(slope(guided(units)), push / units, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(module, "LONGEST", 0.5)
    clipped = slope(guided())
    norms = np.linalg.norm(clipped, axis=1)
    np.testing.assert_allclose(norms, 0.5 * COLUMNS**0.5, rtol=1e-4)
    np.testing.assert_allclose(clipped / norms[:, None], push / np.linalg.norm(push, axis=1, keepdims=True), atol=1e-4)
    assert pushed(plain, energy_push(energies, (0.0, 0.0, 0.0), MASKS)) is plain


def test_the_released_contrast_in_numpy():
    """Group by group and level by level, with the indices that flat arrays ordered by level give."""
    energy, count = energy_network((16,), COLUMNS), 5
    energies = Energies(energy, MASKS, 3, Solver(4), dataclasses.replace(RELEASED, every=40))
    params, key = energy.init(jax.random.key(0)), jax.random.key(1)
    rows = jax.random.normal(jax.random.key(2), (count, COLUMNS))
    normaliser = Normaliser(jnp.arange(6.0), 0.02 * jnp.arange(1.0, 7.0))
    ours = module.contrast(energies, None, normaliser, rows, key)(params)

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
    released = inputs(x, sigma, RELEASED, normaliser)
    np.testing.assert_allclose(released, [[1, 7, 10, 0], [1, 7, 10, 127]], rtol=1e-5, atol=1e-4)
    ours = inputs(x, sigma, Switches(), normaliser)
    np.testing.assert_allclose(ours[:, -1], 0.25 * np.log([80.0, 0.002]), rtol=1e-5)
    np.testing.assert_allclose(ours[:, 0], 1 / np.sqrt([6401, 1 + 4e-6]), rtol=1e-5)


# -- the release (golden/edis.npz) -------------------------------------------------------------------------------------

KINDS = {"state": module.STATE, "policy": module.POLICY, "transition": module.TRANSITION}
GOLDEN_SPEC = Spec(obs_dim=5, act_dim=3, horizon=100)
GOLDEN_MASKS = Columns.of(GOLDEN_SPEC.layout, 14)


@pytest.fixture
def released(golden_dir):
    """The file; variant "released" at its size, 16 levels of which every fourth is learnt; the energies' weights."""
    with jax.enable_x64(True):
        z = golden.load(golden_dir, "edis.npz")
        switches = dataclasses.replace(RELEASED, levels=16, every=4)
        energies = Energies(energy_network((32, 32, 32), 14), GOLDEN_MASKS, 4, Solver(16), switches)
        params = golden.stacked(z, [f"small/init/E_{kind}" for kind in KINDS], np.float64)
        yield z, energies, jax.tree.map(jnp.asarray, params)


def released_loss(energies, params, z, kind):
    """The loss of one energy on the file's own positives and negatives, with its terms."""
    of = lambda name: jnp.asarray(z[f"small/f64/{kind}/step1/{name}_x"])
    high, low = (energies.network.apply(params, of(name))[KINDS[kind]] for name in ("positive", "negative"))
    loss = module.one_group if kind == "state" else module.mixed_groups
    return loss(high.reshape(4, 64), low.reshape(4, 256)), (high, low)


@pytest.mark.parametrize("kind", list(KINDS))
def test_losses_and_gradients_equal_the_released_code(released, kind):
    z, energies, params = released
    at = f"small/f64/{kind}"
    of = lambda params: released_loss(energies, params, z, kind)
    (loss, (high, low)), gradient = jax.value_and_grad(of, has_aux=True)(params)
    np.testing.assert_allclose(high, z[f"{at}/step1/positive_energy"], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(low, z[f"{at}/step1/negative_energy"], rtol=1e-9, atol=1e-11)
    assert float(loss) == pytest.approx(float(z[f"{at}/step1/loss"]), rel=1e-9)
    updates, _ = optax.adam(ENERGY_LR).update(gradient, optax.adam(ENERGY_LR).init(params))
    after = optax.apply_updates(params, updates)
    for name, value in golden.flatten(golden.member(gradient, KINDS[kind])).items():
        golden.compare(z, f"{at}/step1/grad/E_{kind}/{name}", value, 1e-9 * np.abs(value).max() + 1e-9)
    for name, value in golden.flatten(golden.member(after, KINDS[kind])).items():
        if name != "l3/b":  # its gradient is zero but for rounding, of which Adam makes a step
            golden.compare(z, f"{at}/after1/E_{kind}/{name}", value, 1e-7)


def test_the_full_width_equals_the_released_code(released, golden_full_dir):
    _, energies, _ = released
    z = golden.load(golden_full_dir, "edis.npz")
    energies = energies._replace(network=energy_network((256, 256, 256), 14))
    params = jax.tree.map(jnp.asarray, golden.stacked(z, ["full/init/E_state"] * 3, np.float64))
    of = lambda params: released_loss(energies, params, z, "state")
    (loss, (high, low)), gradient = jax.value_and_grad(of, has_aux=True)(params)
    np.testing.assert_allclose(high, z["full/f64/state/step1/positive_energy"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(low, z["full/f64/state/step1/negative_energy"], rtol=0, atol=1e-9)
    assert float(loss) == pytest.approx(float(z["full/f64/state/step1/loss"]), rel=1e-9)
    for name, value in golden.flatten(golden.member(gradient, module.STATE)).items():
        golden.compare(z, f"full/f64/state/step1/grad/E_state/{name}", value, 1e-7 * np.abs(value).max() + 1e-9)


def test_the_inputs_of_the_released_loss_are_those_of_the_variant(released):
    """What rows there are at each level: constants below the highest, of which the negatives are as many rows."""
    z, energies, _ = released
    levels, numbers = energies.levels()
    np.testing.assert_allclose(levels, edm.schedule(16)[[0, 4, 8, 12]])
    rows = np.c_[z["batch/obs"], z["batch/act"], z["batch/rew"], z["batch/next_obs"]]
    for kind in ("transition", "policy"):
        negative = z[f"small/f64/{kind}/step1/negative_x"].reshape(4, 256, 15)
        np.testing.assert_array_equal(negative[:, 0, -1], numbers)
        kept = GOLDEN_MASKS.shared()[KINDS[kind]]
        known = np.repeat(np.where(kept, rows, 0.0), 4, axis=0)
        assert np.abs(negative[1:, :, 8:14]).max() < 1e-9 and np.abs(negative[0]).max() > 100
        np.testing.assert_allclose(negative[1:, :, :8][..., kept[:8]], np.stack([known[:, kept]] * 3), atol=1e-6)


@pytest.mark.parametrize("name", ["defaults", "clipped", "half"])
def test_the_push_equals_the_released_code(released, name):
    """Its gradients in raw units at noise step 7, masked, scaled, and cut to 10 sqrt(14)."""
    z, energies, params = released
    state, transition, policy, share = z[f"small/f64/guidance/{name}_kappa"]
    raw, at = jnp.asarray(z["small/f64/guidance/x"], jnp.float64), jnp.asarray(edm.schedule(16)[7])
    units = Normaliser(jnp.zeros(14), jnp.ones(14))
    push = energy_push(lambda x, sigma: energies(params, x, sigma, units), (state, policy, transition), GOLDEN_MASKS)
    np.testing.assert_allclose(share * push(raw, at), z[f"small/f64/guidance/{name}"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("guided", [False, True])
def test_samples_equal_the_released_code(released, guided):
    """Energies are asked before churn, and with the step's own number for both slopes of heun."""
    z, energies, params = released
    normaliser = fit_normaliser([(jnp.asarray(z["normaliser_data"], jnp.float64), None)], 14)
    names = {"in": "proj", "time1": "time1", "time2": "time2", "up": "in", "out": "out"} | {
        f"block{i}": f"block{i}" for i in range(2)
    }
    read = lambda name: jnp.asarray(z[f"small/init/net/{name}"], jnp.float64)
    weights = {ours: {"kernel": read(f"{theirs}/W"), "bias": read(f"{theirs}/b")} for ours, theirs in names.items()}
    denoise = edm.denoiser(resmlp(14, width=32, dim_t=16, blocks=2), weights | {"frequencies": read("fourier")})
    asked = lambda x, sigma: energies(params, x, sigma, normaliser)
    state, transition, policy, _ = z["small/f64/guidance/defaults_kappa"]
    push = energy_push(asked, (state, policy, transition), GOLDEN_MASKS, normaliser.std) if guided else None
    start, churn = (jnp.asarray(z[f"small/noise/sample_{name}"], jnp.float64) for name in ("init", "churn"))
    assert energies.switches.before_churn
    draw = lambda start: integrate(denoise, energies.solver, start, lambda step: churn[step], push=push)
    ours = unnormalise(normaliser, jax.jit(draw)(start))
    reference = z["small/f64/sample/guided" if guided else "small/f64/sample/unguided"]
    np.testing.assert_allclose(ours, reference, rtol=0, atol=2e-5 * np.abs(reference).max())
    if guided:  # asked where the denoiser is, the samples are others
        wrapped = integrate(pushed(denoise, push), energies.solver, start, lambda step: churn[step])
        assert np.abs(unnormalise(normaliser, wrapped) - reference).max() > 1e-2 * np.abs(reference).max()


# -- contract ----------------------------------------------------------------------------------------------------------


def test_a_refresh_trains_the_denoiser_first_and_the_energies_after(fitted):
    augmenter, _, states, metrics = fitted
    assert augmenter.fit_steps == 9 and [int(state.step) for state in states] == [0, 3, 6, 9]
    assert [int(state.rows.denoiser.step) for state in states] == [0, 3, 6, 6]
    moved = [
        (differ(a.rows.denoiser, b.rows.denoiser), differ(a.energies, b.energies))
        for a, b in itertools.pairwise(states)
    ]
    assert moved == [(True, False), (True, False), (False, True)]
    assert float(metrics[2]["energy_loss"]) == 0.0 < float(metrics[3]["energy_loss"])
    assert metrics[3]["loss"] == metrics[2]["loss"] > 0


def test_a_call_may_hold_both_kinds_of_steps_and_all_seeds(fitted, data):
    augmenter, fit, states, _ = fitted
    keys = jax.random.split(jax.random.key(5), 2)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), states[1])
    many = jax.jit(jax.vmap(lambda state, key: augmenter.fit(state, *data, key, 5)[0]))(stacked, keys)
    alone, _ = fit(states[1], *data, keys[1], 5)
    assert int(alone.step) == 8 and int(alone.rows.denoiser.step) == 6
    assert int(alone.opt_state[0].count) == 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=2e-5), many, alone)


def test_a_condition_on_the_step_is_not_run_for_both_kinds(data):
    """Batched over seeds the two loops keep their own lengths: neither becomes a select over the whole state."""
    augmenter = edis(SMALL, SPEC)
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
        augmenter = edis(dataclasses.replace(SMALL, variant="released"), SPEC)
        state = jax.jit(augmenter.init)(jax.random.key(0), *data)
    rows, metrics = jax.jit(augmenter.generate, static_argnums=(2, 3))(state, jax.random.key(1), ONLINE, 20)
    batch = LAYOUT.unpack(rows)
    assert augmenter.shares == {ONLINE: 1.0} and metrics["rejected"].dtype == jnp.float32
    assert rows.shape == (20, LAYOUT.width) and np.all(batch.source == ONLINE)
    assert np.all(np.isfinite(np.delete(np.asarray(rows), LAYOUT.mc_return, axis=1)))
    assert set(np.unique(batch.terminal)) <= ({0.0, 1.0} if terminals else {0.0})


@pytest.mark.parametrize("solver", ["heun", "dpm++2m"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant_runs(data, variant, solver):
    augmenter = edis(dataclasses.replace(SMALL, variant=variant, solver=solver, steps=1, energy_steps=2), SPEC)
    state = jax.jit(augmenter.init)(jax.random.key(0), *data)
    state, metrics = jax.jit(augmenter.fit, static_argnums=4)(state, *data, jax.random.key(1), 3)
    rows, _ = jax.jit(augmenter.generate, static_argnums=(2, 3))(state, jax.random.key(2), ONLINE, 4)
    assert np.isfinite(metrics["energy_loss"]) and np.all(np.isfinite(rows[:, : LAYOUT.mc_return]))


def test_published_constants():
    config = EDISConfig()
    assert config.kappa == (2.0, 0.1, 0.1)
    assert (config.energy_hidden, ENERGY_LR, config.energy_steps) == ((256, 256, 256), 1e-3, 20)
    assert module.LONGEST == 10.0 and (Switches().levels, Switches().every) == (128, 16)
    assert (config.negatives, config.energy_batch, config.width, config.steps) == (10, 256, 1024, 30_000)
    start = energy_network(config.energy_hidden, COLUMNS).init
    params = jax.eval_shape(lambda key: unpack(start(key)), jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim == 3] == [
        (3, 7, 256), (3, 256, 256), (3, 256, 256), (3, 256, 1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 5}, "augment.batch: is 5; must be even"),
        ({"energy_steps": 0}, "augment.energy_steps: is 0; must be at least 1"),
        ({"kappa": (1.0, -1.0, 1.0)}, "augment.kappa: is (1.0, -1.0, 1.0); must be three numbers of at least 0"),
        ({"kappa": (1.0, 1.0)}, "augment.kappa: is (1.0, 1.0); must be three numbers"),
        ({"variant": "relased"}, "augment.variant: 'relased' is unknown; did you mean released?"),
        ({"energy_hidden": (8, 0)}, "augment.energy_hidden: has a width of 0"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(UserError) as error:
        EDISConfig(**fields)
    assert message in str(error.value)


def test_no_offline_rows_are_refused(data):
    with pytest.raises(UserError, match=r"augment\.data: is pooled but there are no offline rows"):
        edis(SMALL, SPEC).init(jax.random.key(0), data[0][:0], data[1])
