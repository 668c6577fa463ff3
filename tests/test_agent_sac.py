"""SAC, REDQ and RLPD against an independent re-statement, and their own promises."""

import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import restatement
from variants import of_variant

from cfdg_jax.agents import redq
from cfdg_jax.agents import sac as module
from cfdg_jax.agents.cql import CQLConfig
from cfdg_jax.agents.redq import REDQConfig
from cfdg_jax.agents.sac import Noise, SACConfig, SACState, Switches, bootstrap, parts, sac, update_once
from cfdg_jax.agents.soft import update_actor
from cfdg_jax.core.seeds import over_seeds
from cfdg_jax.errors import UserError
from cfdg_jax.training.session import per_group
from cfdg_jax.types import Spec

SPEC = Spec(obs_dim=4, act_dim=2, horizon=100)
SMALL = SACConfig(hidden=(6, 5))
SWITCHES = Switches(init="pytorch")
REDQ = dataclasses.replace(SMALL, critics=4, subset=2, policy_delay=3)
MEAN = SWITCHES._replace(policy_q="mean")
EVERY = dataclasses.replace(REDQ, policy_delay=1)


def fresh(p, seed=0, dtype=np.float32):
    """A state with random NumPy parameters, targets apart from their critics."""
    rng, hidden, count = np.random.default_rng(seed), p.config.hidden, p.config.critics
    sizes = (SPEC.obs_dim + SPEC.act_dim, *hidden, 1)
    critic, target = restatement.ensemble(rng, sizes, count), restatement.ensemble(rng, sizes, count)
    policy = restatement.network(rng, (SPEC.obs_dim, *hidden, 2 * SPEC.act_dim))
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), (critic, target, policy, np.array(-0.7)))
    critic, target, policy, log_alpha = params
    optimisers = (p.optimiser.init(params) for params in (critic, policy, log_alpha))
    return SACState(critic, target, policy, log_alpha, *optimisers)


def made(config, switches=None, seed=0):
    switches = switches or (SWITCHES if config.critics == 2 else MEAN)
    p = parts(config, SPEC, switches)
    return p, sac(config, SPEC, "online", switches=switches), fresh(p, seed)


def critics_of(p, params):
    """The critics that the actor's step takes."""
    return functools.partial(p.critic.apply, params)


def random_batches(seed, updates=2, rows=16, dtype=np.float32):
    layout, rng = SPEC.layout, np.random.default_rng(seed)
    packed = rng.normal(size=(updates, rows, layout.width)).astype(dtype)
    packed[..., layout.action] = np.tanh(packed[..., layout.action])
    packed[..., layout.terminal] = rng.random((updates, rows)) < 0.2
    packed[..., layout.mc_return :] = 0.0
    return layout.unpack(jnp.asarray(packed), jnp.ones((updates, rows), dtype))


def random_noise(seed, p, rows=16):
    rng = np.random.default_rng(100 + seed)
    subset = rng.permutation(p.config.critics)[: int(p.config.subset) or p.config.critics]
    shape = (rows, SPEC.act_dim)
    drawn = map(jnp.asarray, (rng.normal(size=shape), rng.normal(size=shape), subset.astype(np.int32)))
    mixture = jnp.asarray(rng.random((rows, subset.size))) if p.switches.target_rule == "random" else None
    return Noise(*drawn, mixture)


# -- an independent re-statement -------------------------------------------------------------------------------------


def restated_sample(policy, obs, noise, switches):
    """Action and log-probability of the squashed Gaussian."""
    mean, raw = np.split(restatement.forward(policy, obs), 2, axis=1)
    low = switches.log_std_range[0]
    log_std = np.where(raw.real > 2, 2, np.where(raw.real < low, low, raw))
    u = mean + np.exp(log_std) * noise
    log_det = np.log(1 - np.tanh(u) ** 2 + switches.density_epsilon)
    return np.tanh(u), (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - log_det).sum(axis=1)


