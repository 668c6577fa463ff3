"""StratDiff: the rank split, its caches and stages, adaptive rho, and the origin of toy rows recovered."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from train_helpers import mean_difference, toy_config

from cfdg_jax.agents.registry import AGENTS
from cfdg_jax.core import ring
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.diffusion import behavior
from cfdg_jax.diffusion.fit import Normaliser
from cfdg_jax.diffusion.network import Network
from cfdg_jax.errors import UserError
from cfdg_jax.presets import make_config
from cfdg_jax.stratify import proposals
from cfdg_jax.stratify import stratdiff as module
from cfdg_jax.stratify.marks import follow_freed_share, lowest
from cfdg_jax.stratify.proposals import Model, Switches
from cfdg_jax.stratify.stratdiff import VARIANTS, StratDiffConfig, parts, stages, stratdiff
from cfdg_jax.training.build import build_program
from cfdg_jax.training.lanes import with_settings
from cfdg_jax.training.learn import update_all
from cfdg_jax.training.meters import per_group
from cfdg_jax.training.prepare import finite, init
from cfdg_jax.types import Source, Spec

SPEC = Spec(obs_dim=2, act_dim=2, horizon=20)
SWITCHES = Switches(
    time_scale=2.0, behavior_lr=3e-3, ema_decay=0.99, energy_lr=2e-3, cached_online=40, support_chunk=100, gain_rows=8
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SmallConfig(StratDiffConfig):
    """A config with switches of its own instead of its variant's."""

    own_switches: Switches = SWITCHES

    @property
    def switches(self):
        return self.own_switches


SMALL = SmallConfig(
    widths=(32, 16), energy_hidden=(32, 32), sampler_steps=8, guidance=1.0, supports=6, behavior_steps=1_000,
    behavior_batch=256, cached_states=300, energy_steps=300, energy_batch=32,
)  # fmt: skip
SPREAD = 0.15


def switched(config=SMALL, **switches):
    """`config` with some switches changed."""
    return dataclasses.replace(config, own_switches=dataclasses.replace(config.switches, **switches))


def policy_mean(obs, other=False):
    """The behaviour policy steers by the first coordinate, the other one by its negative, 0.5 aside."""
    side = -1.0 if other else 1.0
    return np.stack([side * 0.5 * obs[:, 0], np.full(len(obs), side * 0.25)], axis=1)


def toy_batch(rows, seed=0, online_share=0.5):
    """Rows of the behaviour policy (offline) and of another one (online) at the same kind of states."""
    rng = np.random.default_rng(seed)
    online = np.arange(rows) >= round(rows * (1 - online_share))
    obs = rng.uniform(-1, 1, (rows, 2)).astype(np.float32)
    mean = np.where(online[:, None], policy_mean(obs, True), policy_mean(obs))
    action = np.clip(mean + SPREAD * rng.normal(size=(rows, 2)), -1, 1)
    source = np.where(online, int(Source.ONLINE), int(Source.OFFLINE))
    packed = SPEC.layout.pack(obs, action, 0.0, obs, 0.0, -np.inf, source, xp=np)
    return jnp.asarray(packed), SPEC.layout.unpack(jnp.asarray(packed))


def toy_value(obs, action):
    """Highest a little above the behaviour policy's mean."""
    best = jnp.stack([0.5 * obs[..., 0], jnp.full(obs.shape[:-1], 0.4)], axis=-1)
    return -8.0 * jnp.sum((action - best) ** 2, axis=-1)


class Trained(NamedTuple):
    """A stratifier with its state."""

    stratifier: Any
    shared: Model
    own: Any
    metrics: dict

    def marked(self, batch, key):
        return self.stratifier.mark(self.shared, self.own, batch, key)


def fresh(config, key=0):
    """The stratifier and its state before any training."""
    stratifier, key = stratdiff(config, SPEC), jax.random.key(key)
    return Trained(stratifier, jax.jit(stratifier.init_shared)(key), jax.jit(stratifier.init)(key), {})


def prepared(config, key=0, chunk=250):
    """The stratifier and its state after all stages, each cut into calls of at most `chunk` steps."""
    (stratifier, shared, own, metrics), (rows, _) = fresh(config, key), toy_batch(4_000, seed=7, online_share=0.0)
    key = jax.random.key(key)
    prepare = jax.jit(
        lambda shared, own, key, stage, steps: stratifier.prepare(shared, own, stage, rows, toy_value, key, steps),
        static_argnums=(3, 4),
    )
    for stage in stratifier.stages:
        for done in range(0, stage.steps, chunk):
            key, call_key = jax.random.split(key)
            part, made = prepare(shared, own, call_key, stage.name, min(chunk, stage.steps - done))
            shared, own = (part, own) if stage.shared else (shared, part)
            metrics[stage.name] = made
    return Trained(stratifier, shared, own, metrics)


