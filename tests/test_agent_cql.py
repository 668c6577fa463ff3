"""CQL, Cal-QL and GCQL against the released code's numbers, an independent re-statement, and their own promises."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement
from variants import of_variant

from cfdg_jax.agents import apl_cql, calql, penalty, soft
from cfdg_jax.agents import cql as module
from cfdg_jax.agents import sac as sac_module
from cfdg_jax.agents.apl_cql import APLCQLConfig
from cfdg_jax.agents.calql import CalQLConfig
from cfdg_jax.agents.cql import VARIANTS, CQLConfig, CQLState, Noise, Switches, cql, update_once
from cfdg_jax.agents.penalty import Proposals
from cfdg_jax.agents.sac import SACConfig, SACState
from cfdg_jax.errors import UserError
from cfdg_jax.types import Source, Spec

parts = functools.cache(module.parts)
bootstrap, regulariser, update_critic, draw_noise = (
    jax.jit(f, static_argnums=static)
    for f, static in (
        (module.bootstrap, 0), (penalty.regulariser, 0), (module.update_critic, 0), (module.draw_noise, (0, 2)),
    )
)  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def propose(p, policy, batch, noise):
    return penalty.propose(p.penalty, p.soft, policy, batch, noise.uniform, noise.policy)


def critic_loss(p, params, log_multiplier, batch, proposals, target):
    return penalty.critic_loss(p.penalty, p.critic, params, log_multiplier, batch, proposals, target)


SPEC = Spec(obs_dim=4, act_dim=2, horizon=100)
NARROW = {"hidden": (6, 5), "critic_hidden": (5, 6), "actions": 2}
SMALL, CALQL, APL = CQLConfig(**NARROW), CalQLConfig(**NARROW), APLCQLConfig(**NARROW)
PLAIN = Switches(init="pytorch")
OWN = {CQLConfig: PLAIN, CalQLConfig: PLAIN, APLCQLConfig: apl_cql.AUTHORS._replace(init="pytorch")}
"""The switches of each config's authors, with weights that no test has to fear are zero."""

GOLDEN_SPEC = Spec(obs_dim=5, act_dim=3, horizon=1000)
TINY = {"hidden": (32, 32), "critic_hidden": (32, 32), "actions": 4}
of_cql = functools.partial(of_variant, CQLConfig, VARIANTS)
of_calql = functools.partial(of_variant, CalQLConfig, calql.VARIANTS)
CLIPPED = VARIANTS["unweighted"].switches._replace(softmax_temperature=0.5, penalty_max=2.5)
RELEASES = {
    "cql_corl": {
        "small": (of_cql(**TINY), None),
        "small_antmaze": (of_cql("corl_antmaze", **TINY), None),
        "small_noIS": (of_cql("unweighted", **TINY, entropy_backup=True, backup="max", penalty_min=0.5), CLIPPED),
        "full": (of_cql(critic_hidden=(256, 256)), None),
    },
    "calql_corl": {
        "small": (of_calql("corl", **TINY), None),
        "small_antmaze": (of_calql("corl_antmaze", **TINY), None),
        "small_uncalibrated": (of_calql("corl", **TINY), None),
        "full": (of_calql("corl"), None),
    },
}
"""By file and variant of the released numbers: the config in a variant's name, and switches if they are not its own."""
CASES = [(file, variant, "float64") for file, variants in RELEASES.items() for variant in variants]
CASES += [(file, "small_antmaze", "float32") for file in RELEASES]


# -- released code ---------------------------------------------------------------------------------------------------


@pytest.fixture
def golden_case(golden_of, request):
    """(arrays, variant, dtype, parts, state, batch) of one variant in one precision."""
    file, variant, dtype = request.param
    size = "full" if (file, dtype) == ("calql_corl", "float32") else variant  # whose arrays are stored whole
    z, dtype = golden.load(golden_of(size), f"{file}.npz"), np.dtype(dtype)
    with jax.enable_x64(dtype == np.float64):
        config, switches = RELEASES[file][variant]
        phase = "online" if variant == "small_uncalibrated" else "offline"
        p = parts(config, GOLDEN_SPEC, phase, switches=switches)
        init = f"{variant}/init" if f"{variant}/init/q1/l0/W" in z.files else "small/init"
        critic, target = (golden.stacked(z, [f"{init}/{q}1", f"{init}/{q}2"], dtype) for q in ("q", "tq"))
        scalars = [z[f"{init}/{name}"].astype(dtype) for name in ("log_alpha", "log_alpha_prime")]
        params = (critic, target, golden.params(z, f"{init}/pi", dtype), *scalars)
        yield z, variant, dtype, p, state_of(p, *jax.tree.map(jnp.asarray, params)), golden.batch(z, dtype)


def state_of(p, critic, target, policy, log_alpha, log_multiplier):
    fresh = p.optimiser.init
    moments = (fresh(critic), fresh(policy), fresh(log_alpha))
    return CQLState(critic, target, policy, log_alpha, *moments, log_multiplier, fresh(log_multiplier))


