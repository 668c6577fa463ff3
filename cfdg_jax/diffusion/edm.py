"""EDM (Karras et al. 2022, arXiv 2206.00364): preconditioning, training loss, noise levels, churn.

A *denoiser* ``D(x; sigma)`` estimates the clean sample behind ``x = y + sigma n``. It wraps a raw network F:

    D = c_skip x + c_out F(c_in x, c_noise);  score = (D - x) / sigma^2;  dx/dsigma = (x - D) / sigma

Coefficients, constants and their sources: docs/algorithms.md#edm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core.spread import spread, whole
from cfdg_jax.diffusion.network import Network
from cfdg_jax.types import Array, Key, Params

Denoise = Callable[[Array, Array], Array]
"""``(x [n, d], sigma []) -> D [n, d]``."""
DenoiseConditional = Callable[[Array, Array, Any], Array]
"""``(x [..., d], sigma [...], condition) -> D [..., d]``; sigma and condition broadcast against x's leading axes."""


class Preconditioning(NamedTuple):
    """Table 1 of the paper, EDM column; every field has the shape of sigma."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def preconditioning(sigma: Array, sigma_data: float = 1.0) -> Preconditioning:
    """Coefficients at noise levels `sigma` [...]; `sigma_data` is 1 for standardised data (SynthER)."""
    total = sigma**2 + sigma_data**2
    return Preconditioning(
        c_skip=sigma_data**2 / total,
        c_out=sigma * sigma_data * jax.lax.rsqrt(total),
        c_in=jax.lax.rsqrt(total),
        c_noise=0.25 * jnp.log(sigma),
    )


def denoiser(network: Network, params: Params, sigma_data: float = 1.0) -> DenoiseConditional:
    """The preconditioned denoiser of a raw network."""

    def denoise(x: Array, sigma: Array, condition: Any = None) -> Array:
        x, c = spread(x), preconditioning(sigma, sigma_data)
        raw = network.apply(params, c.c_in[..., None] * x, c.c_noise, condition)
        return c.c_skip[..., None] * x + c.c_out[..., None] * raw

    return denoise


def score(denoise: Denoise) -> Denoise:
    """``grad log p(x; sigma)`` `[n, d]` of a denoiser."""
    return lambda x, sigma: (denoise(x, sigma) - x) / sigma**2


def draw_sigma(key: Key, shape: tuple[int, ...], mean: float = -1.2, std: float = 1.2) -> Array:
    """Training noise levels, log-normal with the paper's parameters."""
    return jnp.exp(mean + std * jax.random.normal(key, shape))


def loss(
    network: Network,
    params: Params,
    clean: Array,
    sigma: Array,
    noise: Array,
    condition: Any = None,
    sigma_data: float = 1.0,
) -> Array:
    """Weighted denoising loss of each row, ``lambda(sigma) mean_d (D - y)^2``, `[B]`.

    As ``lambda c_out^2 = 1`` it is the plain squared error of F against ``(y - c_skip x) / c_out``. Written out with
    ``x = y + sigma n`` that target has no difference of nearly equal numbers, so small sigma lose no digits.

    Args:
      clean: `[B, d]` clean samples y.
      sigma: `[B]` noise levels.
      noise: `[B, d]` standard normal n.
    """
    clean, c = spread(whole(clean)), preconditioning(sigma, sigma_data)
    scale, noisy = c.c_in[:, None], clean + sigma[:, None] * noise
    target = (sigma[:, None] / sigma_data * clean - sigma_data * noise) * scale
    return jnp.mean((network.apply(params, scale * noisy, c.c_noise, condition) - target) ** 2, axis=-1)


def schedule(steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> np.ndarray:
    """Sampling noise levels `[steps + 1]`, float64: from `sigma_max` down to `sigma_min`, then 0 (Eq. 5)."""
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps)
    levels = ramp**rho
    levels[0] = sigma_max
    return np.append(levels, 0.0)


def churn_factors(sigmas: np.ndarray, churn: float, s_tmin: float = 0.05, s_tmax: float = 50.0) -> np.ndarray:
    """``gamma_i`` `[steps]` of Algorithm 2: ``min(churn / steps, sqrt 2 - 1)`` inside the window, 0 outside."""
    levels = sigmas[:-1]
    gamma = min(churn / len(levels), np.sqrt(2.0) - 1.0)
    return np.where((levels >= s_tmin) & (levels <= s_tmax), gamma, 0.0)
