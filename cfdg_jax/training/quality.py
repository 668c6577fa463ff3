"""How good the rows of a refresh are, seed by seed."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import numpy as np

from cfdg_jax.augment.quality import Ended, Simulate, quality_report
from cfdg_jax.core import ring
from cfdg_jax.data.transforms import (
    ObservationTransform,
    RewardTransform,
    apply_observation,
    apply_reward,
    invert_observation,
)
from cfdg_jax.envs.onestep import one_step, termination
from cfdg_jax.training.generate import synthetic_rows
from cfdg_jax.training.program import Program
from cfdg_jax.types import Source, TrainState

CHECKED = {"samples": 500, "searched": 5_000}
"""Rows that `quality_report` compares, and searches for neighbours, at a refresh."""


def check_rows(program: Program, state: TrainState) -> dict[str, np.ndarray]:
    """How good the newest rows of every seed are, ``{"<source>/<measure>": [S]}`` (`cfdg_jax.augment.quality`)."""
    offline = ring.numbers(np.asarray(program.offline_rows))
    gathered = ring.numbers(np.asarray(state.online.rows)[:, : int(state.online.size)])
    new = synthetic_rows(program)
    made = {source: np.asarray(ring.newest(buffer, new[source])) for source, buffer in state.synthetic.items()}
    simulate, ended = true_steps(program, made), rule_of(program)
    reports = []
    for seed in range(len(program.config.lanes)):
        online = gathered[seed]
        report: dict[str, float] = {}
        for source in made:
            rows = made[source][seed]
            if len(rows) >= 2 and np.isfinite(rows[:, : program.spec.layout.terminal]).all():
                known = offline if len(offline) else None
                measured = quality_report(rows, program.spec.layout, known, online, simulate[source], ended, **CHECKED)
                report |= {f"{Source(source).name.lower()}/{name}": value for name, value in measured.items()}
        reports.append(report)
    names = dict.fromkeys(name for report in reports for name in report)
    return {name: np.array([report.get(name, np.nan) for report in reports]) for name in names}


def true_steps(program: Program, sources: Iterable[int]) -> dict[int, Simulate | None]:
    """One step of the true dynamics in the units of each source's rows; None where observations do not tell states."""
    step = one_step(program.config.env.task, "d4rl" if program.config.env.dynamics == "d4rl" else "gymnasium")
    units = jax.tree.map(np.asarray, program.transforms)
    rewards = {s: units.online_reward if s == Source.SYNTHETIC_ONLINE else units.reward for s in sources}
    return {s: step and _in_units(step, units.observation, reward) for s, reward in rewards.items()}


def rule_of(program: Program) -> Ended | None:
    """The task's own rule of termination in the units of the rows; None where there is none to ask."""
    rule, units = termination(program.config.env.task), jax.tree.map(np.asarray, program.transforms)
    return rule and (lambda obs: rule(invert_observation(units.observation, obs)))


def _in_units(step: Simulate, observation: ObservationTransform, reward_transform: RewardTransform) -> Simulate:
    """`step` in the units of the rows."""

    def simulate(obs: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        next_obs, reward = step(invert_observation(observation, obs), action)
        return apply_observation(observation, next_obs), apply_reward(reward_transform, reward)

    return simulate