def golden_noise(z, variant, step, dtype):
    get = lambda name: jnp.asarray(z[f"{variant}/noise/step{step}/{name}"], dtype)
    actions_first = lambda x: jnp.swapaxes(x, 0, 1) if x.ndim == 3 else x[None]
    both = [actions_first(get(name)) for name in ("eps_current", "eps_next")]
    return Noise(
        next_action=actions_first(get("eps_target")),
        action=get("eps_pi"),
        uniform=actions_first(-1 + 2 * get("u_random")),
        policy=jnp.stack(both, axis=1),
        subset=jnp.arange(2),
    )


def terms_and_gradients(p, state, batch, noise):
    """The released code's per-row quantities and gradients, from this package's functions."""
    target, proposals = bootstrap(p, state, batch, noise), propose(p, state.policy, batch, noise)
    obs = penalty.at_each(batch.obs, proposals.action.shape[0])
    q = p.critic.apply(state.critic, obs, proposals.action)  # [Q, M, B]
    difference = regulariser(p.penalty._replace(limits=(None, None)), q, proposals)
    terms = {"target": target}
    for i in range(2):
        data = q[i, 0]
        terms |= {f"q{i + 1}": data, f"diff{i + 1}_unclipped": difference[i], f"lse{i + 1}": difference[i] + data}
    critic = jax.grad(lambda x: critic_loss(p, x, state.log_multiplier, batch, proposals, target)[0])(state.critic)
    critics = functools.partial(p.critic.apply, state.critic)
    policy = jax.grad(lambda x: soft.policy_loss(p.soft, x, critics, state.log_alpha, batch, noise.action)[0].mean())(
        state.policy
    )
    return terms, {"q1": golden.member(critic, 0), "q2": golden.member(critic, 1), "pi": policy}


@pytest.mark.parametrize("golden_case", CASES, indirect=True, ids="-".join)
def test_terms_and_gradients_equal_the_released_code(golden_case):
    z, variant, dtype, p, state, batch = golden_case
    exact = dtype == np.float64
    noise = golden_noise(z, variant, 1, dtype)
    terms, grads = jax.jit(functools.partial(terms_and_gradients, p))(state, batch, noise)
    for name, value in terms.items():
        reference = z[f"{variant}/f64/step1/term/{name}"]
        assert value.dtype == dtype
        tolerance = (1e-9 if exact else 1e-5) * np.abs(reference).max()
        np.testing.assert_allclose(value, reference, rtol=0, atol=tolerance, err_msg=name)
    compared = 0
    for net, network in grads.items():
        for name, value in golden.flatten(network).items():
            atol = (1e-9 if exact else 5e-5) * np.abs(value).max()
            golden.compare(z, f"{variant}/f64/step1/grad/{net}/{name}", value, atol + 1e-12)
            compared += 1
    assert compared == 12 + 2 * len(p.config.hidden) + 4


@pytest.mark.parametrize("golden_case", CASES, indirect=True, ids="-".join)
def test_three_updates_equal_the_released_code(golden_case):
    z, variant, dtype, p, state, batch = golden_case
    once, exact = jax.jit(functools.partial(update_once, p)), dtype == np.float64
    for step in range(1, 4):
        state, metrics = once(state, batch, golden_noise(z, variant, step, dtype), step - 1)
        loss = lambda *names: sum(z[f"{variant}/f64/step{step}/loss/{name}"] for name in names)  # noqa: B023
        expected = {
            "critic_loss": loss("qf"), "td_loss": loss("td1", "td2"), "cql_loss": loss("cql1", "cql2"),
            "policy_loss": loss("pi"),
        }  # fmt: skip
        for name, reference in expected.items():
            scale = abs(reference) + 1e-2 * abs(expected["td_loss"])  # the others cancel
            np.testing.assert_allclose(metrics[name].mean(), reference, rtol=0, atol=(1e-9 if exact else 2e-5) * scale)
        if step == 2:
            continue
        scalars = {"log_alpha": state.log_alpha}
        if p.config.lagrange_gap is not None:
            scalars["log_alpha_prime"] = state.log_multiplier
        nets = {"pi": state.policy} | {f"q{i + 1}": golden.member(state.critic, i) for i in range(2)}
        nets |= {f"tq{i + 1}": golden.member(state.target, i) for i in range(2)}
        flat = {f"{net}/{name}": x for net, params in nets.items() for name, x in golden.flatten(params).items()}
        for name, value in (scalars | flat).items():
            compare_parameters(z, variant, step, name, value, exact)


def compare_parameters(z, variant, step, name, value, exact):
    """In float32 Adam turns a vanishing gradient of either sign into a whole step."""
    if exact:
        return golden.compare(z, f"{variant}/f64/after{step}/{name}", value, 1e-9)
    gradient = f"{variant}/f64/step1/grad/{name.removeprefix('t')}"
    firm = np.abs(z[gradient]) >= 1e-5 * np.abs(z[gradient]).max() if gradient in z.files else np.ones((), bool)
    error = np.abs(value - z[f"{variant}/f64/after{step}/{name}"])
    assert error[np.broadcast_to(firm, error.shape)].max() < 2e-6 and error.max() < 1e-3, name


# -- an independent re-statement -------------------------------------------------------------------------------------


