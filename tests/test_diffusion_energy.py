"""Energy guidance and contrastive energy prediction on 1-D Gaussians, where the intermediate energy is known exactly.

Throughout mu = N(mean, std^2) and, in VP variables, ``a | a_t ~ N(m_t, v_t)``. For ``beta Q = b a`` then
``f = b m_t + const(t)``, and for ``beta Q = -k a^2 / 2`` ``f = -k m_t^2 / (2 (1 + k v_t)) + const(t)``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train_helpers import optimised

from cfdg_jax.diffusion import behavior, energy
from cfdg_jax.diffusion.guidance import energy_guided
from cfdg_jax.diffusion.network import Network, energy_mlp
from cfdg_jax.diffusion.samplers import integrate
from cfdg_jax.errors import UserError


def posterior(x, t, mean, std):
    at = behavior.schedule(t)
    total = at.alpha**2 * std**2 + at.sigma**2
    return mean + at.alpha * std**2 * (x - at.alpha * mean) / total, std**2 * at.sigma**2 / total


def gaussian_denoiser(mean, std):
    def noise(params, x, t, obs):
        at = behavior.schedule(t)
        return at.sigma * (x - at.alpha * mean) / (at.alpha**2 * std**2 + at.sigma**2)

    return behavior.denoiser(Network(lambda key: None, noise), None, jnp.zeros((1, 1)))


def linear_energy(b, mean=0.0, std=1.0):
    f = lambda params, x, t, obs: b * posterior(x, t, mean, std)[0].sum(axis=-1)
    return energy.energy(Network(lambda key: None, f), None, jnp.zeros((1, 1)))


def quadratic_energy(k, mean=0.0, std=1.0):
    def f(params, x, t, obs):
        m, v = posterior(x, t, mean, std)
        return (-0.5 * k * m**2 / (1 + k * v)).sum(axis=-1)

    return energy.energy(Network(lambda key: None, f), None, jnp.zeros((1, 1)))


def moments(denoise, steps=400):
    """Of the sampler, whose map of the start noise is affine here."""
    start = jnp.array([[0.0], [1.0]])
    low, high = np.asarray(jax.jit(lambda: integrate(denoise, behavior.solver(steps), start, None))())[:, 0]
    return low, high - low


START = behavior.noise_level(1.0)


@pytest.mark.parametrize(("b", "scale"), [(1.0, 1.0), (1.0, 3.0), (0.7, 1.0), (-2.1, 0.5), (6.0, 1.0), (0.4, 8.0)])
def test_linear_q_shifts_the_mean_by_s_b(b, scale):
    """Reference check 53, and slopes it does not list: a factor .9934 is left of the prior at t = 1."""
    mean, std = moments(energy_guided(gaussian_denoiser(0.0, 1.0), linear_energy(b), scale))
    assert mean == pytest.approx(scale * b * (1 - 1 / np.hypot(1, START)), rel=2e-3)
    assert mean == pytest.approx(0.9934 * scale * b, rel=2e-3)
    assert std == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("b", "mean", "std"), [(1.5, 0.3, 0.5), (-4.0, 0.1, 0.2)])
def test_linear_q_on_other_policies(b, mean, std):
    """N(m, w^2) exp(b a) is N(m + b w^2, w^2)."""
    ours = moments(energy_guided(gaussian_denoiser(mean, std), linear_energy(b, mean, std), 1.0))
    left = 1 - std / np.hypot(std, START)
    assert ours == pytest.approx(((mean + b * std**2) * left, std), abs=2e-3)


@pytest.mark.parametrize(("k", "scale"), [(1.0, 1.0), (3.0, 1.0), (3.0, 2.0), (0.5, 4.0), (10.0, 0.3)])
def test_quadratic_q_narrows_by_a_power(k, scale):
    """Reference check 54, and others: (1 + k)^(-s/2), which at s != 1 is not (1 + s k)^(-1/2)."""
    mean, std = moments(energy_guided(gaussian_denoiser(0.0, 1.0), quadratic_energy(k), scale))
    assert mean == pytest.approx(0.0, abs=1e-5) and std == pytest.approx((1 + k) ** (-scale / 2), rel=3e-3)


@pytest.mark.parametrize(("k", "mean", "std"), [(2.0, 0.4, 0.7), (8.0, -0.5, 0.3)])
def test_quadratic_q_on_other_policies(k, mean, std):
    """N(m, w^2) exp(-k a^2 / 2) has precision 1 / w^2 + k and mean m / (1 + k w^2)."""
    ours = moments(energy_guided(gaussian_denoiser(mean, std), quadratic_energy(k, mean, std), 1.0))
    shrink = 1 + k * std**2
    assert ours == pytest.approx((mean / shrink, std / np.sqrt(shrink)), abs=3e-3)


def test_gradients_in_vp_variables_are_the_listed_ones():
    """Of f in a_t: ``b alpha_t``, and ``-k alpha_t^2 a_t / (1 + k sigma_t^2)``; in y they carry one more alpha_t."""
    at, _ = behavior.at_noise_level(jnp.float32(0.8))
    y = jnp.array([[0.9], [-1.7]])
    gradient = lambda f: jax.grad(lambda y: f(y, jnp.float32(0.8)).sum())(y) / at.alpha
    x = at.alpha * y
    np.testing.assert_allclose(gradient(linear_energy(1.3)), jnp.full((2, 1), 1.3 * at.alpha), rtol=1e-5)
    listed = -2.5 * at.alpha**2 * x / (1 + 2.5 * at.sigma**2)
    np.testing.assert_allclose(gradient(quadratic_energy(2.5)), listed, rtol=1e-5)


# -- the wrapper -------------------------------------------------------------------------------------------------------


def test_zero_scale_never_evaluates_the_energy():
    denoise = gaussian_denoiser(0.0, 1.0)
    refuse = lambda y, sigma: pytest.fail("the energy was evaluated")
    for zero in (0, 0.0):
        assert energy_guided(denoise, refuse, zero) is denoise
    with pytest.raises(UserError, match="must be at least 0"):
        energy_guided(denoise, refuse, -1.0)


def test_scales_are_a_vmapped_axis():
    denoise, f, scales = gaussian_denoiser(0.2, 0.5), quadratic_energy(2.0, 0.2, 0.5), jnp.array([0.0, 1.0, 5.0])
    y, sigma = jnp.array([[0.3], [-0.9]]), jnp.float32(0.7)
    swept = jax.jit(jax.vmap(lambda s: energy_guided(denoise, f, s)(y, sigma)))(scales)
    for scale, out in zip(scales, swept, strict=True):
        np.testing.assert_allclose(out, energy_guided(denoise, f, float(scale))(y, sigma), rtol=1e-5)


def test_the_limit_turns_the_score_without_drowning_it():
    """Beyond the limit the push has exactly `limit` times the score's norm and its old direction, row by row."""
    denoise, sigma = lambda y, sigma: jnp.zeros_like(y), jnp.float32(0.5)
    y = jnp.array([[3.0, 4.0], [0.3, 0.4]])  # |D - y| = 5 and 0.5
    f = lambda y, sigma: y @ jnp.array([0.0, 4.0])  # sigma^2 grad f = (0, 1)
    limited = energy_guided(denoise, f, 1.0, limit=1.0)(y, sigma)
    np.testing.assert_allclose(limited, [[0.0, 1.0], [0.0, 0.5]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(energy_guided(denoise, f, 1.0)(y, sigma), [[0.0, 1.0], [0.0, 1.0]], rtol=1e-5, atol=1e-6)
    flat = energy_guided(denoise, lambda y, sigma: 0.0 * y.sum(axis=-1), 1.0, limit=1.0)(jnp.zeros((1, 2)), sigma)
    np.testing.assert_array_equal(flat, jnp.zeros((1, 2)))


# -- contrastive prediction --------------------------------------------------------------------------------------------


def test_labels():
    """Reference check 52."""
    np.testing.assert_allclose(
        energy.labels(jnp.array([[0.0, 1.0, 2.0]]), 3.0)[0], [0.00236, 0.04731, 0.95033], atol=1e-5
    )
    q = jnp.array([[0.0, 10.0, 20.0], [5.0, 5.0, 8.0]])
    spread = np.mean([np.std([0, 10, 20]), np.std([5, 5, 8])])
    scaled = energy.labels(q, 3.0, standardise=True)
    np.testing.assert_allclose(scaled, energy.labels(q / spread, 3.0), rtol=1e-5)
    np.testing.assert_allclose(energy.labels(1000 * q, 3.0, standardise=True), scaled, rtol=1e-5)
    assert np.isfinite(energy.labels(jnp.ones((2, 3)), 3.0, standardise=True)).all()


def test_least_loss_is_the_entropy_of_the_labels_and_shifts_do_not_matter():
    q = jax.random.normal(jax.random.key(0), (6, 5))
    target = energy.labels(q, 3.0)
    floor = energy.entropy(target)
    np.testing.assert_allclose(energy.contrastive_loss(3.0 * q + 7.0, target), floor, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda f: energy.contrastive_loss(f, target).sum())(3.0 * q), 0, atol=1e-6)
    assert np.all(energy.contrastive_loss(3.2 * q, target) > floor)
    assert energy.entropy(jnp.array([[0.0, 1.0]]))[0] == 0.0


def test_effective_sample_size():
    target = jnp.array([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    np.testing.assert_allclose(energy.effective_sample_size(target), [4.0, 1.0, 2.0])


def recorded_step(supports, q, beta=3.0):
    """A step through a network that notes what it is given."""
    seen = {}

    def apply(params, x, t, obs):
        seen.update(x=x, t=t, obs=obs)
        return params * x.sum(axis=-1)

    tx = optax.sgd(1.0)
    params = jnp.float32(0.3)
    state = energy.EnergyState(params, tx.init(params))
    obs = jnp.arange(supports.shape[0], dtype=jnp.float32)[:, None]
    target = energy.labels(q, beta)
    network = Network(lambda key: None, apply)
    with jax.disable_jit():
        new, metrics = energy.fit_step(network, tx, state, obs, supports, target, jax.random.key(0))
    return new, metrics, seen


def test_one_time_a_state_and_one_noise_a_support():
    supports = jnp.zeros((40, 8, 2))
    _, metrics, seen = recorded_step(supports, jnp.zeros((40, 8)))
    assert seen["t"].shape == (40, 1) and len(np.unique(seen["t"])) == 40
    assert seen["obs"].shape == (40, 1, 1) and len(np.unique(seen["x"])) == 640
    spread = np.asarray(seen["x"].std(axis=(1, 2)))
    np.testing.assert_allclose(spread, behavior.schedule(seen["t"][:, 0]).sigma, rtol=0.6)
    assert metrics["energy_samples"] == pytest.approx(8.0) and metrics["energy_floor"] == pytest.approx(np.log(8))


def test_one_support_teaches_nothing():
    """Reference check 55: K = 1."""
    new, metrics, _ = recorded_step(jnp.ones((5, 1, 2)), jnp.arange(5.0)[:, None])
    assert new.params == jnp.float32(0.3) and metrics["energy_loss"] == 0.0


def test_many_supports_have_the_exact_energy_for_their_least_loss():
    """Reference check 55: among f = c a_t at one t, the minimiser's slope is b alpha_t within 2 %."""
    b, t = 0.8, jnp.float32(0.3)
    action_key, noise_key = jax.random.split(jax.random.key(1))
    a = jax.random.normal(action_key, (400, 2_000))
    x = behavior.diffuse(a[..., None], t, jax.random.normal(noise_key, (400, 2_000, 1)))[..., 0]
    target = energy.labels(b * a, 1.0)
    slope = jax.jit(jax.grad(lambda c: energy.contrastive_loss(c * x, target).mean()))
    low, high = 0.0, 2.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    assert middle == pytest.approx(float(b * behavior.schedule(t).alpha), rel=0.02)


def test_a_trained_network_has_the_analytic_gradient():
    """Q = s a, so beta is a slope that the network reads off the state: df / da_t = beta s alpha_t within 5 % (RMS)."""
    beta, supports, steps = 1.2, 64, 1_200
    network = energy_mlp(1, 1, hidden=(64, 64), time_scale=1.0)
    tx = optax.adam(optax.cosine_decay_schedule(4e-3, steps))

    def step(state, key):
        obs_key, action_key, fit_key = jax.random.split(key, 3)
        obs = jax.random.uniform(obs_key, (64, 1), minval=-1)
        a = jax.random.normal(action_key, (64, supports, 1))
        target = energy.labels(obs * a[..., 0], beta)
        return energy.fit_step(network, tx, state, obs, a, target, fit_key)

    @optimised
    def run(key):
        init_key, fit_key, test_key = jax.random.split(key, 3)
        params = network.init(init_key)
        state, metrics = jax.lax.scan(
            step, energy.EnergyState(params, tx.init(params)), jax.random.split(fit_key, steps)
        )
        obs = jnp.repeat(jnp.linspace(-1, 1, 9), 200)[:, None]
        t = jnp.tile(jnp.linspace(0.05, 0.8, 200), 9)
        x = jax.random.normal(test_key, (1800, 1))  # a_t of N(0, 1) is N(0, 1) at every t
        gradient = jax.grad(lambda x: network.apply(state.params, x, t, obs).sum())(x)[:, 0]
        return gradient, beta * obs[:, 0] * behavior.schedule(t).alpha, metrics

    gradient, exact, metrics = run(jax.random.key(0))
    assert np.sqrt(np.mean((gradient - exact) ** 2) / np.mean(exact**2)) < 0.05
    late = jax.tree.map(lambda m: m[-100:].mean(), metrics)
    assert late["energy_floor"] < late["energy_loss"] < np.log(supports)
