"""Actions that a value-guided behaviour model proposes, and the cached actions that its energy network learns from.

mu(a | s)   a diffusion model of the dataset's actions (docs/algorithms.md#behaviour)
supports    K actions of mu for a state, in a ring of rows [obs | a^1 | ... | a^K], actions normalised
proposals   actions of mu(a | s) exp(scale f), f the energy network (docs/algorithms.md#energy)
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.core import ring
from cfdg_jax.diffusion import behavior, energy
from cfdg_jax.diffusion.fit import (
    Averaging,
    GeneratorState,
    Normaliser,
    fit_normaliser,
    init_state,
    unnormalise,
)
from cfdg_jax.diffusion.guidance import energy_guided
from cfdg_jax.diffusion.network import Network, dense_unet, energy_mlp
from cfdg_jax.diffusion.samplers import Solver
from cfdg_jax.errors import require
from cfdg_jax.methods import Value
from cfdg_jax.types import Array, Buffer, Key, Metrics, RowLayout
from cfdg_jax.values import check_ranges


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """Behaviour model and energy network; the values are those of docs/algorithms.md#energy."""

    beta: float = 3.0  # inverse temperature of the labels
    normalise_actions: bool = False  # standardise actions by the dataset's moments, in the model and in the score
    sampler_steps: int = 15  # of DPM-Solver++(2M), one evaluation each; under 8 only with a sampler_start
    sampler_start: float | None = None  # first noise level, at most that of t = 1; none: that, 152
    widths: tuple[int, ...] = (512, 256, 128)  # of the behaviour model's blocks
    behavior_steps: int = 600_000  # optimiser steps of the behaviour model
    behavior_batch: int = 4096  # rows of each
    supports: int = 16  # K; AntMaze 32
    cached_states: int = 100_000  # offline states with supports
    energy_hidden: tuple[int, ...] = (256, 256, 256, 256)  # of the energy network
    energy_steps: int = 500_000  # contrastive steps before the online phase
    energy_batch: int = 256  # states of each, before the online phase and in it

    def __post_init__(self) -> None:
        check_ranges(
            self,
            "stratify",
            at_least_one=("sampler_steps", "behavior_steps", "behavior_batch", "cached_states", "energy_steps"),
            at_least_two=("supports", "energy_batch"),
            not_negative=("beta",),
            widths=("widths", "energy_hidden"),
        )
        for name in ("widths", "energy_hidden"):
            require(bool(getattr(self, name)), f"stratify.{name}", "is empty", "must hold positive widths")
        start, low, high = self.sampler_start, behavior.noise_level(behavior.T_MIN), behavior.noise_level(1.0)
        within = f"must exceed {low:.2g} and be at most {high:.4g}, or be none"
        require(start is None or low < start <= high, "stratify.sampler_start", f"is {start}", within)


@dataclasses.dataclass(frozen=True)
class Switches:
    """What one release, or one length of training, does by itself."""

    behavior_lr: float = 1e-4  # Adam
    ema_decay: float = 0.9999  # of the averaged behaviour weights that sample; 0: the weights themselves
    energy_lr: float = 3e-4  # Adam
    time_scale: float = 30.0  # of both networks' Fourier features of t
    q_standardise: bool = False  # divide Q by its spread over supports: no label hangs on the scale of rewards
    support: Literal["cache", "batch"] = "cache"  # batch: the states at hand, whose supports each step draws
    cached_online: int = 20_000  # newest online states with supports
    support_chunk: int = 256  # offline states whose supports are drawn at a time; bounds the memory
    gain_rows: int = 16  # states per update whose proposals are compared with mu's in Q, for the log; 0: none


class Proposer(NamedTuple):
    """What the functions below share: config, switches, and what they make; no arrays.

    Attributes:
      layout: Of packed rows.
      behavior: Network of mu.
      energy: Network of f.
      solver: How actions are drawn.
      behavior_tx: Optimiser of mu.
      energy_tx: Optimiser of f.
      averaging: Of mu's weights.
    """

    config: ProposalConfig
    switches: Switches
    layout: RowLayout
    behavior: Network
    energy: Network
    solver: Solver
    behavior_tx: optax.GradientTransformation
    energy_tx: optax.GradientTransformation
    averaging: Averaging

    def empty_cache(self, states: int) -> Buffer:
        """A ring of states with their supports."""
        return ring.empty(states, self.layout.obs_dim + self.config.supports * self.layout.act_dim)


