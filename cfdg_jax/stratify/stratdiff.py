"""StratDiff (arXiv 2511.03828): rows near what a value-guided behaviour model would do keep the offline regulariser.

    before the online phase   mu(a | s) <- denoising on the offline rows, then frozen
                              supports  <- K actions of mu for many offline states
                              f         <- contrastive energy prediction of beta Q on them
    per online batch          a'_i      ~ mu(a | s_i) exp(scale f), one proposal per row
                              score_i   = |a_i - a'_i|^2 / (2 sigma_s^2), the KL of two Gaussians of equal width
                              conserve  = 1 for the round(rho B) rows of lowest score, 0 for the others
    per update                one contrastive step on cached states, half of them met online, labels by the current Q

No full text of the paper was found; the machinery and its numbers are QGPO's (arXiv 2304.12824), which it builds on.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.core import ring
from cfdg_jax.diffusion import behavior, energy
from cfdg_jax.diffusion.fit import Averaging, Normaliser, fit_normaliser, init_state, normalise, unnormalise
from cfdg_jax.diffusion.guidance import energy_guided
from cfdg_jax.diffusion.network import Network, Precision, dense_unet, energy_mlp
from cfdg_jax.diffusion.samplers import Solver
from cfdg_jax.errors import require
from cfdg_jax.methods import Entry, Preset, Stage, Stratifier, Task, Value, Values
from cfdg_jax.stratify import marks
from cfdg_jax.stratify.base import check_marks
from cfdg_jax.types import Array, Batch, Buffer, Key, Metrics, Spec

_ONE = ("proposals", "sampler_steps", "behavior_steps", "behavior_batch", "energy_steps", "cached_states")
_LEAST = dict.fromkeys((*_ONE, "cached_online", "support_chunk"), 1) | dict.fromkeys(("supports", "energy_batch"), 2)
_LEAST |= dict.fromkeys(("guidance", "rho_rate", "gain_rows", "beta"), 0)
"""Least values of the config's numbers."""