@pytest.fixture(scope="module")
def trained():
    return prepared(SMALL)


def auc(score, batch):
    """Probability that an online row scores above an offline one."""
    online = np.asarray(batch.source) == Source.ONLINE
    return stats.mannwhitneyu(np.asarray(score)[online], np.asarray(score)[~online]).statistic / (
        online.sum() * (~online).sum()
    )


def scored(config, trained, batch, key=3):
    score = jax.jit(functools.partial(module.scores, parts(config, SPEC)))
    return score(trained.shared, trained.own, batch, jax.random.key(key))


def drawn(config, trained, obs, key, count, scale):
    """`count` proposals per state."""
    p = parts(config, SPEC).proposer
    return proposals.draw_actions(p, trained.shared.behavior, trained.own.energy, obs, key, count, scale)


# -- the split ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rho", "rows"), [(0.5, 128), (0.3, 77), (0.7, 179), (0.0, 0), (1.0, 256)])
def test_exactly_the_lowest_round_rho_b_rows_are_kept(rho, rows):
    """Through `mark`."""
    lot, batch = fresh(dataclasses.replace(SMALL, score="random", rho=rho)), toy_batch(256)[1]
    conserve, metrics = lot.marked(batch, jax.random.key(1))
    assert conserve.sum() == rows and set(np.unique(conserve)) <= {0.0, 1.0} and conserve.dtype == jnp.float32
    assert metrics["conserve"] == pytest.approx(rows / 256)


def test_split_is_by_score_and_permutes_with_the_rows():
    score = jax.random.normal(jax.random.key(0), (256,))
    mask = np.asarray(lowest(score, 77))
    assert np.max(score[mask == 1]) < np.min(score[mask == 0])
    order = np.random.default_rng(0).permutation(256)
    np.testing.assert_array_equal(lowest(score[order], 77), mask[order])


def test_ties_go_to_the_earlier_row():
    np.testing.assert_array_equal(lowest(jnp.array([1.0, 0.0, 1.0, 1.0, 2.0]), 3), [1, 1, 1, 0, 0])


