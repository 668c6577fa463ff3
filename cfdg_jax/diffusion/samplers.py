"""Samplers over any denoise function: EDM's (Karras et al. 2022) and DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095).

    Heun (EDM Algorithm 2), 2 N - 1 evaluations:
        for i in 0 .. N-2:  add noise from sigma_i up to sigma_hat;  Euler step to sigma_{i+1};  trapezoid correction
        add noise;  return D(x_hat; sigma_hat)                 the last Euler step, to sigma = 0, is the denoiser
    DPM-Solver++ multistep, N evaluations:
        x <- r x + (1 - r) D,  r = sigma_{i+1} / sigma_i       exact while D stays what it is
        D extrapolated in log sigma through its last values:   2M two, 3M three;  2M-SDE adds fresh noise

The multistep methods integrate exactly what is linear in x, so they need neither a second evaluation nor small steps.
On Gaussians 3M with 24 evaluations is closer than stochastic Heun with 255. Guidance wraps the denoise function
(`guidance`); a `Push` is for the one release that adds it elsewhere.
Constants and their sources: docs/algorithms.md#samplers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core.spread import whole
from cfdg_jax.diffusion.edm import Denoise, churn_factors, schedule
from cfdg_jax.types import Array, Key

SolverKind = Literal["heun", "euler", "dpm++2m", "dpm++2m-sde", "dpm++3m"]
Noise = Callable[[Array], Array]
"""``(step [] int32) -> [n, d]`` standard normal."""
Push = Callable[[Array, Array], Array]
"""``(x [n, d], sigma []) -> [n, d]``, added to the slopes of a step: sigma is the step's own level for both slopes of
heun, and x of the first slope is the point before churn."""


@dataclasses.dataclass(frozen=True)
class Solver:
    """Kind of steps and noise levels. The defaults are conglu1997/SynthER's."""

    steps: int = 128  # N
    kind: SolverKind = "heun"
    churn: float = 80.0  # S_churn of heun and euler; 0 is the deterministic sampler
    s_tmin: float = 0.05  # churn window
    s_tmax: float = 50.0  # churn window
    s_noise: float = 1.003  # inflation of the churn noise; adds about 1 % to the standard deviation at N = 128
    eta: float = 1.0  # of dpm++2m-sde: 1 follows the reverse SDE, 0 is dpm++2m
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float | None = None  # levels evenly spaced in sigma^(1/rho); None: 7 for heun and euler, else in log sigma

    @property
    def evaluations(self) -> int:
        """Evaluations of the denoise function per sample."""
        return 2 * self.steps - 1 if self.kind == "heun" else self.steps

    def levels(self) -> np.ndarray:
        """Noise levels `[N + 1]`, float64, falling to 0."""
        if self.rho is None and self.kind.startswith("dpm++"):
            return np.append(np.geomspace(self.sigma_max, self.sigma_min, self.steps), 0.0)
        return schedule(self.steps, self.sigma_min, self.sigma_max, self.rho or 7.0)


def integrate(
    denoise: Denoise,
    solver: Solver,
    start: Array,
    noise: Noise | None,
    levels: np.ndarray | None = None,
    prior_std: float | None = None,
    push: Push | None = None,
) -> Array:
    """Samples `[n, d]` from given noise.

    Args:
      denoise: ``(x [n, d], sigma []) -> D [n, d]``.
      solver: The scheme.
      start: `[n, d]` standard normal.
      noise: Not called by a deterministic solver, which may be given None.
      levels: `[N + 1]` falling noise levels ending in 0 instead of the solver's own, for models trained on another
        schedule: a variance-preserving one becomes EDM's with ``x / alpha`` and ``sigma / alpha``.
      prior_std: Standard deviation of x at the first level; that level itself by default.
      push: See `Push`; of heun and euler alone.
    """
    sigmas = solver.levels() if levels is None else np.asarray(levels, np.float64)
    x = jnp.float32(sigmas[0] if prior_std is None else prior_std) * start
    if solver.kind in ("heun", "euler"):
        return _euler_or_heun(denoise, solver, sigmas, x, noise, push)
    assert push is None, "a multistep solver has one slope a step, at the step's own level: wrap the denoiser"
    return _multistep(denoise, solver, sigmas, x, noise)


def sample(denoise: Denoise, solver: Solver, key: Key, shape: tuple[int, ...], push: Push | None = None) -> Array:
    """Samples of `shape` ``(n, d)``, in the space the denoiser was trained in."""
    start_key, noise_key = jax.random.split(key)
    noise = lambda step: jax.random.normal(jax.random.fold_in(noise_key, step), shape)
    return whole(integrate(denoise, solver, jax.random.normal(start_key, shape), noise, push=push))