def fresh(p, seed=0, dtype=np.float32):
    """A state with random NumPy parameters, targets apart from their critics."""
    rng, c = np.random.default_rng(seed), p.config
    sizes = (SPEC.obs_dim + SPEC.act_dim, *c.critic_hidden, 1)
    critic, target = restatement.ensemble(rng, sizes, c.critics), restatement.ensemble(rng, sizes, c.critics)
    policy = restatement.network(rng, (SPEC.obs_dim, *c.hidden, 2 * SPEC.act_dim))
    if p.switches.log_std_affine:
        policy |= {"log_std_multiplier": np.array(0.9), "log_std_offset": np.array(-0.8)}
    params = (critic, target, policy, np.array(-0.7), np.array(0.3))
    return state_of(p, *jax.tree.map(lambda x: jnp.asarray(x, dtype), params))


def made(config, phase="offline", seed=0, **switches):
    switches = OWN[type(config)]._replace(**switches)
    p = parts(config, SPEC, phase, switches=switches)
    return p, cql(config, SPEC, phase, switches=switches), fresh(p, seed)


def random_batches(seed, updates=2, rows=16, dtype=np.float32):
    layout, rng = SPEC.layout, np.random.default_rng(seed)
    packed = rng.normal(size=(updates, rows, layout.width)).astype(dtype)
    packed[..., layout.action] = np.tanh(packed[..., layout.action])
    packed[..., layout.terminal] = rng.random((updates, rows)) < 0.2
    packed[..., layout.mc_return] = np.where(rng.random((updates, rows)) < 0.5, packed[..., layout.mc_return], -np.inf)
    packed[..., layout.source] = 0.0
    return layout.unpack(jnp.asarray(packed), jnp.ones((updates, rows), dtype))


def one_batch(seed, dtype=np.float32, **fields):
    return jax.tree.map(lambda x: x[0], random_batches(seed, 1, dtype=dtype))._replace(**fields)


def random_noise(seed, p, rows=16, dtype=np.float32):
    rng, c, each = np.random.default_rng(100 + seed), p.config, (rows, SPEC.act_dim)
    subset = rng.permutation(c.critics)[: int(c.subset) or c.critics].astype(np.int32)
    arrays = (
        rng.normal(size=(c.actions if c.backup == "max" else 1, *each)),
        rng.normal(size=each),
        rng.uniform(-1, 1, size=(c.actions, *each)),
        rng.normal(size=(c.actions, 2, *each)),
    )
    return Noise(*(jnp.asarray(x, dtype) for x in arrays), jnp.asarray(subset))


def restated_sample(policy, obs, noise, switches):
    """Action and log-probability of the squashed Gaussian."""
    mean, raw = np.split(restatement.forward(policy, obs), 2, axis=1)
    if switches.log_std_affine:
        raw = policy["log_std_multiplier"] * raw + policy["log_std_offset"]
    low = switches.log_std_range[0]
    log_std = np.where(raw.real > 2, 2, np.where(raw.real < low, low, raw))
    u = mean + np.exp(log_std) * noise
    log_det = np.log(1 - np.tanh(u) ** 2 + switches.density_epsilon)
    return np.tanh(u), (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - log_det).sum(axis=1)


def restated_target(nets, batch, noise, config, switches):
    s2, values, log_probs = batch.next_obs, [], []
    for eps in noise.next_action:
        action, log_prob = restated_sample(nets["pi"], s2, eps, switches)
        values.append(np.stack([restatement.critic(nets[f"t{i}"], s2, action) for i in noise.subset]))
        log_probs.append(log_prob)
    if config.backup == "max_each":  # every critic at its own best action
        best = np.stack([np.max([value[i] for value in values], axis=0) for i in range(len(noise.subset))])
        return batch.reward + 0.99 * (1 - batch.terminal) * best.min(axis=0)
    values = [value.min(axis=0) for value in values]
    y = np.empty(len(s2))
    for row in range(len(s2)):
        k = max(range(len(values)), key=lambda k: values[k][row])
        soft = values[k][row] - config.entropy_backup * np.exp(nets["log_alpha"]) * log_probs[k][row]
        y[row] = batch.reward[row] + 0.99 * (1 - batch.terminal[row]) * soft
    return y


def restated_regulariser(q, policy, batch, noise, config, switches, calibrate):
    """One critic's R `[B]`, action by action."""
    s, total = batch.obs, 0.0
    temperature, weighted = switches.softmax_temperature, switches.importance_weights
    for k in range(config.actions):
        uniform = noise.uniform[k]
        density = np.full(len(s), -SPEC.act_dim * np.log(2))
        total += np.exp((restatement.critic(q, s, uniform) - weighted * density) / temperature)
        for kind, obs in enumerate((s, batch.next_obs)):
            action, density = restated_sample(policy, obs, noise.policy[k, kind], switches)
            value = restatement.critic(q, s, action)
            if calibrate:
                value = np.where(value.real > batch.mc_return, value, batch.mc_return)
            total += np.exp((value - weighted * density) / temperature)
    data = restatement.critic(q, s, batch.action)
    if not weighted:
        total += np.exp(data / temperature)
    r = temperature * np.log(total) - data
    return np.where(r.real < config.penalty_min, config.penalty_min, r) if config.penalty_min is not None else r


