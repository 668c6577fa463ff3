"""What all generators share beside their network: the config of the denoiser, preset values, and warnings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from cfdg_jax.diffusion.network import Precision
from cfdg_jax.diffusion.samplers import Solver
from cfdg_jax.errors import require
from cfdg_jax.methods import Entry, Preset, Task
from cfdg_jax.values import changed

RowSolver = Literal["heun", "dpm++2m", "dpm++2m-sde", "dpm++3m"]
Rows = Literal["online", "offline", "pooled"]
"""Real rows that a generator learns; pooled: half of each batch offline, half online."""


@dataclasses.dataclass(frozen=True)
class DenoiserConfig:
    """Network, training and sampler of transitions; the values are those of docs/algorithms.md#synther, online."""

    width: int = 1024  # units of the residual blocks
    steps: int = 100_000  # optimiser steps of a refresh
    pretrain_steps: int = 0  # on the offline rows, once for all seeds; refreshes go on from there; 0: from scratch
    batch: int = 256  # rows per step
    lr: float = 3e-4  # AdamW, cosine to 0 over the steps of a fit
    ema_share: float = 0.02  # window of the averaged weights that sample, as a share of a fit's steps; 0: no average
    recent_window: int = 0  # newest online rows that count as online data; 0: all
    solver: RowSolver = "heun"  # the dpm++ kinds need one evaluation a step instead of two
    sampler_steps: int = 128  # N: 2 N - 1 evaluations of heun (32 is the fast choice), N of dpm++
    churn: float = 80.0  # S_churn of heun; 0 samples deterministically
    next_obs: Literal["absolute", "change"] = "absolute"  # change: models s' - s, whose scale a short fit gets right
    precision: Precision = "default"  # of matrix products; bfloat16 on accelerators trades accuracy for speed

    def __post_init__(self) -> None:
        minima = {"width": 1, "steps": 1, "batch": 2, "sampler_steps": 2}
        minima |= dict.fromkeys(("pretrain_steps", "recent_window", "churn"), 0)
        for name, least in minima.items():
            value = getattr(self, name)
            require(value >= least, f"augment.{name}", f"is {value}", f"must be at least {least}")
        require(self.recent_window != 1, "augment.recent_window", "is 1", "must be 0 (all rows) or at least 2")
        require(self.lr > 0, "augment.lr", f"is {self.lr}", "must be positive")
        require(0 <= self.ema_share <= 1, "augment.ema_share", f"is {self.ema_share}", "must lie between 0 and 1")

    @property
    def fitted_to(self) -> Rows:
        """The rows that the generator learns."""
        return "pooled"

    def check_without_agent(self, loose: bool = False) -> None:
        """Refuses, with a `UserError`, what a generator can be only in a run, where there is an agent to ask.

        Args:
          loose: Whether it is fitted to rows of no trajectory, whose returns nobody knows.
        """

    @property
    def embedding(self) -> int:
        """Units of the embeddings of noise level and label: a quarter of the width, at least 16."""
        return max(16, self.width // 4)

    @property
    def in_one_fit(self) -> DenoiserConfig:
        """The config of a generator that is fitted once: as many steps as pre-training and a refresh together."""
        return changed(self, {"steps": self.pretrain_steps + self.steps, "pretrain_steps": 0})

    @property
    def sampler(self) -> Solver:
        return Solver(steps=self.sampler_steps, kind=self.solver, churn=self.churn)


def even_batch(config: DenoiserConfig, where: str = "") -> None:
    """Refuses a batch that has no half."""
    remedy = f"must be even{where}: half offline, half online"
    require(config.batch % 2 == 0, "augment.batch", f"is {config.batch}", remedy)


def reduced_values(preset: Preset, task: Task) -> dict[str, Any]:
    """A denoiser for a few CPU cores (docs/algorithms.md#refresh)."""
    if preset == "paper":
        return {}
    values: dict[str, Any] = {
        "augment.width": 256,
        "augment.pretrain_steps": 10_000 if task.has_data else 0,
        "augment.steps": 1_000 if task.has_data else 3_000,
        "augment.lr": 2e-3,  # a fit of thousands of steps has no time for the 3e-4 of 100,000
        "augment.ema_share": 0.02,
        "augment.solver": "dpm++3m",  # at 24 evaluations as good as heun's 255 (benchmarks/results/samplers.md)
        "augment.sampler_steps": 24,
        "augment.churn": 0.0,
        "augment.next_obs": "change",  # one-step errors a third of those of s' itself after 2,000 fit steps
    }
    if preset == "smoke":
        values |= {"augment.width": 32, "augment.steps": 100, "augment.sampler_steps": 8}
        values |= {"augment.pretrain_steps": 100 if task.has_data else 0}
    return values


def check_use(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    """Warns of rows that are never generated, or never used; refuses to pre-train on nothing."""
    found = f"is {config.augment.pretrain_steps} and there is no dataset"
    require(config.dataset != "" or not config.augment.pretrain_steps, "augment.pretrain_steps", found, "use 0")
    if config.online.steps and first_refresh(config) is None:
        yield "no refresh comes before the end, so no row is generated; lower refresh.every or min_online"
    if config.mix.composition == "fixed" and config.mix.synthetic_share == 0.0:
        yield "generated rows are in no batch; raise mix.synthetic_share, or use --augment none"


def first_refresh(config: Any) -> int | None:
    """The online step of the first refresh, None if the run ends before: a whole batch of online rows must be there."""
    refresh, online = config.refresh, config.online
    least = max(refresh.min_online, config.mix.batch_size)
    step = -(-least // refresh.every) * refresh.every
    late = step > online.steps if refresh.last else step >= online.steps
    return None if late or online.capacity < least else step