@dataclasses.dataclass(frozen=True)
class StratDiffConfig:
    """Hyper-parameters. Behaviour model and energy network as QGPO's (CEP-energy-guided-diffusion)."""

    rho: float = 0.5  # share of each batch treated conservatively (StratDiff)
    rho_by_seed: tuple[float, ...] = ()  # rho of successive seeds in turn, a sweep as one program; (): rho for all
    adaptive_rho: bool = False  # let rho follow the running scores, see `marks.follow_freed_share` (ours)
    rho_rate: float = 0.01  # step of adaptive rho per update, at most 1
    rho_freed: float = 0.2  # share of the offline rows that adaptive rho marks online-like
    score: Literal["proposal", "random"] = "proposal"  # random: the ablation, marks by lot
    score_std: float = 1.0  # sigma_s; scales the scores that are logged, changes no mark
    proposals: int = 1  # J, the score is a mean over them (StratDiff 1)
    guidance: float = 3.0  # s; 0: no energy network at all; AntMaze 2; QGPO tunes it in 1 to 10, exact is 1
    guidance_by_seed: tuple[float, ...] = ()  # s of successive seeds in turn, a sweep as one program; (): guidance
    guided_supports: float | None = None  # share of the supports left effective, which s follows (ours); none: off
    guidance_rate: float = 0.01  # step of log s per update for that, at most 1
    guidance_limit: float | None = None  # largest |s grad f| relative to the score of mu, row by row (ours); none: off
    sampler_steps: int = 15  # of DPM-Solver++(2M), one evaluation each (QGPO); under 8 only with a sampler_start
    sampler_start: float | None = None  # first noise level, at most that of t = 1; none: that, 152 (QGPO)
    beta: float = 3.0  # inverse temperature of the labels (StratDiff, QGPO)
    q_standardise: bool = False  # divide Q by its spread over supports, which frees beta and s from the reward's scale
    widths: tuple[int, ...] = (512, 256, 128)  # of the behaviour model's blocks (QGPO)
    energy_hidden: tuple[int, ...] = (256, 256, 256, 256)  # of the energy network (QGPO; StratDiff: 4 layers)
    time_scale: float = 30.0  # of both networks' Fourier features of t (QGPO); 4 where training is short
    behavior_steps: int = 600_000  # optimiser steps of the behaviour model (QGPO train_behavior.py)
    behavior_batch: int = 4096  # rows of each (QGPO)
    behavior_lr: float = 1e-4  # Adam (QGPO)
    ema_decay: float = 0.9999  # of the averaged behaviour weights that sample (CleanDiffuser); 0: the weights (QGPO)
    share_behavior: bool = True  # one behaviour model and one set of offline supports for all seeds
    normalise_actions: bool = False  # standardise actions by the dataset's moments, in the model and in the score
    support: Literal["cache", "batch"] = "cache"  # batch: draw supports in each step for the states at hand
    supports: int = 16  # K; AntMaze 32 (QGPO)
    cached_states: int = 100_000  # offline states with supports (QGPO: all)
    cached_online: int = 20_000  # newest online states with supports
    support_chunk: int = 256  # offline states whose supports are drawn at a time; bounds the memory
    energy_steps: int = 500_000  # contrastive steps before the online phase (half of QGPO's, whose Q is trained along)
    energy_batch: int = 256  # states of each, before the online phase and in it (QGPO)
    energy_lr: float = 3e-4  # Adam (QGPO)
    gain_rows: int = 16  # states per update whose proposals are compared with mu's in Q, for the log; 0: none
    precision: Precision = "default"  # of matrix products; bfloat16 on accelerators trades accuracy for speed

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            require(value >= least, f"stratify.{name}", f"is {value}", f"must be at least {least}")
        for name in ("score_std", "time_scale", "behavior_lr", "energy_lr"):
            value = getattr(self, name)
            require(value > 0, f"stratify.{name}", f"is {value}", "must be positive")
        for name in ("rho", "ema_decay", "rho_rate", "rho_freed", "guidance_rate"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"stratify.{name}", f"is {value}", "must lie between 0 and 1")
        shares = all(0 <= rho <= 1 for rho in self.rho_by_seed)
        require(shares, "stratify.rho_by_seed", f"is {self.rho_by_seed}", "must lie between 0 and 1")
        scales = all(scale >= 0 for scale in self.guidance_by_seed)
        require(scales, "stratify.guidance_by_seed", f"is {self.guidance_by_seed}", "must be at least 0")
        for name in ("widths", "energy_hidden"):
            value = getattr(self, name)
            positive = bool(value) and all(width > 0 for width in value)
            require(positive, f"stratify.{name}", f"is {value}", "must hold positive widths")
        limit, start, share = self.guidance_limit, self.sampler_start, self.guided_supports
        starts = min(self.guidance_by_seed or (self.guidance,))
        follows = share is None or (1.0 / self.supports < share < 1.0 and self.proposes and starts > 0.0)
        between = "must lie between 1 / supports and 1 with guidance above 0 to start from, for every seed, or be none"
        require(follows, "stratify.guided_supports", f"is {share}", between)
        require(limit is None or limit > 0.0, "stratify.guidance_limit", f"is {limit}", "must be positive, or none")
        low, high = behavior.noise_level(behavior.T_MIN), behavior.noise_level(1.0)
        within = f"must exceed {low:.2g} and be at most {high:.4g}, or be none"
        require(start is None or low < start <= high, "stratify.sampler_start", f"is {start}", within)
        enough = self.sampler_steps >= 8 or start is not None or not self.proposes
        few = f"is {self.sampler_steps}, too few from t = 1"
        require(enough, "stratify.sampler_steps", few, "take 8 or more, or a sampler_start such as 3")

    @property
    def proposes(self) -> bool:
        """Whether scores come from the behaviour model."""
        return self.score == "proposal"

    @property
    def guided(self) -> bool:
        """Whether proposals are guided, so that an energy network is needed."""
        return self.proposes and max(self.guidance_by_seed or (self.guidance,)) > 0

    @property
    def caches(self) -> bool:
        """Whether supports are drawn beforehand."""
        return self.guided and self.support == "cache"


class Model(NamedTuple):
    """What depends on the dataset alone; with `share_behavior` one serves all seeds."""

    behavior: Any
    supports: Any


class Own(NamedTuple):
    """What each seed has: fields of `StratDiffState`; `model` is () where it is shared."""

    model: Any
    energy: Any
    recent: Any
    rho: Array
    guidance: Array