def restated_step(nets, batch, noise, adams, config, switches, calibrate):
    """One step in NumPy; `nets` holds q0.., t0.., pi, log_alpha and log_multiplier."""
    if switches.order == "actor_first":
        actor, loss_pi = restated_actor(nets, nets, batch, noise, adams, config, switches)
        critics, loss_q = restated_critics(nets | actor, batch, noise, adams, config, switches, calibrate)
    else:
        critics, loss_q = restated_critics(nets, batch, noise, adams, config, switches, calibrate)
        actor, loss_pi = restated_actor(nets, critics, batch, noise, adams, config, switches)
    return critics | actor, loss_q, loss_pi


def scalar_step(nets, adams, name, gradient):
    return adams[name].step({"x": nets[name]}, {"x": gradient})["x"]


def restated_critics(nets, batch, noise, adams, config, switches, calibrate):
    """The stepped critics and multiplier, the targets, and the critics' loss."""
    s, count, new = batch.obs, config.critics, {}
    y = restated_target(nets, batch, noise, config, switches)
    lagrange = config.lagrange_gap is not None
    weight = config.penalty_weight * (np.exp(nets["log_multiplier"]) if lagrange else 1.0)
    share, gap, loss_q, excess = batch.conserve.mean(), config.lagrange_gap or 0.0, 0.0, 0.0
    for i in range(count):
        mean_r = lambda q: np.mean(
            batch.conserve * restated_regulariser(q, nets["pi"], batch, noise, config, switches, calibrate)
        )
        td = lambda q: np.mean((restatement.critic(q, s, batch.action) - y) ** 2)
        loss = lambda q: td(q) + weight * (mean_r(q) - gap * share)  # noqa: B023
        loss_q += loss(nets[f"q{i}"])
        excess += (mean_r(nets[f"q{i}"]) / share - gap) / count
        new[f"q{i}"] = adams[f"q{i}"].step(nets[f"q{i}"], restatement.gradient(loss, nets[f"q{i}"]))
        new[f"t{i}"] = restatement.average(nets[f"t{i}"], new[f"q{i}"])
    step = scalar_step(nets, adams, "log_multiplier", -weight * excess) if lagrange else nets["log_multiplier"]
    return new | {"log_multiplier": step}, loss_q


def restated_actor(nets, stepped, batch, noise, adams, config, switches):
    """The stepped policy and temperature and the policy's loss; `stepped` are the critics after their step."""
    s, count = batch.obs, config.critics
    log_prob = restated_sample(nets["pi"], s, noise.action, switches)[1]
    new = {"log_alpha": scalar_step(nets, adams, "log_alpha", -np.mean(log_prob - SPEC.act_dim))}
    alpha = np.exp((nets if switches.order in ("critic_first", "joint", "in_place_joint") else new)["log_alpha"])
    seen = stepped if switches.order in ("critic_first", "alpha_first") else nets

    def loss_pi(pi):
        action, log_prob = restated_sample(pi, s, noise.action, switches)
        if switches.order.startswith("in_place"):
            q = [restatement.critic_in_place(nets[f"q{i}"], stepped[f"q{i}"], s, action) for i in range(count)]
        else:
            q = [restatement.critic(seen[f"q{i}"], s, action) for i in range(count)]
        q = functools.reduce(restatement.smaller, q) if switches.policy_q == "min" else sum(q) / count
        return np.mean(alpha * log_prob - q)

    new["pi"] = adams["pi"].step(nets["pi"], restatement.gradient(loss_pi, nets["pi"]))
    return new, loss_pi(nets["pi"])


@pytest.mark.parametrize(
    "config, switches",
    [
        (SMALL, {"importance_weights": False, "softmax_temperature": 0.7}),
        (CALQL, {}),
        (dataclasses.replace(SMALL, backup="max_each", learning_rate=0.05), {"order": "actor_first"}),
        (APL, {}),
        (
            dataclasses.replace(APL, policy_learning_rate=1e-2, learning_rate=0.05),
            {"order": "in_place", "density_epsilon": 1e-2},
        ),
    ],
    ids=["cql", "calql", "actor first", "apl", "apl as released"],
)
def test_three_updates_equal_an_independent_restatement(config, switches):
    config = dataclasses.replace(config, entropy_backup=config.calibrate == "always")
    switches = OWN[type(config)]._replace(**switches)
    with jax.enable_x64(True):
        p = parts(config, SPEC, "offline", switches=switches)
        state = fresh(p, dtype=np.float64)
        rate = {"pi": config.policy_learning_rate, "log_alpha": config.policy_learning_rate}

        def by_name(state):
            arrays = jax.tree.map(np.asarray, state)
            nets = {f"q{i}": golden.member(arrays.critic, i) for i in range(config.critics)}
            nets |= {f"t{i}": golden.member(arrays.target, i) for i in range(config.critics)}
            scalars = {"log_alpha": arrays.log_alpha, "log_multiplier": arrays.log_multiplier}
            return nets | {"pi": arrays.policy} | scalars

        nets = by_name(state)
        adams = {name: restatement.Adam(lambda step, r=rate.get(name, config.learning_rate): r) for name in nets}
        once = jax.jit(functools.partial(update_once, p))
        for step in range(3):
            conserve = jnp.asarray(np.random.default_rng(step).uniform(size=16))
            batch = one_batch(step, dtype=np.float64, conserve=conserve)
            noise = random_noise(step, p, dtype=np.float64)
            state, metrics = once(state, batch, noise, step)
            arrays = jax.tree.map(np.asarray, (batch, noise))
            nets, loss_q, loss_pi = restated_step(nets, *arrays, adams, config, switches, p.penalty.calibrate)
            np.testing.assert_allclose(metrics["critic_loss"].mean(), loss_q, rtol=1e-10)
            np.testing.assert_allclose(metrics["policy_loss"].mean(), loss_pi, rtol=1e-9)
        for net, params in by_name(state).items():
            if net.startswith("log"):
                np.testing.assert_allclose(params, nets[net], rtol=1e-10, err_msg=net)
                continue
            reference = golden.flatten(nets[net])
            for name, value in golden.flatten(params).items():
                np.testing.assert_allclose(value, reference[name], rtol=0, atol=1e-9, err_msg=f"{net}/{name}")