def restated_step(nets, batch, noise, adams, config, switches):
    """One SAC step in NumPy; `nets` holds q0.., t0.., pi and log_alpha. The critics move first, or the actor."""
    if switches.order == "actor_first":
        actor, loss_pi = restated_actor(nets, nets, batch, noise, adams, config, switches)
        critics, loss_q = restated_critics(nets | actor, batch, noise, adams, config, switches)
    else:
        critics, loss_q = restated_critics(nets, batch, noise, adams, config, switches)
        actor, loss_pi = restated_actor(nets, critics, batch, noise, adams, config, switches)
    return critics | actor, loss_q, loss_pi


def restated_critics(nets, batch, noise, adams, config, switches):
    """The stepped critics, their targets and their loss."""
    s, a, r, s2, d = batch
    count, alpha = config.critics, np.exp(nets["log_alpha"])
    next_action, next_log_prob = restated_sample(nets["pi"], s2, noise.next_action, switches)
    target_q = np.stack([restatement.critic(nets[f"t{i}"], s2, next_action) for i in noise.subset])
    if switches.target_rule == "random":
        shares = np.stack([row / row.sum() for row in noise.mixture])
        target_q = np.array([share @ values for share, values in zip(shares, target_q.T, strict=True)])
    else:
        target_q = {"min": np.min, "mean": np.mean}[switches.target_rule](target_q, axis=0)
    y = r + 0.99 * (1 - d) * (target_q - config.entropy_backup * alpha * next_log_prob)
    new, loss_q = {}, 0.0
    for i in range(count):
        loss = lambda q: np.mean((restatement.critic(q, s, a) - y) ** 2)
        share = 1 / count if switches.q_loss == "mean" else 1
        loss_q += share * loss(nets[f"q{i}"])
        gradient = jax.tree.map(lambda x: share * x, restatement.gradient(loss, nets[f"q{i}"]))  # noqa: B023
        new[f"q{i}"] = adams[f"q{i}"].step(nets[f"q{i}"], gradient)
        new[f"t{i}"] = restatement.average(nets[f"t{i}"], new[f"q{i}"])
    return new, loss_q


def restated_actor(nets, stepped, batch, noise, adams, config, switches):
    """The stepped policy and temperature and the policy's loss; `stepped` are the critics after their step."""
    s, count = batch[0], config.critics
    log_prob = restated_sample(nets["pi"], s, noise.action, switches)[1]
    factor = np.exp(nets["log_alpha"]) if switches.temperature_loss == "alpha" else 1.0
    gradient = -factor * np.mean(log_prob - config.target_entropy_scale * SPEC.act_dim)
    new = {"log_alpha": adams["alpha"].step({"x": nets["log_alpha"]}, {"x": gradient})["x"]}
    seen = stepped if switches.order in ("critic_first", "alpha_first") else nets
    alpha = np.exp((nets if switches.order in ("critic_first", "joint", "in_place_joint") else new)["log_alpha"])

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


FAST = {"learning_rate": 0.05}