class StratDiffState(NamedTuple):
    """`Model` and `Own` of one seed as the functions below see them; a field is () where the config does not need it.

    Attributes:
      behavior: The behaviour model; its normaliser is that of actions.
      supports: Ring of offline states with their supports, rows ``[obs | a^1 | ... | a^K]``, actions normalised.
      energy: The energy network.
      recent: The same ring for states met online.
      rho: `[]`, the share marked conservative.
      guidance: `[]`, the guidance scale s.
    """

    behavior: Any
    supports: Any
    energy: Any
    recent: Any
    rho: Array
    guidance: Array


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: StratDiffConfig
    spec: Spec
    behavior: Network
    energy: Network
    solver: Solver
    behavior_tx: optax.GradientTransformation
    energy_tx: optax.GradientTransformation
    averaging: Averaging


def parts(config: StratDiffConfig, spec: Spec) -> Parts:
    """Networks, solver and optimisers."""
    dims = (spec.act_dim, spec.obs_dim)
    shared = dict[str, Any](time_scale=config.time_scale, precision=config.precision)
    return Parts(
        config=config,
        spec=spec,
        behavior=dense_unet(*dims, widths=config.widths, **shared),
        energy=energy_mlp(*dims, hidden=config.energy_hidden, **shared),
        solver=behavior.solver(config.sampler_steps, config.sampler_start),
        behavior_tx=optax.adam(config.behavior_lr),
        energy_tx=optax.adam(config.energy_lr),
        averaging=Averaging(decay=config.ema_decay, every=10 if config.ema_decay > 0 else 1),
    )


def init_model(p: Parts, key: Key) -> Model:
    """An untrained behaviour model and an empty ring."""
    c = p.config
    behavior_key, _ = jax.random.split(key)
    identity = Normaliser(jnp.zeros(p.spec.act_dim), jnp.ones(p.spec.act_dim))
    return Model(
        behavior=init_state(p.behavior.init(behavior_key), p.behavior_tx, identity) if c.proposes else (),
        supports=ring.empty(c.cached_states, cache_width(p)) if c.caches else (),
    )


def init(p: Parts, key: Key, seed: Array | int) -> Own:
    """An untrained energy network, an empty ring, and the settings of seed number `seed` `[]`."""
    of_seed = lambda values: jnp.asarray(values, jnp.float32)[seed % len(values)]
    c, energy_key = p.config, jax.random.split(key)[1]
    energy_params = p.energy.init(energy_key) if c.guided else ()
    return Own(
        model=() if c.share_behavior else init_model(p, key),
        energy=energy.EnergyState(energy_params, p.energy_tx.init(energy_params)) if c.guided else (),
        recent=ring.empty(c.cached_online, cache_width(p)) if c.caches else (),
        rho=of_seed(c.rho_by_seed or (c.rho,)),
        guidance=of_seed(c.guidance_by_seed or (c.guidance,)),
    )


def cache_width(p: Parts) -> int:
    """Columns of a state with its supports."""
    return p.spec.obs_dim + p.config.supports * p.spec.act_dim


def whole(shared: Any, own: Own) -> StratDiffState:
    """Both parts of a seed's state."""
    model = shared or own.model
    return StratDiffState(model.behavior, model.supports, own.energy, own.recent, own.rho, own.guidance)


def own_part(p: Parts, state: StratDiffState) -> Own:
    """What belongs to the seed alone."""
    model = () if p.config.share_behavior else Model(state.behavior, state.supports)
    return Own(model, state.energy, state.recent, state.rho, state.guidance)


# -- proposals and marks -----------------------------------------------------------------------------------------------


def draw_actions(p: Parts, state: StratDiffState, obs: Array, key: Key, count: int, scale: Array | float) -> Array:
    """`count` actions per state, normalised, `[count, B, A]` for obs `[B, O]`; one call of each network per step.

    `scale` is the guidance scale s, `[]`, or a Python 0 for mu itself.
    """
    denoise = behavior.denoiser(p.behavior, state.behavior.ema, obs)
    if not (isinstance(scale, int | float) and scale == 0):
        f = energy.energy(p.energy, state.energy.params, obs)
        denoise = energy_guided(denoise, f, scale, p.config.guidance_limit)
    shape = (count, obs.shape[0], p.spec.act_dim)
    return behavior.draw(denoise, state.behavior.normaliser, p.solver, key, shape)