def test_targets_may_start_as_networks_of_their_own():
    """APL's release never copies the critics into the targets."""
    copied, own = (made(APL, copied_targets=copied)[1] for copied in (True, False))
    a, b = copied.init(jax.random.key(0)), own.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, (a.critic, a.critic), (a.target, b.critic))
    obs, action = jnp.ones((5, SPEC.obs_dim)), jnp.zeros((5, SPEC.act_dim))
    values = [made(APL)[0].critic.apply(params, obs, action) for params in (b.critic, b.target)]
    assert not np.allclose(*values, rtol=0.1) and np.isfinite(values[1]).all()


# -- the regulariser -------------------------------------------------------------------------------------------------


def flat_proposals(count, act_dim, bound=-np.inf):
    """As many proposals besides the data's, at the density of the uniform distribution."""
    density = jnp.full((1 + count, 1), -act_dim * np.log(2.0))
    return Proposals(jnp.zeros((1 + count, 1, act_dim)), density, jnp.full((1 + count, 1), bound))


@pytest.mark.parametrize("count, act_dim, value", [(30, 3, 5.4806), (30, 6, 7.5601), (30, 8, 8.9464), (10, 3, 4.3820)])
def test_regulariser_of_a_zero_critic_counts_the_actions(count, act_dim, value):
    """Reference check 39: log of their number and the box's volume."""
    r = regulariser(made(SMALL)[0].penalty, jnp.zeros((1, 1 + count, 1)), flat_proposals(count, act_dim))
    np.testing.assert_allclose(r, np.full((1, 1), value), atol=5e-5)


def one_dimensional(n, log_std=0.5):
    """Proposals of `n` actions per kind for the policy tanh(N(0, exp(log_std)^2)), and the parts."""
    spec = Spec(1, 1, 10)
    config = dataclasses.replace(SMALL, hidden=(2,), critic_hidden=(2,), actions=n)
    p = parts(config, spec, "offline", switches=PLAIN._replace(log_std_affine=False))
    policy = jax.tree.map(jnp.zeros_like, restatement.network(np.random.default_rng(0), (1, 2, 2)))
    policy["l1"]["bias"] = jnp.array([0.0, log_std])
    batch = spec.layout.unpack(jnp.zeros((1, spec.layout.width)))
    return p, propose(p, policy, batch, draw_noise(p, jax.random.key(3), 1))