@pytest.mark.parametrize(
    "config, switches",
    [
        (SMALL, {}),
        (dataclasses.replace(EVERY, target_entropy_scale=0.5, entropy_backup=False), {"q_loss": "mean"}),
        (
            EVERY,
            {"order": "joint", "temperature_loss": "log_alpha", "density_epsilon": 1e-2, "log_std_range": (-0.2, 2.0)},
        ),
        (SMALL, {"order": "alpha_first"}),
        (SMALL, {"order": "alpha_only"}),
        (dataclasses.replace(EVERY, **FAST), {"order": "in_place"}),
        (dataclasses.replace(EVERY, **FAST), {"order": "in_place_joint"}),
        (dataclasses.replace(SMALL, **FAST), {"order": "actor_first"}),
        (EVERY, {"target_rule": "mean"}),
        (EVERY, {"target_rule": "random"}),
    ],
    ids=[
        "sac",
        "rlpd",
        "redq",
        "alpha first",
        "alpha only",
        "in place",
        "redq 1",
        "actor first",
        "redq ave",
        "redq rem",
    ],
)
def test_three_updates_equal_an_independent_restatement(config, switches):
    switches = (SWITCHES if config.critics == 2 else MEAN)._replace(**switches)
    with jax.enable_x64(True):
        p = parts(config, SPEC, switches)
        state = fresh(p, dtype=np.float64)
        arrays = jax.tree.map(np.asarray, state)
        nets = {f"q{i}": golden.member(arrays.critic, i) for i in range(config.critics)}
        nets |= {f"t{i}": golden.member(arrays.target, i) for i in range(config.critics)}
        nets |= {"pi": arrays.policy, "log_alpha": arrays.log_alpha}
        adams = {name: restatement.Adam(lambda step: config.learning_rate) for name in [*nets, "alpha"]}
        once = jax.jit(functools.partial(update_once, p))
        for step in range(3):
            batch = jax.tree.map(lambda x: x[0], random_batches(step, dtype=np.float64))
            noise = random_noise(step, p)
            state, metrics = once(state, batch, noise, step)
            nets, loss_q, loss_pi = restated_step(
                nets, tuple(map(np.asarray, batch[:5])), jax.tree.map(np.asarray, noise), adams, config, switches
            )
            np.testing.assert_allclose(metrics["critic_loss"].mean(), loss_q, rtol=1e-10)
            np.testing.assert_allclose(metrics["policy_loss"].mean(), loss_pi, rtol=1e-9)
        ours = {f"q{i}": golden.member(state.critic, i) for i in range(config.critics)}
        ours |= {f"t{i}": golden.member(state.target, i) for i in range(config.critics)}
        ours["pi"] = state.policy
        for net, params in ours.items():
            reference = golden.flatten(nets[net])
            for name, value in golden.flatten(params).items():
                np.testing.assert_allclose(value, reference[name], rtol=0, atol=1e-9, err_msg=f"{net}/{name}")
        np.testing.assert_allclose(state.log_alpha, nets["log_alpha"], rtol=1e-10)


# -- many critics ----------------------------------------------------------------------------------------------------


def test_identical_critics_make_redq_sac():
    """Reference check 45."""
    p, _, state = made(REDQ)
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), state.target)
    batch, noise = jax.tree.map(lambda x: x[0], random_batches(0)), random_noise(0, p)
    full = p._replace(config=dataclasses.replace(p.config, subset=0))
    of = lambda parts, target: bootstrap(parts, state._replace(target=target), batch, noise)
    np.testing.assert_allclose(of(p, same), of(full, same), rtol=1e-5, atol=1e-6)
    assert np.all(of(p, state.target) >= of(full, state.target) - 1e-6)
    assert np.any(of(p, state.target) > of(full, state.target) + 1e-3)


def test_a_random_mixture_s_weights_are_fresh_for_every_row_and_update():
    """REDQ's rem: uniform weights, normalised over the critics."""
    p = parts(dataclasses.replace(REDQ, critics=10, subset=0), SPEC, MEAN._replace(target_rule="random"))
    drawn = [np.asarray(module.draw_noise(p, jax.random.key(i), 500).mixture) for i in range(2)]
    assert drawn[0].shape == (500, 10) and not np.array_equal(*drawn)
    assert len(np.unique(drawn[0])) > 4900 and abs(drawn[0].mean() - 0.5) < 0.02 and drawn[0].min() >= 0.0
    with pytest.raises(UserError, match=r"agent\.subset: leaves one critic at 0 under agent.variant rem"):
        of_variant(REDQConfig, redq.VARIANTS, "rem", critics=1)
    assert not hasattr(CQLConfig().variants()["authors"].switches, "target_rule")


def test_subsets_are_distinct_uniform_and_redrawn():
    p = parts(dataclasses.replace(REDQ, critics=10), SPEC)
    draw = jax.jit(jax.vmap(lambda key: module.draw_noise(p, key, 1).subset))
    subsets = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert subsets.shape == (4000, 2) and np.all(subsets[:, 0] != subsets[:, 1])
    counts = np.bincount(subsets.ravel(), minlength=10)
    assert len(counts) == 10 and np.abs(counts - 800).max() < 5 * np.sqrt(800)


