"""Contrastive energy prediction (Lu et al. 2023, arXiv 2304.12824): a network f(a_t, s, t) whose gradient guides mu.

For K support actions a^k of mu(. | s), all diffused to one time t per state::

    L = - sum_k softmax_k(beta Q(s, a^k)) log softmax_k f(a^k_t, s, t)                             (Eq. 12)
    minimised by f = log E_{mu(a | a_t, s)} exp(beta Q(s, a)) + const(s, t)

Then the score of mu plus grad f samples ``mu(a | s) exp(beta Q(s, a))`` exactly. L is never below the entropy of the
labels (docs/algorithms.md#energy).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.diffusion.behavior import at_noise_level, diffuse, draw_time
from cfdg_jax.diffusion.network import Network
from cfdg_jax.types import Array, Key, Metrics, Params


class EnergyState(NamedTuple):
    """An energy network in training: parameters and Adam's moments."""

    params: Params
    opt_state: Any


def labels(q: Array, beta: float | Array, standardise: bool = False) -> Array:
    """``softmax_k(beta Q)`` `[B, K]` without gradient.

    Args:
      q: `[B, K]` values of the support actions.
      beta: Inverse temperature.
      standardise: Divide Q by the mean over states of its standard deviation over supports. Beta and the guidance scale
        then mean the same whatever the scale of rewards.
    """
    scale = q.std(axis=-1).mean() + 1e-8 if standardise else 1.0
    return jax.lax.stop_gradient(jax.nn.softmax(beta * q / scale, axis=-1))


def contrastive_loss(f: Array, target: Array) -> Array:
    """Cross-entropy `[B]` of the supports' energies `f` `[B, K]` and their labels `[B, K]`."""
    return -jnp.sum(target * jax.nn.log_softmax(f, axis=-1), axis=-1)


def entropy(target: Array) -> Array:
    """Entropy `[B]` of labels `[B, K]`, the least value of `contrastive_loss`."""
    return jax.scipy.special.entr(target).sum(axis=-1)


def effective_sample_size(target: Array) -> Array:
    """``1 / sum_k w_k^2`` `[B]` of labels `[B, K]`: K where Q is flat, 1 where one support takes all."""
    return 1.0 / jnp.sum(target**2, axis=-1)


def fit_step(
    network: Network,
    tx: optax.GradientTransformation,
    state: EnergyState,
    obs: Array,
    supports: Array,
    target: Array,
    key: Key,
) -> tuple[EnergyState, Metrics]:
    """One contrastive step.

    Args:
      obs: `[B, O]`.
      supports: `[B, K, A]` clean support actions, in the behaviour model's normalised space.
      target: `[B, K]` labels.
      key: For the time of each state and the noise of each support.
    """
    time_key, noise_key = jax.random.split(key)
    t = draw_time(time_key, (obs.shape[0], 1))
    noisy = diffuse(supports, t, jax.random.normal(noise_key, supports.shape))

    def loss(params: Params) -> Array:
        return contrastive_loss(network.apply(params, noisy, t, obs[:, None]), target).mean()

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, opt_state = tx.update(gradient, state.opt_state, state.params)
    metrics = {
        "energy_loss": value,
        "energy_floor": entropy(target).mean(),
        "energy_samples": effective_sample_size(target).mean(),
    }
    return EnergyState(optax.apply_updates(state.params, updates), opt_state), metrics


def energy(network: Network, params: Params, obs: Array):
    """``f`` as `guidance.energy_guided` wants it: of ``y = a_t / alpha_t`` `[..., A]` at EDM's sigma `[]`."""

    def at(y: Array, sigma: Array) -> Array:
        schedule, t = at_noise_level(sigma)
        return network.apply(params, schedule.alpha * y, t, obs)

    return at