def test_a_row_at_its_proposal_scores_zero_and_sigma_changes_no_rank(trained, monkeypatch):
    """The score is a squared distance."""
    batch, key = toy_batch(64)[1], jax.random.key(3)
    proposal = jax.jit(lambda: drawn(SMALL, trained, batch.obs, key, 1, SMALL.guidance))()[0]
    assert np.abs(proposal).max() <= 1.0
    np.testing.assert_allclose(scored(SMALL, trained, batch._replace(action=proposal)), 0.0, atol=1e-8)
    score = scored(SMALL, trained, batch)
    np.testing.assert_allclose(score, np.sum((batch.action - proposal) ** 2, axis=1) / 2, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(module, "SCORE_STD", 3.0)
    wide = scored(SMALL, trained, batch)
    np.testing.assert_allclose(wide, score / 9, rtol=1e-5)


def test_several_proposals_average_the_distance(trained):
    """The mean squared distance to many draws is the distance to their mean plus their variance."""
    config, batch, key = dataclasses.replace(SMALL, proposals=40), toy_batch(32)[1], jax.random.key(3)
    draws = jax.jit(lambda: drawn(config, trained, batch.obs, key, 40, config.guidance))()
    expected = np.sum((batch.action - draws.mean(axis=0)) ** 2 + draws.var(axis=0), axis=1) / 2
    np.testing.assert_allclose(scored(config, trained, batch), expected, rtol=1e-4, atol=1e-6)


# -- what is recovered -------------------------------------------------------------------------------------------------


def test_scores_tell_the_origin_of_rows_and_random_ones_do_not(trained):
    batch = toy_batch(2_000, seed=1)[1]
    assert auc(scored(SMALL, trained, batch), batch) > 0.9
    assert auc(scored(dataclasses.replace(SMALL, guidance=0.0), trained, batch), batch) > 0.9
    by_lot = dataclasses.replace(SMALL, score="random")
    assert auc(scored(by_lot, trained, batch), batch) == pytest.approx(0.5, abs=0.04)
    conserve, metrics = jax.jit(trained.marked)(batch, jax.random.key(0))
    metrics = per_group(metrics)
    offline = np.asarray(batch.source) == Source.OFFLINE
    assert np.mean(np.asarray(conserve)[offline]) > 0.85
    wrong = np.sum(np.asarray(conserve) != offline)
    assert metrics["exchanged"] == wrong
    assert metrics["offline_marked_online"] == pytest.approx(wrong / 2_000, abs=1e-6)  # as many either way, of 1,000
    assert metrics["online_marked_offline"] == pytest.approx(wrong / 2_000, abs=1e-6)


def test_four_steps_from_a_low_start_rank_as_many_steps_do(trained):
    """The stated price of the fast choice: the same noise ranks alike, where fewer steps from t = 1 would not."""
    batch = toy_batch(1_000, seed=1)[1]
    score = {}
    for name, steps, start in (("many", 40, None), ("fast", 4, 3.0), ("too few", 4, None)):
        score[name] = scored(
            dataclasses.replace(SMALL, sampler_steps=steps, sampler_start=start or behavior.noise_level(1.0)),
            trained,
            batch,
        )
    agreement = {name: stats.spearmanr(score["many"], score[name]).statistic for name in score}
    assert agreement["fast"] > 0.97 and agreement["too few"] < 0.8
    assert np.mean(lowest(score["many"], 500) == lowest(score["fast"], 500)) > 0.95


def test_guidance_moves_proposals_where_q_is_higher(trained):
    obs = toy_batch(1_500, seed=2)[1].obs
    of = lambda scale: drawn(SMALL, trained, obs, jax.random.key(5), 1, scale)[0]
    draw, swept = jax.jit(of), jax.jit(jax.vmap(of))
    plain, guided, strong = swept(jnp.array([0.0, 1.0, 3.0]))
    np.testing.assert_allclose(guided, draw(1.0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(plain, of(0), atol=1e-4)
    # mu = N(m, w^2), beta Q = -k |a - m'|^2 / 2 with k = 48: the guided mean is (m + k w^2 m') / (1 + k w^2)
    pull = 48 * SPREAD**2 / (1 + 48 * SPREAD**2)
    assert np.mean(plain[:, 1]) == pytest.approx(0.25, abs=0.03)
    assert np.mean(guided[:, 1]) == pytest.approx(0.25 + 0.15 * pull, abs=0.03)
    values = [float(toy_value(obs, a).mean()) for a in (plain, guided)]
    assert values[1] > values[0] + 0.05 and np.mean(strong[:, 1]) > np.mean(guided[:, 1])
    assert trained.metrics["energy"]["proposal_gain"] > 0.0


def test_without_guidance_proposals_are_the_behaviour_model():
    """With an ideal network."""
    mean, std = np.array([0.2, -0.1]), 0.15

    def noise(params, x, t, obs):
        at = behavior.schedule(t)
        return at.sigma * (x - at.alpha * mean) / (at.alpha**2 * std**2 + at.sigma**2)

    config = dataclasses.replace(SMALL, guidance=0.0, sampler_steps=80)
    refuse = Network(None, lambda *args: pytest.fail("the energy network was evaluated"))
    p = parts(config, SPEC).proposer._replace(behavior=Network(None, noise), energy=refuse)
    _, shared, own, _ = fresh(config)
    assert own.energy == shared.supports == own.recent == ()
    obs, key = jnp.zeros((50_000, 2)), jax.random.key(0)
    draws = jax.jit(lambda: proposals.draw_actions(p, shared.behavior, own.energy, obs, key, 2, 0))()
    for i in range(2):
        assert stats.kstest(np.asarray(draws[..., i]).ravel(), stats.norm(mean[i], std).cdf).pvalue > 0.01


@pytest.mark.parametrize(("field", "values"), [("guidance", (0.0, 1.0, 4.0)), ("rho", (0.3, 0.5, 0.7))])
def test_a_setting_as_an_array_is_one_program_and_equals_each_value_alone(trained, field, values):
    shared, own, batch, key = trained.shared, trained.own, toy_batch(64)[1], jax.random.key(5)

    def marked(value):
        swept = with_settings({"stratify": SMALL}, {f"stratify.{field}": value})["stratify"]
        of_value = own._replace(**{field: value})
        return stratdiff(swept, SPEC).init(jax.random.key(0)), stratdiff(swept, SPEC).mark(
            shared, of_value, batch, key
        )[0]

    first, together = jax.jit(jax.vmap(marked))(jnp.asarray(values))
    np.testing.assert_array_equal(getattr(first, field), np.float32(values))
    for value, conserve in zip(values, together, strict=True):
        alone = stratdiff(dataclasses.replace(SMALL, **{field: value}), SPEC)
        of_alone = alone.init(jax.random.key(0))._replace(**({"energy": own.energy} if value else {}))
        expected, _ = jax.jit(alone.mark)(shared, of_alone, batch, key)
        assert (conserve == expected).mean() > 0.96  # rounding moves a row across the threshold at most
        assert conserve.sum() == round((value if field == "rho" else SMALL.rho) * 64)


def checked(config):
    """What the method has to say of a whole config."""
    return list(module.ENTRY.check(config, {"agent": AGENTS["iql"]}))


def test_rows_share_one_call_of_each_network_per_step():
    shapes = []

    def recorded(name, out):
        def apply(params, x, t, obs):
            shapes.append((name, x.shape))
            return out(x)

        return Network(None, apply)

    config = dataclasses.replace(SMALL, proposals=3)
    p = parts(config, SPEC)
    networks = {"behavior": lambda x: 0.1 * x, "energy": lambda x: x.sum(axis=-1)}
    p = p._replace(proposer=p.proposer._replace(**{name: recorded(name, out) for name, out in networks.items()}))
    _, shared, own, _ = fresh(config)
    batch, shapes[:] = toy_batch(64)[1], []
    jaxpr = jax.make_jaxpr(functools.partial(module.scores, p))(shared, own, batch, jax.random.key(0))
    assert shapes == [("behavior", (3, 64, 2)), ("energy", (3, 64, 2))]  # the body of the scan over steps, once
    loops = [eqn for eqn in jaxpr.jaxpr.eqns if eqn.primitive.name == "scan"]
    assert [loop.params["length"] for loop in loops] == [config.sampler_steps]


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_by_source(trained):
    mark, key = jax.jit(trained.marked), jax.random.key(3)
    batch = toy_batch(200, seed=4)[1]
    score, (_, metrics) = np.asarray(scored(SMALL, trained, batch)), mark(batch, key)
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())
    metrics = per_group(metrics)
    for name, rows in (("offline", slice(0, 100)), ("online", slice(100, 200))):
        assert metrics[f"score_{name}"] == pytest.approx(score[rows].mean(), rel=1e-5)
        for percent in (10, 50, 90):
            expected = np.percentile(score[rows], percent)
            assert metrics[f"score_{name}_p{percent}"] == pytest.approx(expected, rel=1e-4)
        shares = [metrics[f"score_{name}_bin{i:02d}"] for i in range(14)]
        expected = np.histogram(score[rows], [-np.inf, *np.logspace(-2, 2, 13), np.inf])[0] / 100
        np.testing.assert_allclose(shares, expected, atol=1e-6)
        assert np.count_nonzero(shares) > 3
    for share, absent in ((1.0, "offline"), (0.0, "online")):
        _, metrics = mark(toy_batch(200, seed=4, online_share=share)[1], key)
        assert all(np.isfinite(value) for value in metrics.values()) and metrics[f"@{absent}"] == 0.0
        unknown = [name for name, value in per_group(metrics).items() if np.isnan(value)]
        crossing = "offline_marked_online" if absent == "offline" else "online_marked_offline"
        assert len(unknown) == 19 and all(name.startswith(f"score_{absent}") or name == crossing for name in unknown)


def test_batches_of_one_origin_count_for_that_origin_alone(trained):
    """OORB's batches hold rows of one origin (APL); their log must equal that of the same rows in one batch."""
    mark, key = jax.jit(trained.marked), jax.random.key(3)
    split = [mark(toy_batch(100, seed=4, online_share=share)[1], key)[1] for share in (0.0, 1.0, 1.0)]
    logged = per_group(jax.tree.map(lambda *values: np.mean(values), *split))
    alone = [per_group(metrics) for metrics in split]
    for name in ("offline_marked_online", "score_offline", "score_offline_p90"):
        assert logged[name] == pytest.approx(float(alone[0][name]), rel=1e-5)
    for name in ("online_marked_offline", "score_online", "score_online_bin04"):
        assert logged[name] == pytest.approx(np.mean([alone[1][name], alone[2][name]]), rel=1e-5)
    assert logged["offline_marked_online"] == pytest.approx(0.5, abs=0.01)


def test_synthetic_rows_are_marked_but_not_counted(trained):
    batch = toy_batch(100)[1]
    synthetic = batch._replace(source=jnp.where(batch.source == Source.ONLINE, int(Source.SYNTHETIC_ONLINE), 0))
    conserve, metrics = trained.marked(synthetic, jax.random.key(3))
    np.testing.assert_array_equal(conserve, trained.marked(batch, jax.random.key(3))[0])
    assert metrics["@online"] == 0.0 and metrics["@offline"] == 0.5
    assert metrics["exchanged"] == np.sum(1 - np.asarray(conserve)[:50])


# -- stages and caches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ["behavior", "supports", "energy"]),
        ({"own_switches": dataclasses.replace(SWITCHES, support="batch")}, ["behavior", "energy"]),
        ({"guidance": 0.0}, ["behavior"]),
        ({"score": "random"}, []),
    ],
)
def test_stages_are_what_the_score_needs(changes, names):
    config = dataclasses.replace(SMALL, **changes)
    stratifier = stratdiff(config, SPEC)
    assert [stage.name for stage in stratifier.stages] == names
    assert all(stage.shared == (stage.name != "energy") for stage in stratifier.stages)
    assert all(stage.name in (*Model._fields, *module.Own._fields) for stage in stratifier.stages)
    assert (stratifier.prepare is None) == (names == [])
    assert (stratifier.fit is None) == ("energy" not in names) and (stratifier.observe is None) == (
        "supports" not in names
    )
    assert not any(stage.shared for stage in stages(parts(dataclasses.replace(config, share_behavior=False), SPEC)))
    assert stratdiff(dataclasses.replace(config, adaptive_rho=True), SPEC).fit is not None


