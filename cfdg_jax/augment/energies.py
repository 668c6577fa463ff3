"""Three contrastive energies of noised rows, and how they push a sampler (docs/algorithms.md#edis).

corrected   negatives are samples that share the right columns with their row; all see one level per group
released    what the published code minimises, whose negatives are hardly ever samples
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.core.networks import Network, ensemble, mlp
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import Normaliser, normalise
from cfdg_jax.diffusion.guidance import inpainted
from cfdg_jax.diffusion.samplers import Push, Solver, sample
from cfdg_jax.types import Array, Key, Params, RowLayout

STATE, POLICY, TRANSITION = 0, 1, 2
"""Places of the energies in their stacked parameters."""
LONGEST = 10.0  # largest norm of a push, per square root of columns


@dataclasses.dataclass(frozen=True)
class Switches:
    """What a release does otherwise than the paper."""

    contrast: Literal["corrected", "released"] = "corrected"  # see above
    kappa_of: Literal["slope", "score"] = "slope"  # what kappa dE is added to; of the score it is exact at 1
    terminals: bool = True  # flag terminals where the task has any; off: generated rows never end
    before_churn: bool = False  # heun asks before it adds noise, and at one level for both slopes of a step
    levels: int = 128  # noise levels that the energies know, whatever the sampler's own
    every: int = 16  # they learn every so many of them, from the highest


class Columns(NamedTuple):
    """Masks `[d]` over generated columns."""

    state: np.ndarray
    action: np.ndarray
    next_state: np.ndarray

    @classmethod
    def of(cls, layout: RowLayout, columns: int) -> Columns:
        place = np.arange(columns)
        within = lambda part: (place >= part.start) & (place < part.stop)
        return cls(within(layout.obs), within(layout.action), within(layout.next_obs))

    def shared(self) -> np.ndarray:
        """Columns `[3, d]` that the negatives of each energy have from their online row."""
        return np.stack([np.zeros_like(self.state), self.state, self.state | self.action])


class Energies(NamedTuple):
    """What the functions below share; no arrays.

    Attributes:
      network: See `energy_network`.
      masks: Of the columns that each energy pushes.
      negatives: Generated rows per online row.
      solver: Of the negatives that are samples.
      switches: Of the variant.
    """

    network: Network
    masks: Columns
    negatives: int
    solver: Solver
    switches: Switches

    def __call__(self, params: Params, x: Array, sigma: Array, normaliser: Normaliser) -> Array:
        """The energies `[3, ...]` of normalised rows x `[..., d]` at noise levels `[...]`."""
        return self.network.apply(params, inputs(x, sigma, self.switches, normaliser))

    def levels(self) -> tuple[np.ndarray, np.ndarray]:
        """Noise levels that are learnt, and their numbers from the highest."""
        numbers = np.arange(0, self.switches.levels, self.switches.every)
        return edm.schedule(self.switches.levels)[numbers], numbers


def energy_network(hidden: tuple[int, ...], columns: int) -> Network:
    """Three energies of a row and its noise level: ``apply(params, inputs [..., columns + 1]) -> [3, ...]``."""
    network = ensemble(mlp(columns + 1, 1, hidden, init="pytorch"), 3)
    return Network(network.init, lambda params, inputs: network.apply(params, inputs)[..., 0])


def inputs(x: Array, sigma: Array, switches: Switches, normaliser: Normaliser) -> Array:
    """What energies see of x `[..., d]` in normalised space at sigma `[...]`: columns and noise level, `[..., d + 1]`.

    The corrected ones see what the denoising network sees. The released ones see raw units, and the number of the noise
    level.
    """
    sigma = jnp.broadcast_to(sigma, x.shape[:-1])
    if switches.contrast == "corrected":
        c = edm.preconditioning(sigma)
        return jnp.concatenate([c.c_in[..., None] * x, c.c_noise[..., None]], axis=-1)
    high, low = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    number = (switches.levels - 1) * (high - sigma ** (1 / 7)) / (high - low)
    return jnp.concatenate([x * normaliser.std + normaliser.mean, number[..., None]], axis=-1)


# -- guidance ----------------------------------------------------------------------------------------------------------


def energy_push(
    energies: Callable[[Array, Array], Array],
    kappa: tuple[float, ...],
    masks: Columns,
    units: Array | float = 1.0,
) -> Push | None:
    """The push ``(x [n, d], sigma []) -> [n, d]`` of energies ``(x, sigma) -> [3, n]``; None where every kappa is 0.

    Gradients are with respect to ``units x``. A push longer than `LONGEST` times sqrt(d) is cut to that.

    Args:
      kappa: Of the state's, the policy's and the transition's energy.
    """
    weights = np.stack([scale * mask for scale, mask in zip(kappa, masks, strict=True)])
    if not weights.any():
        return None
    limit = LONGEST * weights.shape[1] ** 0.5

    def push(x: Array, sigma: Array) -> Array:
        _, pullback = jax.vjp(lambda x: energies(x, sigma), x)
        ones = jnp.eye(3)[:, :, None] * jnp.ones(x.shape[0])
        gradients = jax.vmap(lambda cotangent: pullback(cotangent)[0])(ones)
        raw = jnp.sum(weights[:, None, :] * gradients, axis=0) / units
        norm = jnp.linalg.norm(raw, axis=-1, keepdims=True)
        return raw * jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))

    return push


def pushed(denoise: Denoise, push: Push | None, kappa_of: str = "slope") -> Denoise:
    """The denoiser whose slope, or score, is pushed."""
    if push is None:
        return denoise
    return lambda x, sigma: denoise(x, sigma) - (sigma if kappa_of == "slope" else sigma**2) * push(x, sigma)


# -- contrast ----------------------------------------------------------------------------------------------------------


def contrast(
    energies: Energies, denoise: Denoise, normaliser: Normaliser, rows: Array, key: Key
) -> Callable[[Params], Array]:
    """The loss of the energies on online `rows` `[n, d]` in raw units, as a function of their parameters."""
    kind = _corrected if energies.switches.contrast == "corrected" else _released
    return kind(energies, denoise, normaliser, rows, key)


def _corrected(
    energies: Energies, denoise: Denoise, normaliser: Normaliser, rows: Array, key: Key
) -> Callable[[Params], Array]:
    """The mean contrastive loss of the three energies.

    Rows and negatives are noised to the same level, one level per group. The columns that a negative shares with its
    row (none, s, s and a) are shared before noise.
    """
    sample_key, level_key, noise_key = jax.random.split(key, 3)
    clean, masks = normalise(normaliser, rows), energies.masks
    count, columns = clean.shape
    repeated = jnp.repeat(clean, energies.negatives, axis=0)
    negatives = []
    for kept, kind_key in zip(masks.shared(), jax.random.split(sample_key, 3), strict=True):
        field = inpainted(denoise, repeated, jnp.asarray(kept)) if kept.any() else denoise
        drawn = sample(field, energies.solver, kind_key, repeated.shape)
        negatives.append(jnp.where(kept, repeated, drawn))
    groups = jnp.stack(negatives).reshape(3, count, energies.negatives, columns)
    groups = jnp.concatenate([jnp.broadcast_to(clean[:, None], (3, count, 1, columns)), groups], axis=2)
    levels, _ = energies.levels()
    sigma = jnp.asarray(levels, jnp.float32)[jax.random.randint(level_key, (3, count, 1), 0, len(levels))]
    noisy = groups + sigma[..., None] * jax.random.normal(noise_key, groups.shape)
    seen = jax.lax.stop_gradient(inputs(noisy, sigma, energies.switches, normaliser))

    def loss(params: Params) -> Array:
        each = _each(energies.network, params, seen)
        return -jax.nn.log_softmax(-each, axis=-1)[..., 0].mean()

    return loss


def _released(
    energies: Energies, denoise: Denoise | None, normaliser: Normaliser, rows: Array, key: Key
) -> Callable[[Params], Array]:
    """The loss that the published code minimises (liuxhym/EDIS diffusion/trainer.py).

    Everything is in raw units, to which noise of the normalised levels is added. Negatives at the highest level are
    pure noise. Below it the mask of the condition covers all columns, and negatives are the condition and zeros. The
    state's energy sees the highest level alone.
    """
    del denoise
    noise_key, start_key = jax.random.split(key)
    (levels, numbers), count, k = energies.levels(), rows.shape[0], energies.negatives
    sigma = jnp.asarray(levels, jnp.float32)[:, None, None]
    positive = rows + sigma * jax.random.normal(noise_key, (3, len(levels), *rows.shape))
    start = normaliser.mean + normaliser.std * 80.0 * jax.random.normal(start_key, (3, count * k, rows.shape[1]))
    condition = jnp.where(energies.masks.shared()[:, None], rows, 0.0)
    constants = jnp.broadcast_to(
        jnp.repeat(condition, k, axis=1)[:, None], (3, len(levels) - 1, count * k, rows.shape[1])
    )
    negative = jnp.concatenate([start[:, None], constants], axis=1)
    numbered = lambda x: jnp.concatenate(
        [x, jnp.broadcast_to(jnp.asarray(numbers, jnp.float32)[:, None, None], (*x.shape[:-1], 1))], axis=-1
    )

    def loss(params: Params) -> Array:
        high, low = (_each(energies.network, params, numbered(x)) for x in (positive, negative))
        state = one_group(high[STATE, :1], low[STATE, :1])
        return state + mixed_groups(high[POLICY], low[POLICY]) + mixed_groups(high[TRANSITION], low[TRANSITION])

    return loss


def one_group(high: Array, low: Array) -> Array:
    """The released loss of the state's energy, from energies of positives `[L, n]` and negatives `[L, n k]`, summed."""
    positive, negative = high.ravel(), low.ravel()
    return jnp.sum(positive + jax.nn.logsumexp(-jnp.concatenate([positive, negative])))


def mixed_groups(high: Array, low: Array) -> Array:
    """The released loss of the other two, likewise.

    Groups are cut from arrays that are ordered by level and then by row, which mixes both.
    """
    levels, count = high.shape
    positive, negative = high.reshape(count, 1, levels), low.reshape(count, -1, levels)
    return -jax.nn.log_softmax(-jnp.concatenate([positive, negative], axis=1), axis=1)[:, 0].sum()


def _each(network: Network, params: Params, seen: Array) -> Array:
    """Each energy of its own inputs: `[3, ..., d + 1]` -> `[3, ...]`."""
    own = lambda p, x: network.apply(jax.tree.map(lambda leaf: leaf[None], p), x)[0]
    return jax.vmap(own)(params, seen)
