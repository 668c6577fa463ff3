"""StratDiff (arXiv 2511.03828): rows near what a value-guided behaviour model would do keep the offline regulariser.

    before the online phase   mu(a | s) <- denoising on the offline rows, then frozen
                              supports  <- K actions of mu for many offline states
                              f         <- contrastive energy prediction of beta Q on them
    per online batch          a'_i      ~ mu(a | s_i) exp(scale f), one proposal per row
                              score_i   = |a_i - a'_i|^2 / (2 sigma_s^2), the KL of two Gaussians of equal width
                              conserve  = 1 for the round(rho B) rows of lowest score, 0 for the others
    per update                one contrastive step on cached states, half of them met online, labels by the current Q

No full text of the paper was found. The machinery and its numbers are QGPO's (arXiv 2304.12824), on which it builds
(docs/algorithms.md#stratdiff).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from cfdg_jax.core import ring
from cfdg_jax.diffusion.energy import EnergyState
from cfdg_jax.diffusion.fit import normalise
from cfdg_jax.errors import require
from cfdg_jax.methods import Entry, Preset, Stage, Stratifier, Task, Value, Values, Variant, check_variant
from cfdg_jax.stratify import marks, proposals
from cfdg_jax.stratify.base import check_marks
from cfdg_jax.stratify.proposals import Model, ProposalConfig, Proposer, Switches
from cfdg_jax.types import Array, Batch, Key, Metrics, Spec
from cfdg_jax.values import check_ranges, is_off

SCORE_STD = 1.0  # sigma_s; it scales the scores that are logged and changes no mark
RHO_RATE, RHO_FREED = 0.01, 0.2  # adaptive rho's step per update, and the share of the offline rows that it frees
GUIDANCE_RATE = 0.01  # step of log s per update where s follows `guided_supports`


@dataclasses.dataclass(frozen=True)
class StratDiffConfig(ProposalConfig):
    """The marks; the fields of behaviour model and energy network come first."""

    variant: str = "authors"  # constants of training, see VARIANTS
    rho: float = 0.5  # share of each batch treated conservatively (StratDiff)
    adaptive_rho: bool = False  # let rho follow the running scores, see `marks.follow_freed_share` (ours)
    score: Literal["proposal", "random"] = "proposal"  # random: the ablation, marks by lot
    proposals: int = 1  # J, the score is a mean over them (StratDiff 1)
    guidance: float = 3.0  # s; 0: no energy network at all; AntMaze 2; QGPO tunes it in 1 to 10, exact is 1
    guided_supports: float | None = None  # share of the supports left effective, which s follows (ours); none: off
    share_behavior: bool = True  # one behaviour model and one set of offline supports for all seeds

    def __post_init__(self) -> None:
        super().__post_init__()
        check_variant("stratify.variant", self.variant, VARIANTS)
        check_ranges(self, "stratify", at_least_one=("proposals",), unit=("rho",), not_negative=("guidance",))
        share, starts = self.guided_supports, self.proposes and self.guidance > 0.0
        follows = share is None or (1.0 / self.supports < share < 1.0 and starts)
        between = "must lie between 1 / supports and 1 with guidance above 0 to start from, or be none"
        require(follows, "stratify.guided_supports", f"is {share}", between)
        enough = self.sampler_steps >= 8 or self.sampler_start is not None or not self.proposes
        few = f"is {self.sampler_steps}, too few from t = 1"
        require(enough, "stratify.sampler_steps", few, "take 8 or more, or a sampler_start such as 3")

    @property
    def switches(self) -> Switches:
        """Those of the variant."""
        return VARIANTS[self.variant].switches

    @property
    def proposes(self) -> bool:
        """Whether scores come from the behaviour model."""
        return self.score == "proposal"

    @property
    def guided(self) -> bool:
        """Whether proposals are guided, so that an energy network is needed."""
        return self.proposes and not is_off(self.guidance)

    @property
    def caches(self) -> bool:
        """Whether supports are drawn beforehand."""
        return self.guided and self.switches.support == "cache"


SHORT = Switches(
    behavior_lr=1e-3,
    ema_decay=0.995,
    energy_lr=1e-3,
    time_scale=4.0,  # a few thousand steps learn with 4 what they do not with 30
    q_standardise=True,  # the labels of a reward scale of 1,000 would be one-hot
    cached_online=4_096,
    gain_rows=0,  # the gain in Q is a tenth of a step's time here
)
VARIANTS = {
    "authors": Variant(switches=Switches()),  # QGPO's training, CleanDiffuser's average
    "qgpo": Variant(switches=Switches(ema_decay=0.0)),  # QGPO throughout
    "same_states": Variant(switches=Switches(support="batch")),  # f learns on the states of the agent's batch
    "short": Variant(switches=SHORT),  # ours: trainings of a few thousand steps
    "smoke": Variant(switches=dataclasses.replace(SHORT, cached_online=30, support_chunk=20)),  # of seconds
}


class Own(NamedTuple):
    """What each seed has.

    Attributes:
      model: The seed's `Model`; () where one serves all seeds.
      energy: The energy network, or ().
      recent: Ring of states met online with their supports, or ().
      rho: `[]`, the share marked conservative.
      guidance: `[]`, the guidance scale s.
    """

    model: Any
    energy: Any
    recent: Any
    rho: Array
    guidance: Array


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: StratDiffConfig
    proposer: Proposer


def parts(config: StratDiffConfig, spec: Spec) -> Parts:
    """Networks, solver and optimisers."""
    return Parts(config, proposals.proposer(config, config.switches, spec.layout))


def init_model(p: Parts, key: Key) -> Model:
    """An untrained behaviour model and an empty ring; nothing where marks go by lot."""
    if not p.config.proposes:
        return Model((), ())
    return proposals.init_model(p.proposer, jax.random.split(key)[0], p.config.caches)


def init(p: Parts, key: Key) -> Own:
    """An untrained energy network, an empty ring, and where rho and s begin."""
    c, energy_key = p.config, jax.random.split(key)[1]
    f = p.proposer.energy.init(energy_key) if c.guided else ()
    return Own(
        model=() if c.share_behavior else init_model(p, key),
        energy=EnergyState(f, p.proposer.energy_tx.init(f)) if c.guided else (),
        recent=p.proposer.empty_cache(c.switches.cached_online) if c.caches else (),
        rho=jnp.asarray(c.rho, jnp.float32),
        guidance=jnp.asarray(c.guidance, jnp.float32),
    )


def model_of(shared: Any, own: Own) -> Model:
    """The model that a seed uses: the shared one, or its own."""
    return shared or own.model


# -- marks -------------------------------------------------------------------------------------------------------------


def scores(p: Parts, model: Model, own: Own, batch: Batch, key: Key) -> Array:
    """``mean_j |a_i - a'_ij|^2 / (2 sigma_s^2)`` `[B]`; low is offline-like."""
    if not p.config.proposes:
        return jax.random.uniform(key, batch.reward.shape)
    c, scale = p.config, own.guidance if p.config.guided else 0
    proposed = proposals.draw_actions(p.proposer, model.behavior, own.energy, batch.obs, key, c.proposals, scale)
    distance = jnp.sum((normalise(model.behavior.normaliser, batch.action) - proposed) ** 2, axis=-1)
    return distance.mean(axis=0) / (2.0 * SCORE_STD**2)


