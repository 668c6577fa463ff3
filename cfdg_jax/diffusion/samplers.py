"""EDM's samplers (Karras et al. 2022, Algorithms 1 and 2) over any denoise function.

    for i in 0 .. N-2:  add noise from sigma_i up to sigma_hat;  Euler step to sigma_{i+1};  trapezoid correction
    add noise;  return D(x_hat; sigma_hat)                     the last Euler step, to sigma = 0, is the denoiser

Guidance is no business of a sampler: it wraps the denoise function.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.diffusion.edm import Denoise, churn_factors, schedule
from cfdg_jax.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Solver:
    """Noise levels and kind of steps. The defaults are SynthER's (elucidated_diffusion.py)."""

    steps: int = 128  # N
    churn: float = 80.0  # S_churn; 0 is the deterministic sampler
    s_tmin: float = 0.05  # churn window
    s_tmax: float = 50.0  # churn window
    s_noise: float = 1.003  # inflation of the churn noise; adds about 1 % to the standard deviation at N = 128
    order: Literal[1, 2] = 2  # 1 Euler, 2 Heun
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoise function per sample: ``2 N - 1`` for Heun, ``N`` for Euler."""
        return 2 * self.steps - 1 if self.order == 2 else self.steps


def integrate(denoise: Denoise, solver: Solver, start: Array, churn_noise: Callable[[Array], Array]) -> Array:
    """Samples `[n, d]` from given noise.

    Args:
      denoise: ``(x [n, d], sigma []) -> D [n, d]``.
      solver: The scheme.
      start: `[n, d]` standard normal; the sampler scales it to the first noise level.
      churn_noise: ``(step [] int32) -> [n, d]`` standard normal; not called by a deterministic solver.
    """
    sigmas = schedule(solver.steps, solver.sigma_min, solver.sigma_max, solver.rho)
    gammas = churn_factors(sigmas, solver.churn, solver.s_tmin, solver.s_tmax)
    raised = sigmas[:-1] * (1.0 + gammas)
    added = (
        solver.s_noise * sigmas[:-1] * np.sqrt(gammas * (2.0 + gammas))
    )  # sqrt(raised^2 - sigma^2) without cancelling
    float32 = lambda values: jnp.asarray(values, jnp.float32)

    def raise_noise(x: Array, step: Array, added: Array) -> Array:
        return x + added * churn_noise(step) if gammas.any() else x

    def advance(x: Array, step_inputs: tuple[Array, ...]) -> tuple[Array, None]:
        step, sigma, added, following = step_inputs
        x = raise_noise(x, step, added)
        slope = (x - denoise(x, sigma)) / sigma
        guess = x + (following - sigma) * slope
        if solver.order == 1:
            return guess, None
        corrected = (guess - denoise(guess, following)) / following
        return x + (following - sigma) * 0.5 * (slope + corrected), None

    steps, last = jnp.arange(solver.steps, dtype=jnp.int32), solver.steps - 1
    inputs = (steps[:-1], float32(raised[:-1]), float32(added[:-1]), float32(sigmas[1:-1]))
    x, _ = jax.lax.scan(advance, float32(sigmas[0]) * start, inputs)
    return denoise(raise_noise(x, steps[last], float32(added[last])), float32(raised[last]))


def sample(denoise: Denoise, solver: Solver, key: Key, shape: tuple[int, int]) -> Array:
    """Samples of `shape` ``(n, d)``, in the space the denoiser was trained in."""
    start_key, churn_key = jax.random.split(key)
    churn_noise = lambda step: jax.random.normal(jax.random.fold_in(churn_key, step), shape)
    return integrate(denoise, solver, jax.random.normal(start_key, shape), churn_noise)