def proposer(config: ProposalConfig, switches: Switches, layout: RowLayout) -> Proposer:
    """Networks, solver and optimisers."""
    dims, scale, decay = (layout.act_dim, layout.obs_dim), switches.time_scale, switches.ema_decay
    return Proposer(
        config=config,
        switches=switches,
        layout=layout,
        behavior=dense_unet(*dims, widths=config.widths, time_scale=scale),
        energy=energy_mlp(*dims, hidden=config.energy_hidden, time_scale=scale),
        solver=behavior.solver(config.sampler_steps, config.sampler_start),
        behavior_tx=optax.adam(switches.behavior_lr),
        energy_tx=optax.adam(switches.energy_lr),
        averaging=Averaging(decay=decay, every=10 if decay > 0 else 1),
    )


class Model(NamedTuple):
    """What depends on the dataset alone; a field is () where it is not needed.

    Attributes:
      behavior: The behaviour model, a `GeneratorState`; its normaliser is that of actions.
      supports: Ring of offline states with their supports.
    """

    behavior: Any
    supports: Any


def init_model(p: Proposer, key: Key, cached: bool) -> Model:
    """An untrained behaviour model, and an empty ring where supports are cached."""
    act_dim = p.layout.act_dim
    identity = Normaliser(jnp.zeros(act_dim), jnp.ones(act_dim))
    mu = init_state(p.behavior.init(key), p.behavior_tx, identity)
    return Model(mu, p.empty_cache(p.config.cached_states) if cached else ())


def chunk(p: Proposer) -> int:
    """Offline states whose supports are drawn at a time."""
    return min(p.switches.support_chunk, p.config.cached_states)


# -- actions -----------------------------------------------------------------------------------------------------------


def draw_actions(
    p: Proposer,
    mu: GeneratorState,
    f: Any,
    obs: Array,
    key: Key,
    count: int,
    scale: Array | float,
    limit: float | None = None,
) -> Array:
    """`count` actions per state, normalised, `[count, B, A]` for obs `[B, O]`; one call of each network per step.

    Args:
      mu: The behaviour model.
      f: The energy network's `energy.EnergyState`; not looked at where `scale` is a Python 0.
      scale: The guidance scale, `[]`, or a Python 0 for mu itself.
      limit: See `guidance.energy_guided`.
    """
    denoise = behavior.denoiser(p.behavior, mu.ema, obs)
    if not (isinstance(scale, int | float) and scale == 0):
        denoise = energy_guided(denoise, energy.energy(p.energy, f.params, obs), scale, limit)
    return behavior.draw(denoise, mu.normaliser, p.solver, key, (count, obs.shape[0], p.layout.act_dim))


def draw_supports(p: Proposer, mu: GeneratorState, obs: Array, key: Key) -> Array:
    """K actions of mu per state, normalised, `[B, K, A]` for obs `[B, O]`."""
    return jnp.moveaxis(draw_actions(p, mu, None, obs, key, p.config.supports, 0), 0, 1)


def support_rows(p: Proposer, mu: GeneratorState, obs: Array, key: Key) -> Array:
    """States `[B, O]` with fresh supports as rows of a cache."""
    return jnp.concatenate([obs, draw_supports(p, mu, obs, key).reshape(obs.shape[0], -1)], axis=-1)