def scores(p: Parts, state: StratDiffState, batch: Batch, key: Key) -> Array:
    """``mean_j |a_i - a'_ij|^2 / (2 sigma_s^2)`` `[B]`; low is offline-like."""
    if not p.config.proposes:
        return jax.random.uniform(key, batch.reward.shape)
    scale = state.guidance if p.config.guided else 0
    proposals = draw_actions(p, state, batch.obs, key, p.config.proposals, scale)
    distance = jnp.sum((normalise(state.behavior.normaliser, batch.action) - proposals) ** 2, axis=-1)
    return distance.mean(axis=0) / (2.0 * p.config.score_std**2)


def mark(p: Parts, state: StratDiffState, batch: Batch, key: Key) -> tuple[Array, Metrics]:
    """See `Stratifier.mark`; synthetic rows are scored and ranked like any other."""
    score = scores(p, state, batch, key)
    rows = score.shape[0]
    fixed = not (p.config.adaptive_rho or p.config.rho_by_seed)
    count = round(p.config.rho * rows) if fixed else jnp.round(state.rho * rows)
    conserve = marks.lowest(score, count)
    return conserve, {"rho": state.rho} | marks.metrics(score, conserve, batch.source)


# -- learning ----------------------------------------------------------------------------------------------------------


def fit_behavior(p: Parts, state: StratDiffState, rows: Array, key: Key, steps: int) -> tuple[StratDiffState, Metrics]:
    """`steps` denoising steps on actions drawn from the offline rows."""
    layout, model = p.spec.layout, state.behavior
    if p.config.normalise_actions:
        model = model._replace(normaliser=fit_normaliser([(rows[:, layout.action], None)], p.spec.act_dim))

    def minibatch(key: Key) -> tuple[Array, Array]:
        drawn = rows[jax.random.randint(key, (p.config.behavior_batch,), 0, rows.shape[0])]
        return drawn[:, layout.obs], drawn[:, layout.action]

    model, metrics = behavior.fit(p.behavior, p.behavior_tx, p.averaging, model, minibatch, key, steps)
    return state._replace(behavior=model), {f"behavior_{name}": value for name, value in metrics.items()}


def draw_supports(p: Parts, state: StratDiffState, obs: Array, key: Key) -> Array:
    """K actions of mu per state, normalised, `[B, K, A]` for obs `[B, O]`."""
    return jnp.moveaxis(draw_actions(p, state, obs, key, p.config.supports, 0), 0, 1)


def support_rows(p: Parts, state: StratDiffState, obs: Array, key: Key) -> Array:
    """States `[B, O]` with fresh supports as rows of a cache."""
    return jnp.concatenate([obs, draw_supports(p, state, obs, key).reshape(obs.shape[0], -1)], axis=-1)


def fill_supports(p: Parts, state: StratDiffState, rows: Array, key: Key, steps: int) -> tuple[StratDiffState, Metrics]:
    """Draws the supports of `support_chunk` random offline states, `steps` times."""
    chunk = min(p.config.support_chunk, p.config.cached_states)

    def fill(cache: Buffer, key: Key) -> tuple[Buffer, None]:
        row_key, support_key = jax.random.split(key)
        obs = rows[jax.random.randint(row_key, (chunk,), 0, rows.shape[0])][:, p.spec.layout.obs]
        return ring.insert(cache, support_rows(p, state, obs, support_key)), None

    cache, _ = jax.lax.scan(fill, state.supports, jax.random.split(key, steps))
    return state._replace(supports=cache), {"supports_drawn": cache.size.astype(jnp.float32)}


