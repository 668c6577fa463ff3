"""SynthER's generator: what it learns from, what it writes, and its contract."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cfdg_jax.augment.denoiser import row_network
from cfdg_jax.augment.synther import SynthERConfig, synther
from cfdg_jax.core import ring
from cfdg_jax.diffusion.samplers import Solver
from cfdg_jax.errors import UserError
from cfdg_jax.presets import make_config
from cfdg_jax.types import Source, Spec

SPEC = Spec(obs_dim=2, act_dim=1, horizon=100)
LAYOUT = SPEC.layout
SMALL = SynthERConfig(width=16, steps=20, batch=32, sampler_steps=4)
ONLINE, OFFLINE = int(Source.SYNTHETIC_ONLINE), int(Source.SYNTHETIC_OFFLINE)


def rows_around(centre, count, source, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: (centre + 0.3 * rng.normal(size=(count, *shape))).astype(np.float32)
    action, terminal = np.clip(normal(1), -1, 1), rng.random(count) < 0.2
    return jnp.asarray(LAYOUT.pack(normal(2), action, normal(), normal(2), terminal, -np.inf, source, xp=np))


@pytest.fixture(scope="module")
def data():
    """Offline rows around -1; a ring of 150 old online rows around 3, then 50 new ones around 1."""
    online = ring.insert(ring.empty(500, LAYOUT.width), rows_around(3.0, 150, Source.ONLINE, seed=1))
    return rows_around(-1.0, 2_000, Source.OFFLINE), ring.insert(online, rows_around(1.0, 50, Source.ONLINE, seed=2))


def jitted(config, spec=SPEC):
    augmenter = synther(config, spec)
    return (
        jax.jit(augmenter.init),
        jax.jit(augmenter.fit, static_argnums=4),
        jax.jit(augmenter.generate, static_argnums=(2, 3)),
    )


@pytest.mark.parametrize(
    ("config", "mean", "variance"),
    [
        (SMALL, 2.5, 0.09 + 0.75),
        (dataclasses.replace(SMALL, recent_window=50), 1.0, 0.09),
        (dataclasses.replace(SMALL, data="offline"), -1.0, 0.09),
        (dataclasses.replace(SMALL, data="pooled"), 0.75, 0.09 + 0.75 / 2 + 1.75**2),
        (dataclasses.replace(SMALL, data="pooled", recent_window=50), 0.0, 1.09),
    ],
    ids=["online", "recent", "offline", "pooled", "pooled-recent"],
)
def test_normaliser_is_of_the_rows_it_learns(data, config, mean, variance):
    state = jax.jit(synther(config, SPEC).init)(jax.random.key(0), *data)
    assert state.denoiser.normaliser.mean[0] == pytest.approx(mean, abs=0.06)
    assert state.denoiser.normaliser.std[0] ** 2 == pytest.approx(variance, rel=0.2, abs=0.02)


@pytest.mark.parametrize(
    ("choice", "centres"),
    [({}, {1.0: 0.25, 3.0: 0.75}), ({"recent_window": 50}, {1.0: 1.0}), ({"data": "offline"}, {-1.0: 1.0}),
     ({"data": "pooled", "recent_window": 50}, {-1.0: 0.5, 1.0: 0.5})],
    ids=["online", "recent", "offline", "pooled"],
)  # fmt: skip
def test_generated_rows_lie_where_the_data_chosen_lie(data, choice, centres):
    config = SynthERConfig(width=48, steps=500, batch=128, lr=3e-3, solver="dpm++3m", sampler_steps=12, **choice)
    init, fit, generate = jitted(config)
    state, metrics = fit(init(jax.random.key(0), *data), *data, jax.random.key(1), 500)
    source = OFFLINE if config.data == "offline" else ONLINE
    rows, made = generate(state, jax.random.key(2), source, 800)
    assert np.isfinite(metrics["loss"]) and made["rejected"] < 32  # of 800; these flags are no function of the state
    nearest = np.argmin(np.abs(np.asarray(rows)[:, :1] - np.array([-1.0, 1.0, 3.0])), axis=1)
    shares = np.bincount(nearest, minlength=3) / 800
    np.testing.assert_allclose(shares, [centres.get(c, 0.0) for c in (-1.0, 1.0, 3.0)], atol=0.1)


def test_rows_are_whole_and_carry_their_source(data):
    for terminates in (True, False):
        init, _, generate = jitted(SMALL, dataclasses.replace(SPEC, terminates=terminates))
        rows, metrics = generate(init(jax.random.key(0), *data), jax.random.key(1), ONLINE, 20)
        batch = LAYOUT.unpack(rows)
        assert rows.shape == (20, LAYOUT.width) and metrics["rejected"].dtype == jnp.float32
        assert np.all(np.isfinite(np.delete(np.asarray(rows), LAYOUT.mc_return, axis=1)))
        assert np.all(np.abs(batch.action) <= 1 - 1e-5) and np.all(batch.source == ONLINE)
        assert set(np.unique(batch.terminal)) <= ({0.0, 1.0} if terminates else {0.0})


def test_all_rows_are_of_one_source():
    shares = {data: synther(dataclasses.replace(SMALL, data=data), SPEC).shares for data in ("online", "pooled")}
    assert shares == {"online": {ONLINE: 1.0}, "pooled": {ONLINE: 1.0}}
    assert synther(dataclasses.replace(SMALL, data="offline"), SPEC).shares == {OFFLINE: 1.0}
    assert synther(SynthERConfig(), SPEC).fit_steps == 100_000


def test_offline_needs_no_online_rows_and_online_no_offline_ones(data):
    offline, online = data
    empty = ring.empty(10, LAYOUT.width)
    for config, rows in (
        (dataclasses.replace(SMALL, data="offline"), (offline, empty)),
        (SMALL, (offline[:0], online)),
    ):
        init, fit, _ = jitted(config)
        state, metrics = fit(init(jax.random.key(0), *rows), *rows, jax.random.key(1), 3)
        assert np.isfinite(metrics["loss"]) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    for choice in ("offline", "pooled"):
        with pytest.raises(UserError, match=r"augment\.data: is .* but there are no offline rows"):
            synther(dataclasses.replace(SMALL, data=choice), SPEC).init(jax.random.key(0), offline[:0], online)


@pytest.mark.parametrize("solver", ["heun", "dpm++2m", "dpm++2m-sde", "dpm++3m"])
def test_every_solver_is_reachable_and_published_defaults_hold(solver):
    config = dataclasses.replace(SMALL, solver=solver)
    assert config.sampler == Solver(steps=4, kind=solver)
    assert SynthERConfig().sampler == Solver() and Solver().evaluations == 255


def test_fit_may_be_cut_and_seeds_are_independent(data):
    augmenter = synther(SMALL, SPEC)
    fit = jax.jit(augmenter.fit, static_argnums=4, donate_argnums=0)

    def run(key):
        state = jax.jit(augmenter.init)(key, *data)
        for i in range(2):
            state, _ = fit(state, *data, jax.random.fold_in(key, i), 5)
        return state

    many = [run(key) for key in jax.random.split(jax.random.key(0), 2)]
    assert fit._cache_size() == 1 and int(many[0].denoiser.step) == 10
    together = jax.vmap(lambda key: augmenter.fit(augmenter.init(key, *data), *data, jax.random.fold_in(key, 0), 5)[0])
    states = jax.jit(together)(jax.random.split(jax.random.key(0), 2))
    alone = jax.jit(lambda key: augmenter.fit(augmenter.init(key, *data), *data, jax.random.fold_in(key, 0), 5)[0])
    state = alone(jax.random.split(jax.random.key(0), 2)[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=2e-5), states, state)


def test_published_sizes_by_variant():
    """The online agent's generator, and offline upsampling's wider one (resmlp_denoiser.gin)."""
    online = make_config(augment="synther").augment
    assert (online.width, online.embedding, online.steps, online.lr, online.ema_share) == (
        1024, 256, 100_000, 3e-4, 0.02
    )  # fmt: skip
    offline = make_config(augment="synther", augment__variant="offline").augment
    assert (offline.width, offline.embedding, offline.data, offline.batch) == (2048, 128, "offline", 256)
    assert make_config(augment="synther", augment__variant="offline", augment__width=512).augment.width == 512
    assert [make_config(augment=name).augment.fitted_to for name in ("none", "synther", "edis", "cfdg")] == [
        None, "online", "pooled", "pooled"
    ]  # fmt: skip
    assert offline.fitted_to == "offline"
    params = jax.eval_shape(row_network(online, 6).init, jax.random.key(0))
    assert params["block5"]["kernel"].shape == (1024, 1024) and "block6" not in params and "norm0" not in params
    assert params["in"]["kernel"].shape == (6, 256)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": "onlin"}, "augment.variant: 'onlin' is unknown; did you mean offline?"),
        ({"batch": 255, "data": "pooled"}, "augment.batch: is 255; must be even where data is pooled"),
        ({"sampler_steps": 1}, "augment.sampler_steps: is 1; must be at least 2"),
        ({"recent_window": 1}, "augment.recent_window: is 1; must be 0"),
        ({"recent_window": -5}, "augment.recent_window: is -5; must be at least 0"),
    ],
)
def test_bad_values_are_refused(fields, message):
    with pytest.raises(UserError) as error:
        SynthERConfig(**fields)
    assert message in str(error.value)