def test_a_fractional_subset_is_at_random_the_next_smaller_or_larger_number():
    """REDQ's released code: of 1.25 critics two with chance a quarter, or else one."""
    p, _, state = made(dataclasses.replace(EVERY, critics=10, subset=1.25))
    draw = jax.jit(jax.vmap(lambda key: module.draw_noise(p, key, 1).subset))
    subsets = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    two = subsets[:, 0] != subsets[:, 1]
    assert subsets.shape == (4000, 2) and abs(two.mean() - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    counts = np.bincount(subsets[:, 0], minlength=10)
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)
    alone = p._replace(config=dataclasses.replace(p.config, subset=1.0))
    batch, noise = jax.tree.map(lambda x: x[0], random_batches(0)), random_noise(0, made(EVERY)[0])
    of = lambda p, *subset: bootstrap(p, state, batch, noise._replace(subset=jnp.array(subset)))
    np.testing.assert_array_equal(of(p, 3, 3), of(alone, 3))
    np.testing.assert_array_equal(of(p, 3, 7), jnp.minimum(of(alone, 3), of(alone, 7)))
    assert np.any(of(alone, 3) != of(alone, 7))
    for wrong in ({"subset": 0.5}, {"subset": 10.5}):
        with pytest.raises(UserError, match=r"agent\.subset"):
            dataclasses.replace(p.config, **wrong)
    with pytest.raises(UserError, match=r"agent\.subset: is 1.5 under agent.variant ave"):
        of_variant(REDQConfig, redq.VARIANTS, "ave", subset=1.5)


@pytest.mark.parametrize("scale, act_dim, target", [(1.0, 3, -3.0), (0.5, 3, -1.5), (0.5, 6, -3.0), (0.5, 8, -4.0)])
def test_temperature_rises_below_the_target_entropy_and_falls_above(scale, act_dim, target):
    """Reference check 46: the target is -A (SAC) or -A/2 (RLPD), bracketed by the sign of alpha's step."""
    spec = Spec(2, act_dim, 10)
    config = dataclasses.replace(SMALL, hidden=(2,), target_entropy_scale=scale)
    p = parts(config, spec, SWITCHES)
    rng = np.random.default_rng(0)
    critic = restatement.ensemble(rng, (2 + act_dim, 2, 1), 2)
    policy = jax.tree.map(jnp.zeros_like, restatement.network(rng, (2, 2, 2 * act_dim)))

    @jax.jit
    def alpha_after(log_std):
        """With one noise value for all, the policy's entropy is known: mean 0, given log_std."""
        params = {**policy, "l1": {**policy["l1"], "bias": policy["l1"]["bias"].at[act_dim:].set(log_std)}}
        log_alpha = jnp.zeros(())
        optimisers = (p.optimiser.init(x) for x in (critic, params, log_alpha))
        state = SACState(critic, critic, params, log_alpha, *optimisers)
        rows = spec.layout.unpack(jnp.zeros((4, spec.layout.width)))
        noise = Noise(jnp.zeros((4, act_dim)), jnp.zeros((4, act_dim)), jnp.arange(2))
        state, metrics = update_actor(p.soft, state, critics_of(p, state.critic), rows, noise.action, 0)
        return state.log_alpha, metrics["entropy"]

    per_dim = 0.5 * np.log(2 * np.pi)  # -log density of a squashed Gaussian at u = 0 is log_std + this
    for offset, rises in ((-0.05, True), (0.05, False)):
        log_alpha, entropy = alpha_after(target / act_dim + offset - per_dim)
        np.testing.assert_allclose(entropy, target + offset * act_dim, rtol=1e-4)
        assert (log_alpha > 0) == rises


