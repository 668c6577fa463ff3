"""EDIS (Liu et al. 2024, arXiv 2407.12448): a pooled diffusion model pushed, while it samples, by three energies.

    denoiser   without labels, on offline and online rows together
    energies   E(x, sigma) of a whole noised row, each low on online rows x+ and high on generated rows x-
               L = E(x+) + log sum over {x+, x-_1 .. x-_10} of exp(-E)     so that exp(-E) ~ p_online / p_generated
               x-:  state: any row;  policy: the same s;  transition: the same s and a
    generate   slope (x - D) / sigma  +  kappa_s dE_state/ds + kappa_p dE_policy/da + kappa_t dE_transition/ds'

Two things differ from liuxhym/EDIS in every variant: the online rows' own actions stand in for fresh actions of the
policy, which a generator does not know; and rewards come from the denoiser (docs/algorithms.md#edis).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cfdg_jax.augment.base import DenoiserConfig, check_use, even_batch, reduced_values
from cfdg_jax.augment.denoiser import RowTraining, pretraining, row_network, unlabelled_training
from cfdg_jax.augment.energies import Columns, Energies, Switches, contrast, energy_network, energy_push, pushed
from cfdg_jax.augment.rows import RowModel, RowState, draw_online, generate_rows, modelled, row_model
from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.edm import Denoise
from cfdg_jax.diffusion.fit import lockstep
from cfdg_jax.diffusion.network import Network
from cfdg_jax.diffusion.samplers import Push
from cfdg_jax.errors import require
from cfdg_jax.methods import Augmenter, Entry, Preset, Task, Values, Variant, check_variant
from cfdg_jax.types import Array, Buffer, Key, Metrics, Params, RowLayout, Source, Spec

ENERGY_LR = 1e-3  # Adam of the energies (liuxhym/EDIS algorithms/iql_edis.py)


@dataclasses.dataclass(frozen=True)
class EDISConfig(DenoiserConfig):
    """The energies' values are those of IQL-EDIS (iql_edis.py), the other fields all generators'."""

    variant: str = "authors"  # see VARIANTS
    steps: int = 30_000  # denoiser steps of a refresh (IQL-EDIS; 50_000 on some tasks, Cal-QL-EDIS 10_000)
    ema_share: float = 1 / 15  # a decay of 0.995 at 30,000 steps, as released
    energy_steps: int = 20  # optimiser steps of the energies in a refresh, after the denoiser's
    energy_batch: int = 256  # online rows per step
    energy_hidden: tuple[int, ...] = (256, 256, 256)  # of each energy
    negatives: int = 10  # generated rows per online row
    kappa: tuple[float, ...] = (2.0, 0.1, 0.1)  # push of s, a and s' (Cal-QL-EDIS: .01 to 2, .01 to .2 by task)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_variant("augment.variant", self.variant, VARIANTS)
        even_batch(self)
        for name in ("energy_steps", "energy_batch", "negatives"):
            value = getattr(self, name)
            require(value >= 1, f"augment.{name}", f"is {value}", "must be at least 1")
        of_each = len(self.kappa) == 3 and all(value >= 0 for value in self.kappa)
        require(of_each, "augment.kappa", f"is {self.kappa}", "must be three numbers of at least 0, for s, a and s'")
        require(all(width > 0 for width in self.energy_hidden), "augment.energy_hidden", "has a width of 0", "use > 0")


VARIANTS = {
    "authors": Variant(switches=Switches()),  # the paper's energies with the release's constants
    "released": Variant(  # liuxhym/EDIS as it runs: wrong masks, raw units, mixed groups, no terminals
        switches=Switches(contrast="released", terminals=False, before_churn=True)
    ),
    "exact": Variant({"kappa": (1.0, 1.0, 1.0)}, Switches(kappa_of="score")),  # ours: samples p_generated exp(-E)
}


class EDISState(NamedTuple):
    """The denoiser's state, then the energies'.

    Attributes:
      rows: Of the generator without labels.
      energies: Parameters of the three energies, stacked.
      opt_state: Their Adam moments.
      step: `[]` int32, steps of both kinds since the start.
      metrics: The newest of every metric; 0 before its kind of step.
    """

    rows: RowState
    energies: Params
    opt_state: Any
    step: Array
    metrics: Metrics


class Parts(NamedTuple):
    """What the functions below share: the config and what it makes, no arrays."""

    config: EDISConfig
    spec: Spec
    network: Network
    energies: Energies
    training: RowTraining
    adam: optax.GradientTransformation

    @property
    def layout(self) -> RowLayout:
        return self.spec.layout

    @property
    def fit_steps(self) -> int:
        return self.config.steps + self.config.energy_steps


def parts(config: EDISConfig, spec: Spec) -> Parts:
    """Networks and optimisers."""
    switches, columns = VARIANTS[config.variant].switches, spec.layout.generative_width
    spec = dataclasses.replace(spec, terminates=spec.terminates and switches.terminals)
    network, energy = row_network(config, columns), energy_network(config.energy_hidden, columns)
    return Parts(
        config=config,
        spec=spec,
        network=network,
        energies=Energies(energy, Columns.of(spec.layout, columns), config.negatives, config.sampler, switches),
        training=unlabelled_training(config, "pooled", network, spec),
        adam=optax.adam(ENERGY_LR),
    )


def init(p: Parts, key: Key, offline_rows: Array, online: Buffer) -> EDISState:
    """See `Augmenter.init`."""
    denoiser_key, energy_key = jax.random.split(key)
    energies = p.energies.network.init(energy_key)
    metrics = {name: jnp.zeros(()) for name in ("loss", "gradient_norm", "energy_loss")}
    rows = p.training.init(denoiser_key, offline_rows, online)
    return EDISState(rows, energies, p.adam.init(energies), jnp.zeros((), jnp.int32), metrics)


def energy_step(p: Parts, state: EDISState, online: Buffer, key: Key) -> EDISState:
    """One contrastive step of the energies on rows of the ring."""
    row_key, loss_key = jax.random.split(key)
    rows = modelled(p.config, p.layout, draw_online(online, row_key, p.config.energy_batch))
    rows = rows[:, : p.layout.generative_width]
    loss_of = contrast(p.energies, plain(p, state), state.rows.denoiser.normaliser, rows, loss_key)
    loss, gradient = jax.value_and_grad(loss_of)(state.energies)
    updates, opt_state = p.adam.update(gradient, state.opt_state)
    energies = optax.apply_updates(state.energies, updates)
    return state._replace(energies=energies, opt_state=opt_state, metrics=state.metrics | {"energy_loss": loss})


def fit(
    p: Parts, state: EDISState, offline_rows: Array, online: Buffer, key: Key, steps: int
) -> tuple[EDISState, Metrics]:
    """See `Augmenter.fit`: first the denoiser's steps of a refresh, then the energies'."""
    settle_key, key = jax.random.split(key)
    keys, made = jax.random.split(key, steps), lockstep(state.step) % p.fit_steps
    denoising = jnp.clip(p.config.steps - made, 0, steps)

    def denoiser_step(i: Array, state: EDISState) -> EDISState:
        rows, metrics = p.training.step(state.rows, offline_rows, online, keys[i], ())
        return state._replace(rows=rows, metrics=state.metrics | metrics)

    state = jax.lax.fori_loop(0, denoising, denoiser_step, state)
    state = jax.lax.fori_loop(denoising, steps, lambda i, state: energy_step(p, state, online, keys[i]), state)
    rows = p.training.settle(state.rows, offline_rows, online, settle_key)
    return state._replace(rows=rows, step=state.step + steps), state.metrics


def adopt(p: Parts, state: EDISState, offline_rows: Array, online: Buffer) -> EDISState:
    """See `Augmenter.adopt`: the energies are kept too."""
    return state._replace(rows=p.training.adopt(state.rows, offline_rows, online), step=jnp.zeros((), jnp.int32))


def plain(p: Parts, state: EDISState) -> Denoise:
    """The denoiser that nothing pushes."""
    unlabelled = edm.denoiser(p.network, state.rows.denoiser.ema)
    return lambda x, sigma: unlabelled(x, sigma, None)


def push_of(p: Parts, state: EDISState) -> Push | None:
    """The energies' push of normalised rows; the release's gradients are those of raw units."""
    normaliser = state.rows.denoiser.normaliser
    energies = lambda x, sigma: p.energies(state.energies, x, sigma, normaliser)
    units = 1.0 if p.energies.switches.contrast == "corrected" else normaliser.std
    return energy_push(energies, p.config.kappa, p.energies.masks, units)


def model(p: Parts, state: EDISState, source: int) -> RowModel:
    """See `Augmenter.model`."""
    del source
    guided = pushed(plain(p, state), push_of(p, state), p.energies.switches.kappa_of)
    return row_model(guided, state.rows, p.config, p.spec)


def generate(p: Parts, state: EDISState, key: Key, source: int, rows: int) -> tuple[Array, Metrics]:
    """See `Augmenter.generate`."""
    made, push = model(p, state, source), None
    if p.energies.switches.before_churn and p.config.solver == "heun":
        made, push = made._replace(denoise=plain(p, state)), push_of(p, state)
    return generate_rows(made, p.config, p.layout, key, source, rows, push)


def edis(config: EDISConfig, spec: Spec) -> Augmenter:
    """EDIS's generator as an `Augmenter`; its state is an `EDISState`.

    `init` and `fit` need at least two offline rows and two rows in the online ring.
    """
    p = parts(config, spec)
    return Augmenter(
        init=functools.partial(init, p),
        fit=functools.partial(fit, p),
        generate=functools.partial(generate, p),
        shares={int(Source.SYNTHETIC_ONLINE): 1.0},
        fit_steps=p.fit_steps,
        adopt=functools.partial(adopt, p),
        pretraining=pretraining(edis, config, spec),
        model=functools.partial(model, p),
    )


def _values(preset: Preset, task: Task) -> Values:
    """IQL-EDIS (docs/algorithms.md#edis)."""
    if preset == "paper":
        return {}
    values = reduced_values(preset, task) | {"augment.energy_batch": 64, "augment.negatives": 4}
    if preset == "smoke":
        values |= {"augment.energy_batch": 8, "augment.negatives": 2, "augment.energy_steps": 3}
        values |= {"augment.energy_hidden": (32, 32)}
    return values


ENTRY = Entry(
    EDISConfig,
    edis,
    about="a diffusion model pushed by three energies while it samples (Liu et al. 2024)",
    values=_values,
    check=check_use,
    variants=VARIANTS,
)