def test_regulariser_equals_brute_force():
    """Reference check 40: ten actions per kind in one dimension, and a constant added to Q."""
    p, proposals = one_dimensional(10)
    action = np.asarray(proposals.action)[:, 0, 0].astype(float)
    q, total = np.sin(3 * action), 0.0
    for k in range(1, 31):
        u = np.arctanh(action[k])
        std = np.exp(0.5)
        squashed = np.exp(-0.5 * (u / std) ** 2) / (std * np.sqrt(2 * np.pi)) / (1 - action[k] ** 2)
        total += np.exp(q[k]) / (0.5 if k <= 10 else squashed)
    q = jnp.asarray(q, jnp.float32)[None, :, None]
    r = regulariser(p.penalty, q, proposals)
    np.testing.assert_allclose(r[0, 0], np.log(total) - q[0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(regulariser(p.penalty, q + 7.0, proposals), r, rtol=1e-5)


def test_regulariser_estimates_the_integral_over_the_box():
    """Reference check 40: Q(a) = a gives log(2 sinh 1), whatever the policy."""
    p, proposals = one_dimensional(30_000)
    q = proposals.action[None, :, :, 0]
    assert regulariser(p.penalty, q, proposals)[0, 0] - np.log(90_000) == pytest.approx(
        np.log(2 * np.sinh(1.0)), abs=0.01
    )


@pytest.mark.parametrize("weighted", [True, False])
def test_calibration_without_a_known_return_is_none(weighted):
    """Reference check 41, first half; the batch's known returns do change the loss."""
    of = lambda calibrate: made(dataclasses.replace(SMALL, calibrate=calibrate), importance_weights=weighted)[0]

    @functools.partial(jax.jit, static_argnums=0)
    def loss_and_gradient(calibrate, batch):
        p = of(calibrate)
        state, noise = fresh(p), random_noise(0, p)
        proposals, target = propose(p, state.policy, batch, noise), bootstrap(p, state, batch, noise)
        loss = lambda params: critic_loss(p, params, state.log_multiplier, batch, proposals, target)[0]
        return jax.value_and_grad(loss)(state.critic)

    unknown = one_batch(0, mc_return=jnp.full(16, -jnp.inf))
    plain = loss_and_gradient("never", unknown)
    jax.tree.map(np.testing.assert_array_equal, loss_and_gradient("always", unknown), plain)
    assert loss_and_gradient("always", one_batch(0))[0] > plain[0]


def test_a_return_above_all_values_stops_the_push_through_policy_actions():
    """Reference check 41, second half; random and data actions are never bounded."""
    p, _, state = made(CALQL)
    batch, noise = one_batch(0, mc_return=jnp.full(16, 1e6)), random_noise(0, p)
    proposals = propose(p, state.policy, batch, noise)
    q = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 16)).astype(np.float32))
    gradient = jax.grad(lambda q: regulariser(p.penalty, q, proposals).sum())(q)
    np.testing.assert_array_equal(gradient[:, 3:], 0.0)
    np.testing.assert_array_equal(gradient[:, 0], -1.0)
    np.testing.assert_array_equal(proposals.bound[:3], -np.inf)
    columns = np.concatenate([np.asarray(q[0, 1:3]), np.full((4, 16), 1e6)]) - proposals.log_density[1:]
    wanted = 1e6 + np.log(np.exp(np.float64(columns) - 1e6).sum(axis=0)) - q[0, 0]
    np.testing.assert_allclose(regulariser(p.penalty, q, proposals)[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "calibrate, held", [("never", (False, False)), ("offline", (True, False)), ("always", (True, True))]
)
def test_calibration_by_phase(calibrate, held):
    config = dataclasses.replace(SMALL, calibrate=calibrate)
    assert tuple(parts(config, SPEC, phase).penalty.calibrate for phase in ("offline", "online")) == held


def test_the_regulariser_moves_critics_only():
    p, _, state = made(SMALL)
    batch, noise = one_batch(0), random_noise(0, p)
    quiet = dataclasses.replace(SMALL, penalty_weight=0.0)
    loud, silent = (
        jax.jit(functools.partial(update_once, parts))(state, batch, noise, 0)[0] for parts in (p, made(quiet)[0])
    )
    jax.tree.map(np.testing.assert_array_equal, loud.policy, silent.policy)
    assert not np.array_equal(loud.critic["l0"]["kernel"], silent.critic["l0"]["kernel"])


# -- conserve --------------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def losses(p, state, batch, noise):
    proposals, target = propose(p, state.policy, batch, noise), bootstrap(p, state, batch, noise)
    return critic_loss(p, state.critic, state.log_multiplier, batch, proposals, target)[1]


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_regulariser_is_averaged_over_the_whole_batch(rho):
    """Reference check 58: with the constant r = 50 on every row the term is rho weight r for each critic."""
    p, _, state = made(dataclasses.replace(SMALL, penalty_weight=3.0, penalty_min=50.0))
    conserve = jnp.asarray(np.arange(16) < 16 * rho, jnp.float32)
    aux = losses(p, state, one_batch(0, conserve=conserve), random_noise(0, p))
    np.testing.assert_allclose(aux["cql_loss"], 2 * rho * 3.0 * 50.0, rtol=1e-6)


def test_conserve_weighs_each_row():
    p, _, state = made(SMALL)
    conserve = np.random.default_rng(5).uniform(size=16).astype(np.float32)
    alone = [losses(p, state, one_batch(0, conserve=jnp.eye(16)[i]), random_noise(0, p))["cql_loss"] for i in range(16)]
    aux = losses(p, state, one_batch(0, conserve=jnp.asarray(conserve)), random_noise(0, p))
    np.testing.assert_allclose(aux["cql_loss"], conserve @ np.array(alone), rtol=1e-5)


@pytest.mark.parametrize("lagrange_gap", [None, 0.8])
def test_no_conservative_row_makes_it_sac(lagrange_gap):
    """Every parameter and moment equals those of `sac` after the same step; the multiplier rests."""
    config = CQLConfig(
        hidden=(6, 5), critic_hidden=(6, 5), actions=2, policy_learning_rate=3e-4, entropy_backup=True,
        lagrange_gap=lagrange_gap, calibrate="always",
    )  # fmt: skip
    p, _, state = made(config, log_std_affine=False, order="critic_first")
    noise, batch = random_noise(0, p), one_batch(0, conserve=jnp.zeros(16))
    new, _ = jax.jit(functools.partial(update_once, p))(state, batch, noise, 0)
    plain = sac_module.Switches(temperature_loss="log_alpha", log_std_range=(-20.0, 2.0), init="pytorch")
    sac_parts = sac_module.parts(SACConfig(hidden=(6, 5)), SPEC, plain)
    sac_noise = sac_module.Noise(noise.next_action[0], noise.action, noise.subset)
    first = SACState(*state[: len(SACState._fields)])
    wanted, _ = jax.jit(functools.partial(sac_module.update_once, sac_parts))(first, batch, sac_noise, 0)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(same, SACState(*new[: len(SACState._fields)]), wanted)
    np.testing.assert_array_equal(new.log_multiplier, state.log_multiplier)


# -- Lagrange's multiplier -------------------------------------------------------------------------------------------


def test_multiplier_starts_where_it_is_told():
    agent = made(CALQL, init_log_multiplier=0.7)[1]
    assert agent.init(jax.random.key(0)).log_multiplier == pytest.approx(0.7)


@pytest.mark.parametrize("distance", [-0.1, 0.1])
def test_multiplier_rises_above_the_gap_and_falls_below(distance):
    """Reference check 43; the regulariser's mean is over conservative rows."""
    conserve = np.arange(16) < 4
    p, _, state = made(dataclasses.replace(SMALL, lagrange_gap=0.0))
    batch, noise = one_batch(0, conserve=jnp.asarray(conserve, jnp.float32)), random_noise(0, p)
    mean = losses(p, state, batch, noise)["excess"].mean()
    p, _, state = made(dataclasses.replace(SMALL, lagrange_gap=float(mean) - distance))
    new, metrics = update_critic(p, state, batch, noise, 0)
    np.testing.assert_allclose(metrics["cql_excess"], distance, atol=1e-5)
    assert (new.log_multiplier > state.log_multiplier) == (distance > 0)
    np.testing.assert_allclose(metrics["multiplier"], np.exp(0.3), rtol=1e-6)


def test_multiplier_is_bounded_and_comes_back():
    p, _, state = made(CALQL)
    step = jax.jit(functools.partial(penalty.update_multiplier, p.penalty, p.optimiser))
    state = state._replace(log_multiplier=jnp.log(jnp.float32(1e6)) - 1e-4)
    for _ in range(3):
        state = step(state, jnp.full(2, 5.0), 0)
    at_limit = float(jnp.exp(state.log_multiplier))
    assert at_limit == pytest.approx(1e6, rel=2e-6)
    for _ in range(20):
        state = step(state, jnp.full(2, -50.0), 0)
    assert 0.0 < jnp.exp(state.log_multiplier) < 0.9999 * at_limit


def test_both_factors_multiply():
    """Cal-QL's loss: multiplier times weight times what the regulariser exceeds the gap by."""
    p, _, state = made(CALQL)
    aux = losses(p, state, one_batch(0), random_noise(0, p))
    np.testing.assert_allclose(aux["cql_loss"], np.exp(0.3) * 5.0 * aux["excess"].sum(), rtol=1e-5)


# -- target ----------------------------------------------------------------------------------------------------------


def test_best_of_several_next_actions_is_at_least_each():
    """Reference check 44."""
    config = dataclasses.replace(SMALL, backup="max", actions=4)
    p, _, state = made(config)
    batch, noise = one_batch(0), random_noise(0, p)
    best = bootstrap(p, state, batch, noise)
    singles = np.stack([bootstrap(p, state, batch, noise._replace(next_action=x[None])) for x in noise.next_action])
    np.testing.assert_allclose(best, singles.max(axis=0), rtol=1e-5, atol=1e-6)
    assert np.all(best > singles.min(axis=0), where=np.asarray(batch.terminal) == 0)
    of = lambda backup: made(dataclasses.replace(SMALL, backup=backup, actions=1))[0]
    lone = random_noise(0, of("max"))
    np.testing.assert_array_equal(*(bootstrap(of(kind), state, batch, lone) for kind in ("max", "sample")))


def test_a_terminal_row_does_not_bootstrap_and_a_cut_row_does():
    p, _, state = made(CALQL)
    batch = one_batch(0)
    target, ended = bootstrap(p, state, batch, random_noise(0, p)), np.asarray(batch.terminal) == 1
    assert 0 < ended.sum() < 16
    np.testing.assert_array_equal(np.asarray(target)[ended], np.asarray(batch.reward)[ended])
    assert np.abs(np.asarray(target - batch.reward)[~ended]).min() > 1e-4


def test_ensemble_subset_of_the_target():
    p, _, state = made(APL)
    batch, noise = one_batch(0), random_noise(0, p)
    full = made(dataclasses.replace(APL, subset=0))[0]
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), state.target)
    of = lambda parts, target: bootstrap(parts, state._replace(target=target), batch, noise)
    np.testing.assert_allclose(of(p, same), of(full, same), rtol=1e-5, atol=1e-6)
    assert np.all(of(p, state.target) >= of(full, state.target) - 1e-6)
    assert np.any(of(p, state.target) > of(full, state.target) + 1e-3)
    subsets = np.asarray(jax.vmap(lambda key: draw_noise(p, key, 1).subset)(jax.random.split(jax.random.key(0), 500)))
    assert subsets.shape == (500, 2) and set(subsets.ravel()) == set(range(5))
    assert np.all(subsets[:, 0] != subsets[:, 1])