@pytest.mark.parametrize("order", ["critic_first", "joint"])
def test_actor_steps_after_every_policy_delay_updates_on_their_last_minibatch(order):
    switches = MEAN._replace(order=order)
    p, agent, state = made(REDQ, switches)
    batches = random_batches(0, updates=3)
    new, metrics = jax.jit(agent.update)(state, batches, jax.random.key(5), jnp.int32(0))
    assert int(new.policy_opt.count) == int(new.log_alpha_opt.count) == 1 and int(new.critic_opt.count) == 3
    keys = jax.random.split(jax.random.key(5), 3)
    last, noise = jax.tree.map(lambda x: x[-1], batches), module.draw_noise(p, keys[-1], 16)
    before = new._replace(policy=state.policy, policy_opt=state.policy_opt)
    before = before._replace(log_alpha=state.log_alpha, log_alpha_opt=state.log_alpha_opt)
    critic = new.critic
    if order == "joint":  # those before the last update
        earlier = state
        for k in range(2):
            one = jax.tree.map(lambda x, k=k: x[k], batches)
            earlier, _ = module.update_critic(p, earlier, one, module.draw_noise(p, keys[k], 16), k)
        critic = earlier.critic
    step = lambda before, critic: update_actor(p.soft, before, critics_of(p, critic), last, noise.action, 2)
    again, actor_metrics = jax.jit(step)(before, critic)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), again, new)
    told = per_group({name: np.asarray(value) for name, value in metrics.items()})
    assert set(told) == {"critic_loss", "q", "target_q", "policy_loss", "entropy", "temperature"}
    for name in ("policy_loss", "entropy", "temperature"):  # means are over the updates that made the step
        np.testing.assert_allclose(told[name], np.mean(actor_metrics[name]), rtol=1e-4)
    new, _ = jax.jit(sac(EVERY, SPEC, "online", switches=MEAN).update)(state, batches, jax.random.key(5), jnp.int32(0))
    assert int(new.policy_opt.count) == 3
    cut = state  # into calls of another length: the delay counts the updates of the phase
    two = jax.jit(agent.update)
    for step in (0, 2, 4):
        cut, _ = two(cut, jax.tree.map(lambda x: x[:2], batches), jax.random.key(step), jnp.int32(step))
    assert [int(cut.policy_opt.count), int(cut.log_alpha_opt.count), int(cut.critic_opt.count)] == [2, 2, 6]


def test_a_terminal_row_does_not_bootstrap():
    p, _, state = made(SMALL)
    batch, noise = jax.tree.map(lambda x: x[0], random_batches(0)), random_noise(0, p)
    target = bootstrap(p, state, batch, noise)
    ended = np.asarray(batch.terminal) == 1
    assert 0 < ended.sum() < 16
    np.testing.assert_array_equal(np.asarray(target)[ended], np.asarray(batch.reward)[ended])
    assert np.abs(np.asarray(target - batch.reward)[~ended]).min() > 1e-4


def test_layer_norm_is_in_the_critics_only():
    agent = sac(dataclasses.replace(SMALL, layer_norm=True), SPEC, "online", switches=SWITCHES)
    state = agent.init(jax.random.key(0))
    assert set(state.critic) == {"l0", "ln0", "l1", "ln1", "l2"} and set(state.policy) == {"l0", "l1", "l2"}
    assert state.critic["ln0"]["scale"].shape == (2, 6)


def test_fixed_temperature_stays():
    _, agent, state = made(dataclasses.replace(SMALL, learn_temperature=False))
    new, metrics = jax.jit(agent.update)(state, random_batches(0), jax.random.key(0), jnp.int32(0))
    assert float(new.log_alpha) == float(state.log_alpha)
    np.testing.assert_allclose(metrics["temperature"], np.exp(-0.7), rtol=1e-6)


# -- promises --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, REDQ], ids=["sac", "redq"])
def test_seed_i_of_many_equals_seed_i_alone(config):
    p, agent, _ = made(config)
    keys = jax.random.split(jax.random.key(0), 3)
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    states, batches = stack([fresh(p, i) for i in range(3)]), stack([random_batches(i) for i in range(3)])
    many, metrics = jax.jit(over_seeds(agent.update, (0, 0, 0, None), "vmap"))(states, batches, keys, jnp.int32(0))
    assert all(value.shape == (3,) for value in metrics.values())
    alone_update = jax.jit(agent.update)
    for i in range(3):
        alone, _ = alone_update(fresh(p, i), random_batches(i), keys[i], jnp.int32(0))
        ours = jax.tree.map(lambda x, i=i: x[i], many)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), ours, alone)