def test_the_cache_holds_states_of_the_dataset_with_likely_actions(trained):
    assert [stage.steps for stage in stages(parts(SMALL, SPEC))] == [1_000, 3, 300]
    assert trained.shared.supports.size == 300 == trained.metrics["supports"]["supports_drawn"]
    obs, actions = np.split(np.asarray(trained.shared.supports.rows), [2], axis=1)
    rows, _ = toy_batch(4_000, seed=7, online_share=0.0)
    assert np.isin(obs[:, 0], np.asarray(rows[:, 0])).all()
    errors = actions.reshape(300, 6, 2) - policy_mean(obs)[:, None]
    assert np.abs(errors.mean(axis=(0, 1))).max() < 0.03 and errors.std() == pytest.approx(SPREAD, abs=0.04)


@pytest.mark.parametrize(("cached", "chunk", "steps"), [(250, 100, 3), (50, 100, 1)])
def test_a_cache_that_is_no_multiple_of_a_chunk_is_filled(trained, cached, chunk, steps):
    config, rows = switched(dataclasses.replace(SMALL, cached_states=cached), support_chunk=chunk), toy_batch(20)[0]
    p = parts(config, SPEC)
    assert {stage.name: stage.steps for stage in stages(p)}["supports"] == steps
    fill = jax.jit(lambda model: proposals.fill_supports(p.proposer, model, rows, jax.random.key(1), steps)[0])
    cache = fill(trained.shared._replace(supports=ring.empty(cached, 14))).supports
    assert cache.size == cached and np.abs(np.asarray(cache.rows)).sum(axis=1).min() > 0