# -- promises --------------------------------------------------------------------------------------------------------


def test_many_updates_compile_to_one_scan():
    """Unrolled, 20 updates would be 20 times the program of one."""
    agent = cql(CALQL, SPEC, "online")
    state = jax.eval_shape(agent.init, jax.random.key(0))
    size = lambda count: len(
        jax.jit(agent.update).lower(state, random_batches(0, count), jax.random.key(0), jnp.int32(0)).as_text()
    )
    assert size(20) < 1.1 * size(1)


def test_a_call_of_several_updates_is_one_after_another():
    p, agent, state = made(CALQL)
    batches = random_batches(0, updates=3)
    many, metrics = jax.jit(agent.update)(state, batches, jax.random.key(5), jnp.int32(0))
    once, seen = jax.jit(functools.partial(update_once, p)), []
    for i, key in enumerate(jax.random.split(jax.random.key(5), 3)):
        noise = draw_noise(p, key, 16)
        state, each = once(state, jax.tree.map(lambda x, i=i: x[i], batches), noise, i)
        seen.append(each)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), many, state)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, np.mean([m[name] for m in seen]), rtol=1e-4, err_msg=name)


def test_noise_covers_the_box_and_is_drawn_per_kind():
    p = parts(dataclasses.replace(SMALL, actions=10, backup="max"), SPEC, "offline")
    noise = draw_noise(p, jax.random.key(0), 500)
    assert noise.next_action.shape == noise.uniform.shape == (10, 500, 2) and noise.policy.shape == (10, 2, 500, 2)
    for kind, std in ((noise.uniform, 3**-0.5), (noise.next_action, 1.0), (noise.policy, 1.0), (noise.action, 1.0)):
        few = 5 / np.sqrt(kind.size)
        assert abs(kind.mean()) < few * std and abs(kind.std() - std) < few
    assert -1.0 <= noise.uniform.min() < -0.99 and 0.99 < noise.uniform.max() <= 1.0
    flat = [np.asarray(x).ravel()[:1000] for x in (*noise.policy.swapaxes(0, 1), noise.next_action, noise.action)]
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.2