def cached_minibatch(p: Proposer, cached: Buffer, recent: Buffer, key: Key) -> tuple[Array, Array]:
    """States `[B, O]` and supports `[B, K, A]` from the caches: half met online, once that many have been."""
    size, (offline_key, online_key) = p.config.energy_batch, jax.random.split(key)
    offline = ring.sample(cached, offline_key, size)
    online = ring.sample(recent, online_key, size)
    met = jnp.arange(size) < jnp.minimum(recent.size, size // 2)
    rows = jnp.where(met[:, None], online, offline)
    obs, supports = rows[:, : p.layout.obs_dim], rows[:, p.layout.obs_dim :]
    return obs, supports.reshape(size, p.config.supports, p.layout.act_dim)


def support_values(normaliser: Normaliser, obs: Array, supports: Array, value: Value) -> Array:
    """Q of the supports `[B, K]`, in one call of the critics."""
    actions = unnormalise(normaliser, supports)
    return value(jnp.broadcast_to(obs[:, None], (*actions.shape[:2], obs.shape[-1])), actions)


# -- learning ----------------------------------------------------------------------------------------------------------


def fit_behavior(p: Proposer, model: Model, rows: Array, key: Key, steps: int) -> tuple[Model, Metrics]:
    """`steps` denoising steps on actions drawn from the offline rows `[N, D]`."""
    mu = model.behavior
    if p.config.normalise_actions:
        mu = mu._replace(normaliser=fit_normaliser([(ring.numbers(rows[:, p.layout.action]), None)], p.layout.act_dim))

    def minibatch(key: Key) -> tuple[Array, Array]:
        drawn = ring.take(rows, jax.random.randint(key, (p.config.behavior_batch,), 0, rows.shape[0]))
        return drawn[:, p.layout.obs], drawn[:, p.layout.action]

    mu, metrics = behavior.fit(p.behavior, p.behavior_tx, p.averaging, mu, minibatch, key, steps)
    return model._replace(behavior=mu), {f"behavior_{name}": value for name, value in metrics.items()}


def fill_supports(p: Proposer, model: Model, rows: Array, key: Key, steps: int) -> tuple[Model, Metrics]:
    """Draws the supports of a chunk of random states of the offline rows `[N, D]`, `steps` times."""

    def fill(cache: Buffer, key: Key) -> tuple[Buffer, None]:
        row_key, support_key = jax.random.split(key)
        obs = ring.take(rows, jax.random.randint(row_key, (chunk(p),), 0, rows.shape[0]))[:, p.layout.obs]
        return ring.insert(cache, support_rows(p, model.behavior, obs, support_key)), None

    cache, _ = jax.lax.scan(fill, model.supports, jax.random.split(key, steps))
    return model._replace(supports=cache), {"supports_drawn": cache.size.astype(jnp.float32)}


class Gain(NamedTuple):
    """States of which the log says what proposals gain, `[n, O]`, and Q of their supports `[n, K]`."""

    obs: Array
    q: Array


def fit_energy(
    p: Proposer,
    model: Model,
    recent: Any,
    f: energy.EnergyState,
    obs: Array | None,
    value: Value,
    key: Key,
    steps: int,
    scale: Array,
) -> tuple[energy.EnergyState, Metrics, Gain]:
    """`steps` contrastive steps.

    Args:
      recent: Ring of states met online with their supports; not looked at where `obs` is given.
      obs: States `[steps, B, O]` whose supports are drawn now; None for minibatches from the caches.
      scale: The guidance scale s; the metrics say what share of the supports it leaves effective.
    """
    gain_rows, standardise = max(1, p.switches.gain_rows), p.switches.q_standardise

    def step(f: energy.EnergyState, inputs) -> tuple[energy.EnergyState, tuple]:
        at_hand, key = inputs
        draw_key, fit_key = jax.random.split(key)
        if at_hand is None:
            drawn, supports = cached_minibatch(p, model.supports, recent, draw_key)
        else:
            drawn, supports = at_hand, draw_supports(p, model.behavior, at_hand, draw_key)
        q = support_values(model.behavior.normaliser, drawn, supports, value)
        target = energy.labels(q, p.config.beta, standardise)
        f, metrics = energy.fit_step(p.energy, p.energy_tx, f, drawn, supports, target, fit_key)
        guided = energy.labels(q, p.config.beta * scale, standardise)
        metrics["guided_supports"] = energy.effective_sample_size(guided).mean() / q.shape[-1]
        shown = slice(None, None, max(1, drawn.shape[0] // gain_rows))  # of both origins
        return f, (metrics, drawn[shown], q[shown])

    f, (metrics, shown, q) = jax.lax.scan(step, f, (obs, jax.random.split(key, steps)))
    return f, jax.tree.map(jnp.mean, metrics), Gain(shown[-1], q[-1])


def proposal_gain(
    p: Proposer, mu: GeneratorState, f: energy.EnergyState, gain: Gain, value: Value, key: Key, scale: Array
) -> Array:
    """How much higher Q of a proposal is than that of mu's actions, `[]`."""
    proposed = draw_actions(p, mu, f, gain.obs, key, 1, scale)[0]
    reached = value(gain.obs, unnormalise(mu.normaliser, proposed))
    return (reached - gain.q.mean(axis=-1)).mean()


def follow_supports(scale: Array, effective: Array, share: float, rate: float, steps: int) -> Array:
    """The guidance scale after `steps` steps that left the share `effective` of the supports effective.

    mu exp(s f) has the supports' weights softmax(s beta Q). s rises while their effective number is above `share` of K,
    and a reward ten times as large asks for no other setting.
    """
    return jnp.clip(scale * jnp.exp((1.0 - (1.0 - rate) ** steps) * (effective - share)), 1e-3, 1e3)