def test_jit_equals_no_jit():
    p, _, state = made(SMALL)
    batch, noise = jax.tree.map(lambda x: x[0], random_batches(0)), random_noise(0, p)
    noise = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype != jnp.int32 else x, noise)
    compiled, _ = jax.jit(functools.partial(update_once, p))(state, batch, noise, 0)
    with jax.disable_jit():
        plain, _ = update_once(p, state, batch, noise, 0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-6), compiled, plain)


def test_acting_is_bounded_deterministic_in_evaluation_and_noisy_in_exploration():
    _, agent, state = made(SMALL)
    obs = 100 * jnp.asarray(np.random.default_rng(2).normal(size=(7, 4)).astype(np.float32))
    compiled = jax.jit(agent.act, static_argnums=3)
    act = lambda key, explore: compiled(state, obs, jax.random.key(key), explore)
    np.testing.assert_array_equal(act(0, False), act(1, False))
    assert act(0, False).shape == (7, 2) and not np.array_equal(act(0, True), act(1, True))
    assert np.abs(act(0, True)).max() <= 1.0


def test_updates_are_finite_at_the_edge_of_the_action_box():
    _, agent, state = made(SMALL)
    batches = random_batches(0)
    batches = batches._replace(action=jnp.sign(batches.action), obs=1e3 * batches.obs)
    new, metrics = jax.jit(agent.update)(state, batches, jax.random.key(0), jnp.int32(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((new, metrics)))


def test_both_phases_share_state_and_the_hand_over_keeps_it():
    agent = sac(SMALL, SPEC, "offline", switches=SWITCHES)
    _, _, state = made(SMALL)
    assert agent.go_online(state, jax.random.key(0)) is state
    obs, action = jnp.ones((3, 4)), jnp.ones((3, 2))
    both = parts(SMALL, SPEC).critic.apply(state.target, obs, action)
    np.testing.assert_array_equal(agent.value(state, obs, action), both.min(axis=0))


def test_known_optimum_of_a_one_step_task():
    """Reward -4 (a - 0.5)^2 and the end: the policy's mode goes to 0.5 and the critics to the reward."""
    spec = Spec(obs_dim=1, act_dim=1, horizon=1)
    config = SACConfig(hidden=(32, 32), learning_rate=1e-3, tau=0.05, init_temperature=0.1, learn_temperature=False)
    agent, rng = sac(config, spec, "online"), np.random.default_rng(0)
    action = rng.uniform(-1, 1, (2000, 64, 1)).astype(np.float32)
    obs, reward = np.ones_like(action), -4 * (action[..., 0] - 0.5) ** 2
    batches = spec.layout.unpack(jnp.asarray(spec.layout.pack(obs, action, reward, obs, 1.0, -np.inf, 1.0, xp=np)))
    state = jax.jit(agent.init)(jax.random.key(0))
    state, _ = jax.jit(agent.update)(state, batches, jax.random.key(1), jnp.int32(0))
    mode = agent.act(state, jnp.ones((1, 1)), jax.random.key(0), False)
    assert mode[0, 0] == pytest.approx(0.5, abs=0.1)
    q = agent.value(state, jnp.ones((3, 1)), jnp.array([[-0.5], [0.5], [0.9]]))
    np.testing.assert_allclose(q, [-4.0, 0.0, -0.64], atol=0.25)


@pytest.mark.parametrize(
    "field, value",
    [
        ("subset", 3), ("critics", 0), ("tau", 1.5), ("discount", -0.1), ("learning_rate", -1.0), ("hidden", (-1,)),
        ("init_temperature", 0.0), ("policy_delay", 0), ("variant", "corl"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field(field, value):
    with pytest.raises(UserError, match=f"^agent.{field}: "):
        SACConfig(**{field: value})


def test_networks_with_layer_norm_have_no_gradient_in_place():
    with pytest.raises(UserError, match=r"agent\.layer_norm: is True under agent.variant first_release"):
        of_variant(REDQConfig, redq.VARIANTS, "first_release", layer_norm=True)