@pytest.mark.parametrize("config", [SMALL, CALQL, APL], ids=["cql", "calql", "apl"])
def test_hand_over_keeps_everything(config):
    (_, offline, state), (_, online, _) = made(config), made(config, "online")
    assert offline.go_online(state, jax.random.key(0)) is state
    structure = lambda agent: jax.eval_shape(agent.init, jax.random.key(0))
    assert jax.tree.structure(structure(offline)) == jax.tree.structure(structure(online))
    shapes = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    assert shapes(structure(online)) == shapes(structure(offline))
    obs, action = jnp.ones((3, 4)), jnp.ones((3, 2))
    both = made(config)[0].critic.apply(state.target, obs, action)
    np.testing.assert_array_equal(online.value(state, obs, action), both.min(axis=0))


def test_rows_that_are_not_the_datasets_are_bounded_by_zero_where_asked():
    p, _, state = made(CALQL, online_bound="zero")
    source = jnp.arange(16) % 4  # of all origins
    batch = one_batch(0, source=source, mc_return=jnp.linspace(-3.0, 3.0, 16))
    bound = propose(p, state.policy, batch, random_noise(0, p)).bound[1 + p.config.actions :]
    expected = np.where(source == Source.OFFLINE, batch.mc_return, 0.0)
    np.testing.assert_array_equal(bound, np.broadcast_to(expected, bound.shape))


def test_online_weight_holds_online_alone():
    config = dataclasses.replace(SMALL, penalty_weight=10.0, online_penalty_share=0.05)
    state = made(config)[2]
    of = lambda phase: losses(made(config, phase)[0], state, one_batch(0), random_noise(0, made(config)[0]))["cql_loss"]
    np.testing.assert_allclose(of("online"), 0.05 * of("offline"), rtol=1e-5)


def test_data_within_half_the_box_keeps_the_policy_there():
    """Reward a on a in [-1, 0]: the critic extrapolates, the policy follows; conservative critics hold it back.

    Where in the data it stays changes with the processor's rounding: the penalty chases the policy to and fro.
    """
    spec, rng = Spec(obs_dim=1, act_dim=1, horizon=1), np.random.default_rng(0)
    config = CQLConfig(
        hidden=(32,), critic_hidden=(32, 32), actions=4, learning_rate=1e-3, policy_learning_rate=1e-3,
        init_temperature=0.02, tau=0.05, penalty_weight=2.0,
    )  # fmt: skip
    fixed = Switches(learn_temperature=False)
    agent, action = cql(config, spec, "offline", switches=fixed), rng.uniform(-1, 0, (1000, 64, 1)).astype(np.float32)
    obs = np.ones_like(action)
    rows = jnp.asarray(spec.layout.pack(obs, action, action[..., 0], obs, 1.0, -np.inf, 0.0, xp=np))
    state, update = jax.jit(agent.init)(jax.random.key(0)), jax.jit(agent.update)
    mode = {}
    for conserve in (0.0, 1.0):
        batches = spec.layout.unpack(rows, jnp.full((1000, 64), conserve))
        trained, _ = update(state, batches, jax.random.key(1), jnp.int32(0))
        mode[conserve] = float(agent.act(trained, jnp.ones((1, 1)), jax.random.key(0), False)[0, 0])
    assert mode[0.0] > 0.5 and -0.95 < mode[1.0] < 0.15, mode


@pytest.mark.parametrize(
    "field, value",
    [
        ("critic_hidden", (-1,)), ("policy_learning_rate", 0.0), ("actions", 0), ("variant", "corl"),
        ("penalty_weight", -1.0), ("online_penalty_share", -1.0), ("tau", 2.0), ("subset", 3),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(field, value):
    with pytest.raises(UserError, match=f"^agent.{field}: "):
        CQLConfig(**{field: value})