@pytest.mark.parametrize(("met", "online"), [(0, 0), (5, 5), (16, 16), (40, 16)])
def test_half_of_a_minibatch_was_met_online_once_there_are_enough(met, online):
    """Offline states are 0 here, and the `met` online states 1."""
    cached, recent = ring.full(jnp.zeros((300, 14))), ring.empty(40, 14)
    if met:
        recent = ring.insert(recent, jnp.ones((met, 14)))
    p = parts(SMALL, SPEC).proposer
    obs, supports = proposals.cached_minibatch(p, cached, recent, jax.random.key(1))
    assert obs.shape == (32, 2) and supports.shape == (32, 6, 2)
    assert obs.sum() == 2 * online and supports.sum() == 12 * online


def test_observing_adds_the_state_with_its_supports(trained):
    observe, own = jax.jit(trained.stratifier.observe), trained.own
    for i in range(42):
        own = observe(trained.shared, own, jnp.array([i / 50, 0.5]), jax.random.key(i))
    assert own.recent.size == 40 and own.recent.position == 2
    newest = own.recent.rows[1]
    np.testing.assert_allclose(newest[:2], [0.82, 0.5])
    np.testing.assert_allclose(newest[2:].reshape(6, 2).mean(axis=0), [0.41, 0.25], atol=0.2)
    assert len(np.unique(newest[2:])) == 12


# -- learning online ---------------------------------------------------------------------------------------------------


def batches_of(count, seed=0, rows=32):
    one = toy_batch(rows, seed)[1]
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), one)


