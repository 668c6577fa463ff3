"""Log-density of rows under a diffusion model, by the probability-flow ODE (Song et al. 2021, arXiv 2011.13456, 4.3).

    dx/dsigma = v = (x - D) / sigma;   log p(x_0) = log N(x_max; 0, sigma_max^2) + integral of div v from x_0 up

It is integrated in log sigma, where the flow is smooth, by diffrax's adaptive fifth-order Tsit5
(docs/algorithms.md#samplers).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import Normaliser, normalise
from cfdg_jax.errors import UserError, require
from cfdg_jax.types import Array, Key


def log_density(
    denoise: Denoise,
    x: Array,
    key: Key | None = None,
    probes: int = 0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    tolerance: float = 1e-5,
    max_steps: int = 4_096,
) -> Array:
    """``log p(x; sigma_min)`` `[n]` in nats of the deterministic samplers' density; the hardest row sets all steps.

    Args:
      denoise: ``(x [n, d], sigma []) -> D [n, d]``, each row of its own x alone.
      x: `[n, d]` rows in the space the denoiser was trained in.
      key: Of the probes.
      probes: Random directions that estimate the divergence without bias (Hutchinson; kept fixed along the path); 0
        computes it exactly, at d pullbacks an evaluation.
      sigma_min: Noise that is part of the density; below it a network knows nothing.
      sigma_max: Noise at which the density is taken for N(0, sigma_max^2).
      tolerance: Relative and absolute error of a step.
      max_steps: Steps after which it gives up.

    Raises:
      UserError: if diffrax is not installed, if `probes` are asked for without a key, or for a value out of range.
    """
    diffrax = _diffrax()
    require(0 < sigma_min < sigma_max, "sigma_min", f"is {sigma_min}", f"must lie between 0 and sigma_max, {sigma_max}")
    require(tolerance > 0, "tolerance", f"is {tolerance}", "must be positive")
    require(probes >= 0, "probes", f"is {probes}", "must be at least 0")
    count, d = x.shape
    if probes and key is None:
        raise UserError("probes", f"is {probes} without a key", "pass a key or use 0 for the exact divergence")
    directions = jax.random.rademacher(key, (probes, count, d), x.dtype) if probes and key is not None else None

    def flow(time: Array, state: tuple[Array, Array], args: Any) -> tuple[Array, Array]:
        del args
        sigma = jnp.exp(time)
        field = lambda x: x - denoise(x, sigma)  # dx / d log sigma
        value, pullback = jax.vjp(field, state[0])
        if directions is not None:
            along = lambda direction: jnp.sum(pullback(direction)[0] * direction, axis=-1)
            return value, jax.vmap(along)(directions).mean(axis=0)
        column = lambda unit: pullback(jnp.broadcast_to(unit, (count, d)))[0] @ unit
        return value, jax.vmap(column)(jnp.eye(d, dtype=x.dtype)).sum(axis=0)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(flow),
        diffrax.Tsit5(),
        t0=float(np.log(sigma_min)),
        t1=float(np.log(sigma_max)),
        dt0=None,
        y0=(x, jnp.zeros(count, x.dtype)),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=max_steps,
    )
    noise, divergence = (leaf[-1] for leaf in solution.ys)
    prior = -0.5 * jnp.sum((noise / sigma_max) ** 2, axis=-1) - d * np.log(sigma_max * np.sqrt(2 * np.pi))
    return prior + divergence


def log_density_of_rows(
    denoise: Denoise, normaliser: Normaliser, rows: Array, key: Key | None = None, **options: Any
) -> Array:
    """`log_density` `[n]` of generated columns `[n, d]` in raw units, per raw unit of volume."""
    return log_density(denoise, normalise(normaliser, rows), key, **options) - jnp.log(normaliser.std).sum()


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError:
        raise UserError(
            "likelihood", "needs diffrax, which is not installed", "pip install 'cfdg-jax[likelihood]'"
        ) from None
    return diffrax