def mark(p: Parts, shared: Any, own: Own, batch: Batch, key: Key) -> tuple[Array, Metrics]:
    """See `Stratifier.mark`; synthetic rows are scored and ranked like any other."""
    score = scores(p, model_of(shared, own), own, batch, key)
    rows = score.shape[0]
    count = jnp.round(own.rho * rows) if p.config.adaptive_rho else round(p.config.rho * rows)
    conserve = marks.lowest(score, count)
    return conserve, {"rho": own.rho} | marks.metrics(score, conserve, batch.source)


# -- learning ----------------------------------------------------------------------------------------------------------


def fit_energy(
    p: Parts, model: Model, own: Own, obs: Array | None, value: Value, key: Key, steps: int
) -> tuple[Own, Metrics]:
    """`steps` contrastive steps on states `[steps, B, O]`, or on the caches (None); s follows `guided_supports`."""
    gain_key, step_key = jax.random.split(key)
    share, scale = p.config.guided_supports, own.guidance
    f, metrics, gain = proposals.fit_energy(
        p.proposer, model, own.recent, own.energy, obs, value, step_key, steps, scale
    )
    metrics["guidance"] = scale
    if share is not None:
        scale = proposals.follow_supports(scale, metrics["guided_supports"], share, GUIDANCE_RATE, steps)
    if p.config.switches.gain_rows:
        gained = proposals.proposal_gain(p.proposer, model.behavior, f, gain, value, gain_key, scale)
        metrics["proposal_gain"] = gained
    return own._replace(energy=f, guidance=scale), metrics