def _euler_or_heun(denoise: Denoise, solver: Solver, sigmas: np.ndarray, x: Array, noise, push: Push | None) -> Array:
    gammas = churn_factors(sigmas, solver.churn, solver.s_tmin, solver.s_tmax)
    raised = sigmas[:-1] * (1.0 + gammas)
    # sqrt(raised^2 - sigma^2) without cancelling
    added = solver.s_noise * sigmas[:-1] * np.sqrt(gammas * (2.0 + gammas))

    def raise_noise(x: Array, step: Array, added: Array) -> Array:
        return x + added * noise(step) if gammas.any() else x

    def advance(x: Array, step_inputs: tuple[Array, ...]) -> tuple[Array, None]:
        step, sigma, added, following, level = step_inputs
        before, x = x, raise_noise(x, step, added)
        slope = (x - denoise(x, sigma)) / sigma
        if push is not None:
            slope = slope + push(before, level)
        guess = x + (following - sigma) * slope
        if solver.kind == "euler":
            return guess, None
        corrected = (guess - denoise(guess, following)) / following
        if push is not None:
            corrected = corrected + push(guess, level)
        return x + (following - sigma) * 0.5 * (slope + corrected), None

    steps, last = jnp.arange(len(raised), dtype=jnp.int32), len(raised) - 1
    inputs = (steps[:-1], *map(_float32, (raised[:-1], added[:-1], sigmas[1:-1], sigmas[:-2])))
    x, _ = jax.lax.scan(advance, x, inputs)
    clean = denoise(raise_noise(x, steps[last], _float32(added[last])), _float32(raised[last]))
    return clean if push is None else clean - _float32(raised[last]) * push(x, _float32(sigmas[last]))


def _multistep(denoise: Denoise, solver: Solver, sigmas: np.ndarray, x: Array, noise) -> Array:
    kept, weights, added = multistep_coefficients(sigmas, solver.kind, solver.eta)
    stochastic = bool(added.any())

    def advance(carry: tuple[Array, Array], step_inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        x, history = carry
        step, sigma, kept, weights, added = step_inputs
        history = jnp.concatenate([denoise(x, sigma)[None], history[:-1]])
        x = kept * x + jnp.tensordot(weights, history, 1, precision=jax.lax.Precision.HIGHEST)
        return (x + added * noise(step) if stochastic else x, history), None

    inputs = (jnp.arange(len(kept), dtype=jnp.int32), *map(_float32, (sigmas[:-1], kept, weights, added)))
    (x, _), _ = jax.lax.scan(advance, (x, jnp.zeros((weights.shape[1], *x.shape))), inputs)
    return x


def multistep_coefficients(sigmas: np.ndarray, kind: str, eta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``x <- kept x + weights . (D_i, D_{i-1}, ...) + added n`` at every step, float64.

    The first steps use as many values of D as there are. The last one, to sigma = 0, returns D.

    Args:
      sigmas: `[N + 1]` falling noise levels ending in 0.
      kind: ``dpm++2m``: extrapolation by the difference of two D, held over the step (Algorithm 2). ``dpm++2m-sde``:
        the same on the reverse SDE. ``dpm++3m``: the quadratic through three D, integrated exactly; the released
        third-order multistep update weighs its quadratic term by half.
      eta: Noise of ``dpm++2m-sde``.

    Returns:
      `[N]`, `[N, 2 or 3]` and `[N]`.
    """
    ratio = sigmas[1:] / sigmas[:-1]
    eta = eta if kind == "dpm++2m-sde" else 0.0
    kept, added = ratio ** (1.0 + eta), sigmas[1:] * np.sqrt(1.0 - ratio ** (2.0 * eta))
    log_snr = -np.log(sigmas[:-1])
    weights = np.zeros((len(ratio), 3 if kind == "dpm++3m" else 2))
    weights[:, 0] = 1.0 - kept
    for i in range(1, len(ratio) - 1):
        step = log_snr[i + 1] - log_snr[i]
        if kind == "dpm++3m":
            order = min(i + 1, 3)
            moments = [1.0 - ratio[i]]  # of s^k under the kernel exp(s - step) on [0, step]
            for k in range(1, order):
                moments.append(step**k - k * moments[-1])
            nodes = log_snr[i - np.arange(order)] - log_snr[i]
            weights[i, :order] = np.linalg.solve(np.vander(nodes, order, increasing=True).T, moments)
        else:
            extrapolate = 0.5 * step / (log_snr[i] - log_snr[i - 1])
            weights[i] = (1.0 - kept[i]) * np.array([1.0 + extrapolate, -extrapolate])
    return kept, weights, added


def _float32(values) -> Array:
    return jnp.asarray(values, jnp.float32)