@pytest.mark.parametrize("support", ["cache", "batch"])
def test_fit_follows_the_current_q(trained, support):
    """Q turns against the direction it had offline, and the proposals follow it."""
    config, obs = switched(dataclasses.replace(SMALL, guidance=3.0), support=support), toy_batch(500, seed=2)[1].obs
    turned, shared = lambda obs, action: -8.0 * action[..., 1], trained.shared
    draw = jax.jit(lambda own: drawn(config, trained._replace(own=own), obs, jax.random.key(5), 1, 1.0)[0, :, 1].mean())
    fit = jax.jit(lambda own, key: stratdiff(config, SPEC).fit(shared, own, batches_of(150), turned, key))
    start, (own, first) = draw(trained.own), fit(trained.own, jax.random.key(0))
    own, metrics = fit(own, jax.random.key(1))
    assert draw(own) < start - 0.1
    assert metrics["energy_floor"] < metrics["energy_loss"] < first["energy_loss"]
    assert 1.0 < metrics["energy_samples"] < 6.0 and metrics["proposal_gain"] > 0.0
    assert all(m.shape == () for m in metrics.values())


def test_fit_leaves_the_behaviour_model_and_the_caches(trained):
    (stratifier, shared, state, _), key = trained, jax.random.key(0)
    flat = lambda obs, action: jnp.zeros(obs.shape[:-1])
    new, metrics = jax.jit(lambda own: stratifier.fit(shared, own, batches_of(4), flat, key))(state)
    for field in ("model", "recent", "rho"):  # the shared part is not given back
        jax.tree.map(np.testing.assert_array_equal, getattr(new, field), getattr(state, field))
    copying = stratdiff(dataclasses.replace(SMALL, share_behavior=False), SPEC)
    mine = state._replace(model=shared)
    fitted, _ = jax.jit(lambda own: copying.fit((), own, batches_of(4), flat, key))(mine)
    for field in ("behavior", "supports"):
        jax.tree.map(np.testing.assert_array_equal, getattr(fitted.model, field), getattr(shared, field))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), fitted.energy, new.energy)
    assert metrics["energy_samples"] == pytest.approx(6.0) and metrics["energy_floor"] == pytest.approx(np.log(6))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_q_is_asked_about_raw_actions_in_one_call():
    normaliser = Normaliser(jnp.array([0.1, 0.2]), jnp.full(2, 0.5))
    calls = []
    obs, supports = jnp.arange(10.0).reshape(5, 2), jnp.full((5, 6, 2), 0.4)

    def value(obs, action):
        calls.append((obs, action))
        return obs[..., 0]

    q = proposals.support_values(normaliser, obs, supports, value)
    ((asked_obs, asked),) = calls
    np.testing.assert_allclose(asked, jnp.broadcast_to(jnp.array([0.3, 0.4]), (5, 6, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(asked_obs[:, 3], obs)
    np.testing.assert_array_equal(q, jnp.broadcast_to(obs[:, :1], (5, 6)))


def test_normalised_actions_use_the_moments_of_the_dataset():
    config = dataclasses.replace(SMALL, normalise_actions=True, guidance=0.0, behavior_steps=2)
    rows, _ = toy_batch(4_000, seed=7, online_share=0.0)
    made = prepared(config)
    actions = np.asarray(rows[:, SPEC.layout.action])
    np.testing.assert_allclose(made.shared.behavior.normaliser.mean, actions.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(made.shared.behavior.normaliser.std, actions.std(axis=0), rtol=1e-3)
    batch, key = toy_batch(50)[1], jax.random.key(3)
    z = jax.jit(lambda: drawn(config, made, batch.obs, key, 1, 0))()[0]
    distance = (np.asarray(batch.action) - actions.mean(axis=0)) / actions.std(axis=0) - z
    np.testing.assert_allclose(scored(config, made, batch), np.sum(distance**2, axis=1) / 2, rtol=2e-3)


# -- adaptive rho ------------------------------------------------------------------------------------------------------


def marked_batches(missed, kept, offline=80, online=20):
    """Four batches in which `missed` offline rows are marked online-like and `kept` online rows offline-like."""
    batch = toy_batch(offline + online, online_share=online / (offline + online))[1]
    conserve = np.concatenate([np.arange(offline) >= missed, np.arange(online) < kept]).astype(np.float32)
    batch = batch._replace(conserve=jnp.asarray(conserve))
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), batch)


@pytest.mark.parametrize(
    ("missed", "kept", "freed", "change"), [(8, 0, 0.0, 0.1), (8, 5, 0.0, 0.1), (8, 2, 0.1, 0.0), (0, 4, 0.3, -0.3)]
)
def test_rho_follows_the_share_of_offline_rows_freed(missed, kept, freed, change):
    rho = follow_freed_share(jnp.float32(0.5), 0.01, freed, marked_batches(missed, kept))
    assert rho == pytest.approx(0.5 + (1 - 0.99**4) * 0.8 * change, abs=1e-6)


def test_rho_stays_without_offline_rows_and_within_its_bounds():
    follow = lambda batches, rho=0.9, freed=0.0: float(follow_freed_share(jnp.float32(rho), 1.0, freed, batches))
    only_online = jax.tree.map(lambda x: x[:, 80:], marked_batches(0, 10))
    assert follow(only_online) == pytest.approx(0.9)
    assert follow(marked_batches(80, 0)) == 1.0 and follow(marked_batches(0, 20), 0.1, 1.0) == 0.0


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("score", ["proposal", "random"])
def test_adaptive_rho_frees_the_asked_share_of_offline_rows(trained, share, score, monkeypatch):
    """From wherever it starts; the better the scores, the fewer rows are conservative: by lot 1 - freed."""
    monkeypatch.setattr(module, "RHO_RATE", 0.05)
    freed = module.RHO_FREED
    config = dataclasses.replace(SMALL, adaptive_rho=True, guidance=0.0, score=score)
    stratifier, shared = stratdiff(config, SPEC), trained.shared
    batch = toy_batch(200, online_share=share)[1]

    @jax.jit
    def run(state):
        def step(state, key):
            conserve, metrics = stratifier.mark(shared, state, batch, key)
            marked = jax.tree.map(lambda x: x[None], batch._replace(conserve=conserve))
            return stratifier.fit(shared, state, marked, toy_value, key)[0], metrics

        return jax.lax.scan(step, state._replace(rho=jnp.float32(0.9)), jax.random.split(jax.random.key(0), 500))

    state, metrics = run(trained.own)
    assert metrics["conserve"][0] == pytest.approx(0.9)
    metrics = per_group(metrics)
    missed, kept = (float(metrics[name][-50:].mean()) for name in ("offline_marked_online", "online_marked_offline"))
    assert missed == pytest.approx(freed, abs=0.02)
    assert state.rho == pytest.approx((1 - share) * (1 - freed) + share * kept, abs=0.03)
    assert kept == pytest.approx(1 - freed, abs=0.05) if score == "random" else kept < 0.15


def test_guidance_follows_the_supports_whatever_the_scale_of_rewards(trained, monkeypatch):
    monkeypatch.setattr(module, "GUIDANCE_RATE", 0.05)
    p, model = parts(dataclasses.replace(SMALL, guided_supports=0.5), SPEC), trained.shared
    reached = {}
    for scale in (1.0, 10.0):
        value = lambda obs, action, scale=scale: scale * toy_value(obs, action)
        fit = jax.jit(lambda own, key, value=value: module.fit_energy(p, model, own, None, value, key, 20))
        followed = trained.own
        for key in jax.random.split(jax.random.key(0), 40):
            followed, metrics = fit(followed, key)
        assert metrics["guided_supports"] == pytest.approx(0.5, abs=0.05)
        reached[scale] = float(followed.guidance)
    assert reached[1.0] == pytest.approx(10 * reached[10.0], rel=0.15)


# -- variants ----------------------------------------------------------------------------------------------------------


def test_variants_are_the_releases_constants():
    """QGPO's training, but for CleanDiffuser's average; the presets' variants learn in thousands of steps."""
    authors = StratDiffConfig().switches
    assert (authors.behavior_lr, authors.energy_lr, authors.ema_decay, authors.time_scale) == (1e-4, 3e-4, 0.9999, 30.0)
    assert (authors.support, authors.q_standardise, authors.gain_rows, authors.cached_online) == (
        "cache", False, 16, 20_000
    )  # fmt: skip
    assert VARIANTS["qgpo"].switches == dataclasses.replace(authors, ema_decay=0.0)
    assert VARIANTS["same_states"].switches == dataclasses.replace(authors, support="batch")
    values = {"dataset": "local:hopper-medium-v0", "agent": "iql", "stratify": "stratdiff"}
    chosen = {preset: make_config(preset=preset, **values).stratify for preset in ("paper", "reduced", "smoke")}
    assert {preset: config.variant for preset, config in chosen.items()} == {
        "paper": "authors", "reduced": "short", "smoke": "smoke"
    }  # fmt: skip
    short = chosen["reduced"].switches
    assert (short.behavior_lr, short.energy_lr, short.ema_decay, short.time_scale) == (1e-3, 1e-3, 0.995, 4.0)
    assert (short.q_standardise, short.cached_online, short.support_chunk, short.gain_rows) == (True, 4_096, 256, 0)
    assert chosen["smoke"].switches == dataclasses.replace(short, cached_online=30, support_chunk=20)


def test_without_an_average_the_weights_themselves_sample():
    config = dataclasses.replace(switched(ema_decay=0.0), guidance=0.0, behavior_steps=3)
    model = prepared(config).shared.behavior
    jax.tree.map(np.testing.assert_array_equal, model.ema, model.params)


# -- promises ----------------------------------------------------------------------------------------------------------


def test_marking_k_batches_at_once_equals_one_by_one(trained):
    batches, keys = batches_of(3), jax.random.split(jax.random.key(0), 3)
    together, metrics = jax.jit(jax.vmap(trained.marked))(batches, keys)
    assert together.shape == (3, 32) and metrics["score_offline@offline"].shape == (3,)
    for i in range(3):
        alone, _ = jax.jit(trained.marked)(jax.tree.map(lambda x, i=i: x[i], batches), keys[i])
        np.testing.assert_array_equal(together[i], alone)
    assert not np.array_equal(together[0], together[1])  # fresh noise for the same rows


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rho", 1.2), ("guidance", -1.0), ("proposals", 0), ("supports", 1), ("widths", ()),
        ("energy_hidden", (8, 0)), ("sampler_start", 0.01), ("beta", -1.0), ("variant", "auhtors"),
        ("cached_states", 0),
        ("guided_supports", 1.0), ("guided_supports", 0.05), ("energy_batch", 1), ("behavior_batch", 0),
        ("sampler_start", 200.0), ("sampler_steps", 7),
        ("sampler_steps", 0),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(field, value):
    with pytest.raises(UserError, match=f"^stratify.{field}: "):
        StratDiffConfig(**{field: value})


def program_of(agent="iql", seeds=3, **values):
    """A toy program, and rows for two updates of its seeds `[S, 2, 8, D]`."""
    spec = Spec(3, 2, 20)
    rows = np.random.default_rng(0).normal(size=(64, spec.layout.width)).astype(np.float32)
    config = toy_config("none", agent, values.pop("stratify", "stratdiff"), seeds=seeds, **values)
    batches = jnp.asarray(rows[: 16 * seeds].reshape(seeds, 2, 8, -1))
    return build_program(config, spec, identity_transforms(3), rows), batches


def updated(program, state, batches):
    """The state and metrics after the two updates."""
    return jax.jit(lambda state: update_all(program, "online", state, state.key, batches))(state)


@pytest.mark.parametrize("agent", ["iql", "calql", "td3bc"])
def test_rho_one_is_the_base_agent_and_rho_zero_its_free_form(agent):
    base, batches = program_of(agent, stratify="none")
    free = dataclasses.replace(
        base, stratifier=base.stratifier._replace(mark=lambda shared, own, batch, key: (0.0 * batch.conserve, {}))
    )
    start = jax.jit(lambda: init(base, "online"))()
    wanted = {rho: updated(program, start, batches)[0].agent for rho, program in ((1.0, base), (0.0, free))}
    marking = None
    for rho, agent_state in wanted.items():
        program, _ = program_of(agent, stratify__rho=rho)
        marking = marking or jax.jit(lambda program=program: init(program, "online"))()  # the same for any rho
        state = marking._replace(agent=start.agent)
        assert mean_difference(updated(program, state, batches)[0].agent, agent_state) < 1e-6
    assert mean_difference(*wanted.values()) > 1e-5


def test_a_stratifier_that_is_not_finite_is_found():
    program, _ = program_of()
    state = jax.jit(lambda: init(program, "online"))()
    assert finite(program, state).tolist() == [True] * 3
    poison = lambda x: x.at[1].set(jnp.nan) if jnp.issubdtype(x.dtype, jnp.floating) else x
    for part, field, expected in (("own", "energy", [True, False, True]), ("shared", "behavior", [False] * 3)):
        before = getattr(state.stratifier, part)
        after = before._replace(**{field: jax.tree.map(poison, getattr(before, field))})
        poisoned = state._replace(stratifier=state.stratifier._replace(**{part: after}))
        assert finite(program, poisoned).tolist() == expected


def test_seeds_that_share_a_behaviour_model_mark_and_learn_as_if_each_had_a_copy():
    (sharing, batches), (copying, _) = program_of(), program_of(stratify__share_behavior=False)
    shared, copies = (jax.jit(lambda program=p: init(program, "online"))() for p in (sharing, copying))
    once = shared.stratifier.shared
    spread = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), once)
    assert set(once._fields) == {"behavior", "supports"} and not copies.stratifier.shared
    own = shared.stratifier.own._replace(model=spread)
    copies = shared._replace(stratifier=copies.stratifier._replace(own=own))
    parts_of = lambda state, metrics: (state.agent, state.stratifier.own.energy, metrics)
    both = (parts_of(*updated(sharing, shared, batches)), parts_of(*updated(copying, copies, batches)))
    assert mean_difference(*both) < 1e-5