def fit(p: Parts, shared: Any, own: Own, batches: Batch, value: Value, key: Key) -> tuple[Own, Metrics]:
    """See `Stratifier.fit`: a contrastive step per agent update, and adaptive rho."""
    metrics: Metrics = {}
    if p.config.guided:
        at_hand = None if p.config.caches else batches.obs
        own, metrics = fit_energy(p, model_of(shared, own), own, at_hand, value, key, batches.reward.shape[0])
    if p.config.adaptive_rho:
        own = own._replace(rho=marks.follow_freed_share(own.rho, RHO_RATE, RHO_FREED, batches))
    return own, metrics


def prepare(
    p: Parts, shared: Any, own: Own, stage: str, rows: Array, value: Value, key: Key, steps: int
) -> tuple[Model | Own, Metrics]:
    """See `Stratifier.prepare`."""
    c, model = p.config, model_of(shared, own)
    if stage == "energy":
        row_key, fit_key = jax.random.split(key)
        obs = None
        if not c.caches:
            index = jax.random.randint(row_key, (steps, c.energy_batch), 0, rows.shape[0])
            obs = ring.take(rows, index)[..., p.proposer.layout.obs]
        return fit_energy(p, model, own, obs, value, fit_key, steps)
    if stage == "behavior":
        model, metrics = proposals.fit_behavior(p.proposer, model, rows, key, steps)
    else:
        model, metrics = proposals.fill_supports(p.proposer, model, rows, key, steps)
    return (model if c.share_behavior else own._replace(model=model)), metrics


def observe(p: Parts, shared: Any, own: Own, obs: Array, key: Key) -> Own:
    """See `Stratifier.observe`: the state's supports join the cache."""
    row = proposals.support_rows(p.proposer, model_of(shared, own).behavior, obs[None], key)
    return own._replace(recent=ring.insert(own.recent, row))


def stages(p: Parts) -> tuple[Stage, ...]:
    """What the config needs trained before the online phase."""
    c, trained = p.config, []
    if c.proposes:
        trained.append(Stage("behavior", c.behavior_steps, c.share_behavior))
    if c.caches:
        chunks = math.ceil(c.cached_states / proposals.chunk(p.proposer))
        trained.append(Stage("supports", chunks, c.share_behavior))
    if c.guided:
        trained.append(Stage("energy", c.energy_steps))
    return tuple(trained)


def stratdiff(config: StratDiffConfig, spec: Spec) -> Stratifier:
    """StratDiff for one seed; what depends on the dataset alone is shared, with `share_behavior`."""
    p = parts(config, spec)
    needed = stages(p)
    return Stratifier(
        init=functools.partial(init, p),
        mark=functools.partial(mark, p),
        init_shared=functools.partial(init_model, p) if config.share_behavior else lambda key: (),
        fit=functools.partial(fit, p) if config.guided or config.adaptive_rho else None,
        stages=needed,
        prepare=functools.partial(prepare, p) if needed else None,
        observe=functools.partial(observe, p) if config.caches else None,
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
            "stratify.variant": "smoke",
            "stratify.widths": (32, 16), "stratify.energy_hidden": (32, 32), "stratify.supports": 4,
            "stratify.behavior_steps": 60, "stratify.behavior_batch": 64, "stratify.cached_states": 60,
            "stratify.energy_steps": 40, "stratify.energy_batch": 16,
        }  # fmt: skip
    return values


def _reduced() -> dict[str, Any]:
    """Networks and solver small enough for a few CPU cores."""
    return {
        "stratify.variant": "short",
        "stratify.widths": (128, 64, 32),
        "stratify.energy_hidden": (64, 64, 64, 64),
        "stratify.sampler_steps": 4,  # from there 7 % of marks differ from 60 of t = 1 (benchmarks/proposals.py)
        "stratify.sampler_start": 3.0,
        "stratify.behavior_steps": 10_000,
        "stratify.behavior_batch": 256,
        "stratify.cached_states": 4_096,
        "stratify.energy_steps": 5_000,
        "stratify.energy_batch": 32,
    }


ENTRY = Entry(
    StratDiffConfig,
    stratdiff,
    about="rows near a value-guided behaviour model stay conservative (arXiv 2511.03828)",
    values=_values,
    check=check_marks,
    variants=VARIANTS,
)
