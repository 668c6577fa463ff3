"""A diffusion model of actions given states, mu(a | s), on the variance-preserving schedule (QGPO, arXiv 2304.12824).

    x_t = alpha_t a + sigma_t z,  t in [1e-3, 1];   loss  sum_A (eps(x_t, t, s) - z)^2

The change of variables ``y = x_t / alpha_t``, ``sigma = sigma_t / alpha_t`` turns it into EDM's form: a denoiser
``D(y; sigma) = y - sigma eps``. So actions use the same samplers and the same guidance as transitions
(docs/algorithms.md#behaviour).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import Averaging, GeneratorState, Normaliser, fit_scan, normalise, unnormalise
from cfdg_jax.diffusion.network import Network
from cfdg_jax.diffusion.samplers import Solver, sample
from cfdg_jax.types import Array, Key, Metrics, Params

# Of thu-ml/CEP-energy-guided-diffusion, QGPO's release: schedule.py, loss.py, dpm_solver_pytorch.py.
BETA_MIN, BETA_MAX = 0.1, 20.0  # rate of noise at t = 0 and at t = 1
T_MIN = 1e-3  # shortest time of training and sampling


class VP(NamedTuple):
    """The schedule at times t: ``alpha`` and ``sigma``, with ``alpha^2 + sigma^2 = 1``."""

    alpha: Array
    sigma: Array


def schedule(t: Array) -> VP:
    """``log alpha_t = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2`` at times `[...]`."""
    log_alpha = -0.25 * t**2 * (BETA_MAX - BETA_MIN) - 0.5 * t * BETA_MIN
    return VP(jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2.0 * log_alpha)))


def noise_level(t: float) -> float:
    """``sigma_t / alpha_t``, EDM's sigma, at a Python time."""
    return math.sqrt(math.expm1(0.5 * t**2 * (BETA_MAX - BETA_MIN) + t * BETA_MIN))


def at_noise_level(sigma: Array) -> tuple[VP, Array]:
    """The schedule and the time t at EDM's `sigma` `[...]`, the inverse of `noise_level`."""
    alpha = jax.lax.rsqrt(1.0 + sigma**2)
    minus_log_alpha = 0.5 * jnp.log1p(sigma**2)
    t = (
        2.0
        * minus_log_alpha
        / (0.5 * BETA_MIN + jnp.sqrt(0.25 * BETA_MIN**2 + (BETA_MAX - BETA_MIN) * minus_log_alpha))
    )
    return VP(alpha, sigma * alpha), t


def draw_time(key: Key, shape: tuple[int, ...]) -> Array:
    """Training times, uniform on [1e-3, 1]."""
    return jax.random.uniform(key, shape, minval=T_MIN, maxval=1.0)


def diffuse(clean: Array, t: Array, noise: Array) -> Array:
    """``x_t`` `[..., A]` of clean actions at times `[...]` that broadcast against their leading axes."""
    at = schedule(t)
    return at.alpha[..., None] * clean + at.sigma[..., None] * noise


def solver(steps: int, start: float | None = None) -> Solver:
    """DPM-Solver++(2M) down to t = 1e-3, then to the clean action; `steps` evaluations evenly in log sigma.

    QGPO's steps are even in t. On a standard normal 15 of QGPO's steps end at a standard deviation of 1.19, 15 of these
    at 1.02.

    Args:
      steps: Evaluations.
      start: First noise level; actions there count as pure noise. None: the level of t = 1, which is 152. A lower
        one makes each step shorter, and pulls the mean of N(m, std^2) towards 0 by a share ``std / start``.
    """
    return Solver(
        steps, "dpm++2m", sigma_min=noise_level(T_MIN), sigma_max=noise_level(1.0) if start is None else start
    )


def draw(denoise: Denoise, normaliser: Normaliser, solver: Solver, key: Key, shape: tuple[int, ...]) -> Array:
    """Normalised actions of `shape` `(..., A)`; those outside the box [-1, 1] are moved to its edge."""
    z = sample(denoise, solver, key, shape)
    return normalise(normaliser, jnp.clip(unnormalise(normaliser, z), -1.0, 1.0))


def denoiser(network: Network, params: Params, obs: Array) -> Denoise:
    """EDM's denoiser ``(y [..., A], sigma []) -> D [..., A]`` for states `[..., O]` that broadcast against y."""

    def denoise(y: Array, sigma: Array) -> Array:
        at, t = at_noise_level(sigma)
        return y - sigma * network.apply(params, at.alpha * y, t, obs)

    return denoise


def loss(network: Network, params: Params, obs: Array, clean: Array, t: Array, noise: Array) -> Array:
    """Squared error of the predicted noise, summed over the action, `[B]`.

    Args:
      obs: `[B, O]`.
      clean: `[B, A]` normalised actions.
      t: `[B]` times.
      noise: `[B, A]` standard normal.
    """
    return jnp.sum((network.apply(params, diffuse(clean, t, noise), t, obs) - noise) ** 2, axis=-1)


def fit(
    network: Network,
    tx: optax.GradientTransformation,
    averaging: Averaging,
    state: GeneratorState,
    minibatch: Callable[[Key], tuple[Array, Array]],
    key: Key,
    steps: int,
) -> tuple[GeneratorState, Metrics]:
    """`steps` denoising steps, each on ``minibatch(key) -> (obs [B, O], action [B, A])``."""

    def loss_of(params: Params, key: Key) -> Array:
        row_key, time_key, noise_key = jax.random.split(key, 3)
        obs, action = minibatch(row_key)
        clean, noise = normalise(state.normaliser, action), jax.random.normal(noise_key, action.shape)
        return loss(network, params, obs, clean, draw_time(time_key, action.shape[:1]), noise).mean()

    return fit_scan(state, loss_of, tx, averaging, key, steps)
