"""The two action distributions, as NamedTuples of arrays; randomness is passed in as standard normal noise.

`Normal` is unsquashed; its samples are clipped where they are executed. `TanhNormal` is squashed and has an exact
density. A checkpoint of one does not fit the other. Formulas and who uses which: docs/algorithms.md#networks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.types import Array, Key


def _normal_log_prob(mean: Array, log_std: Array, x: Array) -> Array:
    z = (x - mean) * jnp.exp(-log_std)
    return jnp.sum(-0.5 * jnp.square(z) - log_std - 0.5 * math.log(2.0 * math.pi), axis=-1)


def normal_and_uniform(key: Key, counts: tuple[int, int], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Standard normal `[counts[0], *shape]` and uniform in [-1, 1) `[counts[1], *shape]`, of one draw.

    A draw is a loop of kernels, however small it is. ``jax.random.normal`` too is the inverse error function of a
    uniform number in an interval that is open below.
    """
    lowest = jnp.nextafter(jnp.asarray(-1.0, jnp.result_type(float)), 0.0)
    drawn = jax.random.uniform(key, (sum(counts), *shape), minval=lowest, maxval=1.0)
    return math.sqrt(2.0) * jax.lax.erf_inv(drawn[: counts[0]]), drawn[counts[0] :]


class Normal(NamedTuple):
    """A diagonal Gaussian over actions `[..., A]`.

    Attributes:
      mean: `[..., A]`, already squashed by tanh where a policy made it.
      log_std: `[..., A]`, already clipped.
    """

    mean: Array
    log_std: Array

    def log_prob(self, action: Array) -> Array:
        """Log density `[...]`, summed over A."""
        return _normal_log_prob(self.mean, self.log_std, action)

    def sample(self, noise: Array) -> Array:
        """A sample `[..., A]` from standard normal `noise`; not clipped to the action box."""
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> Array:
        """The mean `[..., A]`."""
        return self.mean


class TanhNormal(NamedTuple):
    """The distribution of ``tanh(u)``, u a diagonal Gaussian over `[..., A]`.

    Attributes:
      mean: `[..., A]` mean of u.
      log_std: `[..., A]` log standard deviation of u, already clipped.
    """

    mean: Array
    log_std: Array

    def log_prob_of(self, pre_tanh: Array, epsilon: float = 0.0) -> Array:
        """Log density `[...]` of ``tanh(pre_tanh)``.

        The log-determinant ``log(1 - tanh(u)^2)`` is written ``2 (log 2 - u - softplus(-2 u))``, exact where the
        squashed action rounds to 1. Above 0, `epsilon` asks for the released form ``log(1 - tanh(u)^2 + epsilon)``.
        """
        if epsilon > 0.0:
            log_det = jnp.log(1.0 - jnp.square(jnp.tanh(pre_tanh)) + epsilon)
        else:
            log_det = 2.0 * (math.log(2.0) - pre_tanh - jax.nn.softplus(-2.0 * pre_tanh))
        return _normal_log_prob(self.mean, self.log_std, pre_tanh) - jnp.sum(log_det, axis=-1)

    def log_prob(self, action: Array, margin: float = 1e-6) -> Array:
        """Log density `[...]` of an action given from outside, moved `margin` inside the box to be invertible."""
        return self.log_prob_of(jnp.arctanh(jnp.clip(action, -1.0 + margin, 1.0 - margin)))

    def sample(self, noise: Array, epsilon: float = 0.0) -> tuple[Array, Array]:
        """(action `[..., A]`, log density `[...]`) from standard normal `noise`, by the pre-tanh value."""
        pre_tanh = self.mean + jnp.exp(self.log_std) * noise
        return jnp.tanh(pre_tanh), self.log_prob_of(pre_tanh, epsilon)

    def mode(self) -> Array:
        """The squashed mean `[..., A]`."""
        return jnp.tanh(self.mean)