def cached_minibatch(p: Parts, state: StratDiffState, key: Key) -> tuple[Array, Array]:
    """States `[B, O]` and supports `[B, K, A]` from the caches: half met online, once that many have been."""
    offline_key, online_key = jax.random.split(key)
    size = p.config.energy_batch
    offline = ring.sample(state.supports, offline_key, size)
    online = ring.sample(state.recent, online_key, size)
    met = jnp.arange(size) < jnp.minimum(state.recent.size, size // 2)
    rows = jnp.where(met[:, None], online, offline)
    obs, supports = rows[:, : p.spec.obs_dim], rows[:, p.spec.obs_dim :]
    return obs, supports.reshape(size, p.config.supports, p.spec.act_dim)


def support_values(p: Parts, state: StratDiffState, obs: Array, supports: Array, value: Value) -> Array:
    """Q of the supports `[B, K]`, in one call of the critics."""
    actions = unnormalise(state.behavior.normaliser, supports)
    return value(jnp.broadcast_to(obs[:, None], (*actions.shape[:2], obs.shape[-1])), actions)


def fit_energy(
    p: Parts, state: StratDiffState, obs: Array | None, value: Value, key: Key, steps: int
) -> tuple[StratDiffState, Metrics]:
    """`steps` contrastive steps: on states `[steps, B, O]` whose supports are drawn now, or from the caches (None).

    With `guided_supports` s follows: mu exp(s f) has the supports' weights softmax(s beta Q), and s rises while their
    effective number is above that share of K. A reward ten times as large then asks for no other setting.
    """
    gain_key, step_key = jax.random.split(key)

    def step(model: energy.EnergyState, inputs) -> tuple[energy.EnergyState, tuple]:
        at_hand, key = inputs
        draw_key, fit_key = jax.random.split(key)
        if at_hand is None:
            drawn, supports = cached_minibatch(p, state, draw_key)
        else:
            drawn, supports = at_hand, draw_supports(p, state, at_hand, draw_key)
        q = support_values(p, state, drawn, supports, value)
        target = energy.labels(q, p.config.beta, p.config.q_standardise)
        model, metrics = energy.fit_step(p.energy, p.energy_tx, model, drawn, supports, target, fit_key)
        guided = energy.labels(q, p.config.beta * state.guidance, p.config.q_standardise)
        metrics["guided_supports"] = energy.effective_sample_size(guided).mean() / q.shape[-1]
        shown = slice(None, None, max(1, drawn.shape[0] // max(1, p.config.gain_rows)))  # of both origins
        return model, (metrics, drawn[shown], q[shown])

    model, (metrics, shown, q) = jax.lax.scan(step, state.energy, (obs, jax.random.split(step_key, steps)))
    state, metrics = state._replace(energy=model), jax.tree.map(jnp.mean, metrics)
    metrics["guidance"] = state.guidance
    if p.config.guided_supports is not None:
        gain = 1.0 - (1.0 - p.config.guidance_rate) ** steps
        excess = metrics["guided_supports"] - p.config.guided_supports
        state = state._replace(guidance=jnp.clip(state.guidance * jnp.exp(gain * excess), 1e-3, 1e3))
    if p.config.gain_rows:
        proposed = draw_actions(p, state, shown[-1], gain_key, 1, state.guidance)[0]
        reached = value(shown[-1], unnormalise(state.behavior.normaliser, proposed))
        metrics["proposal_gain"] = (reached - q[-1].mean(axis=-1)).mean()
    return state, metrics


def fit(p: Parts, state: StratDiffState, batches: Batch, value: Value, key: Key) -> tuple[StratDiffState, Metrics]:
    """See `Stratifier.fit`: a contrastive step per agent update, and adaptive rho."""
    metrics: Metrics = {}
    if p.config.guided:
        at_hand = batches.obs if p.config.support == "batch" else None
        state, metrics = fit_energy(p, state, at_hand, value, key, batches.reward.shape[0])
    if p.config.adaptive_rho:
        c = p.config
        state = state._replace(rho=marks.follow_freed_share(state.rho, c.rho_rate, c.rho_freed, batches))
    return state, metrics


def prepare(
    p: Parts, state: StratDiffState, stage: str, rows: Array, value: Value, key: Key, steps: int
) -> tuple[StratDiffState, Metrics]:
    """See `Stratifier.prepare`."""
    if stage == "behavior":
        return fit_behavior(p, state, rows, key, steps)
    if stage == "supports":
        return fill_supports(p, state, rows, key, steps)
    row_key, fit_key = jax.random.split(key)
    obs = None
    if p.config.support == "batch":
        index = jax.random.randint(row_key, (steps, p.config.energy_batch), 0, rows.shape[0])
        obs = rows[index][..., p.spec.layout.obs]
    return fit_energy(p, state, obs, value, fit_key, steps)


def observe(p: Parts, state: StratDiffState, obs: Array, key: Key) -> StratDiffState:
    """See `Stratifier.observe`: the state's supports join the cache."""
    return state._replace(recent=ring.insert(state.recent, support_rows(p, state, obs[None], key)))


def stages(config: StratDiffConfig) -> tuple[Stage, ...]:
    """What the config needs trained before the online phase."""
    trained = []
    if config.proposes:
        trained.append(Stage("behavior", config.behavior_steps, config.share_behavior))
    if config.guided and config.support == "cache":
        chunks = math.ceil(config.cached_states / min(config.support_chunk, config.cached_states))
        trained.append(Stage("supports", chunks, config.share_behavior))
    if config.guided:
        trained.append(Stage("energy", config.energy_steps))
    return tuple(trained)


def stratdiff(config: StratDiffConfig, spec: Spec) -> Stratifier:
    """StratDiff for one seed; what depends on the dataset alone is shared, with `share_behavior`."""
    p, needed = parts(config, spec), stages(config)

    def fit_own(shared, own: Own, batches: Batch, value: Value, key: Key) -> tuple[Own, Metrics]:
        state, metrics = fit(p, whole(shared, own), batches, value, key)
        return own_part(p, state), metrics

    def prepare_part(shared, own: Own, stage: str, rows: Array, value: Value, key: Key, steps: int):
        state, metrics = prepare(p, whole(shared, own), stage, rows, value, key, steps)
        of_data = any(each.shared for each in needed if each.name == stage)
        return Model(state.behavior, state.supports) if of_data else own_part(p, state), metrics

    def observe_own(shared, own: Own, obs: Array, key: Key) -> Own:
        return own_part(p, observe(p, whole(shared, own), obs, key))

    return Stratifier(
        init=functools.partial(init, p),
        mark=lambda shared, own, batch, key: mark(p, whole(shared, own), batch, key),
        init_shared=functools.partial(init_model, p) if config.share_behavior else lambda key: (),
        fit=fit_own if config.guided or config.adaptive_rho else None,
        stages=needed,
        prepare=prepare_part if needed else None,
        observe=observe_own if config.caches else None,
    )


def _values(preset: Preset, task: Task) -> Values:
    """The paper improves base agents as their authors set them."""
    values: dict[str, Any] = {"agent.variant": "authors"}
    if task.family == "antmaze":
        values |= {"stratify.supports": 32, "stratify.guidance": 2.0}  # docs/algorithms.md#stratdiff
    if preset != "paper":
        values |= _reduced()
    if preset == "smoke":
        values |= {
            "stratify.widths": (32, 16), "stratify.energy_hidden": (32, 32), "stratify.supports": 4,
            "stratify.behavior_steps": 60, "stratify.behavior_batch": 64, "stratify.cached_states": 60,
            "stratify.cached_online": 30, "stratify.support_chunk": 20, "stratify.energy_steps": 50,
            "stratify.energy_batch": 16,
        }  # fmt: skip
    return values


def _reduced() -> dict[str, Any]:
    """Networks and solver small enough for a few CPU cores."""
    return {
        "stratify.widths": (128, 64, 32),
        "stratify.energy_hidden": (64, 64, 64, 64),
        "stratify.time_scale": 4.0,
        "stratify.sampler_steps": 4,  # from there 7 % of marks differ from 60 of t = 1 (benchmarks/proposals.py)
        "stratify.sampler_start": 3.0,
        "stratify.behavior_steps": 10_000,
        "stratify.behavior_batch": 256,
        "stratify.behavior_lr": 1e-3,
        "stratify.ema_decay": 0.995,
        "stratify.cached_states": 4_096,
        "stratify.cached_online": 4_096,
        "stratify.energy_steps": 5_000,
        "stratify.energy_batch": 32,
        "stratify.energy_lr": 1e-3,
        "stratify.q_standardise": True,  # the labels of a reward scale of 1,000 would be one-hot
        "stratify.gain_rows": 0,  # the gain in Q is a tenth of a step's time here
    }


def _check(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    yield from check_marks(config, chosen)
    for name in ("rho_by_seed", "guidance_by_seed"):
        values = getattr(config.stratify, name)
        found = f"has {len(values)} values and there are {config.seeds} seeds"
        fits = not values or config.seeds % len(values) == 0
        require(fits, f"stratify.{name}", found, "make seeds a multiple of them")


ENTRY = Entry(
    StratDiffConfig,
    stratdiff,
    about="rows near a value-guided behaviour model stay conservative (arXiv 2511.03828)",
    values=_values,
    check=_check,
)
