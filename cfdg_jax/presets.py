"""`make_config`: the one way from choices, a preset and single fields to a config.

``paper``    the protocol of CFDG's Table 1 (arXiv 2508.06806, section 5; docs/algorithms.md for what it leaves open).
``reduced``  the same method at a size that shows its behaviour in minutes to an hour on a few CPU cores.
``smoke``    seconds; only proves that everything runs.

A preset is merged from the values of the run (`run_values`) and those of the four methods (`Entry.values`): agent,
augmenter, mixing rule, stratifier, a later one over an earlier. It depends on the choices alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cfdg_jax.config import REGISTRIES, EnvConfig, OfflineConfig, TrainConfig, entry_of, named_choice
from cfdg_jax.data.load import task_of_name
from cfdg_jax.errors import nearest, require
from cfdg_jax.fields import leaf_paths, override, variant_values
from cfdg_jax.methods import Task, Values
from cfdg_jax.values import PRESETS


def make_config(
    dataset: str | None = None,
    agent: str | None = None,
    augment: str | None = None,
    mix: str | None = None,
    stratify: str | None = None,
    preset: str = "paper",
    **fields: Any,
) -> TrainConfig:
    """The config of a run: choices, then preset, then variants, then single fields.

    Args:
      dataset: Name or path; "" trains from scratch on ``env.task``; None for the default.
      agent: A registered agent; None, here and below, for the first of its registry.
      augment: A generator of synthetic rows.
      mix: A mixing rule; None for the one that goes with the other choices.
      stratify: Who is treated conservatively; None for the one that goes with the agent.
      preset: ``paper``, ``reduced`` or ``smoke``.
      **fields: Any config field by its dotted name, as in ``**{"agent.expectile": 0.9}``, or with two underscores for
        the dot, as in ``agent__expectile=0.9``. Texts are read as on the command line.

    Raises:
      UserError: for an unknown name, field or value, or choices that cannot go together.
    """
    require(preset in PRESETS, "preset", f"'{preset}' is unknown", lambda: nearest(preset, PRESETS))
    given = {name.replace("__", "."): value for name, value in fields.items()}
    chosen = _choices({"agent": agent, "augment": augment, "mix": mix, "stratify": stratify})
    if dataset is not None:
        chosen["dataset"] = str(dataset)
    if dataset == "":  # the task and no pre-training from the start, or the config would refuse itself
        chosen |= {"env": EnvConfig(task=str(given.get("env.task", ""))), "offline": OfflineConfig(steps=0)}
    config = TrainConfig(**chosen)
    values = preset_values(config, preset, str(given.get("env.task", "")) or task_of_name(config.dataset))
    values = {path: value for path, value in values.items() if path in leaf_paths(config)}
    return dataclasses.replace(override(config, values | variant_values(config, given) | given), preset=preset)


def _choices(names: Mapping[str, str | None]) -> dict[str, Any]:
    """Default configs of the named choices; what is not named is the first companion that a named one wants."""
    made: dict[str, Any] = {}
    for field in ("agent", "augment", "stratify", "mix"):  # the mixing rule goes with the other three
        wanted = [entry_of(made[other], other).companions(type(made["agent"])).get(field) for other in made]
        first = next(iter(REGISTRIES[field]))
        made[field] = named_choice(field, names[field] or next(filter(None, wanted), first))
    return made


def preset_values(config: TrainConfig, preset: str, task_name: str) -> Values:
    """Every value of `preset` for the choices of `config`, by dotted path; the run may lack some of the fields."""
    entries = {field: entry_of(getattr(config, field), field) for field in REGISTRIES}
    pretrains = entries["agent"].pretrains and config.dataset != ""
    task = Task(task_name, task_family(task_name), type(config.agent), config.dataset != "", pretrains)
    values = run_values(preset, task)
    for entry in entries.values():
        values |= entry.values(preset, task)  # type: ignore[arg-type]
    if config.dataset == "":  # nothing to fit them on
        values |= {"transform.reward": "raw", "transform.observation": "none"}
    return values


def task_family(task: str) -> Any:
    """The family of an environment id such as ``hopper``."""
    for family in ("antmaze", "toy"):
        if task.startswith(family):
            return family
    if task in ("door", "pen", "hammer", "relocate"):
        return "adroit"
    return "locomotion" if task in ("hopper", "halfcheetah", "walker2d", "ant") else "other"


def run_values(preset: str, task: Task) -> dict[str, Any]:
    """What a preset says of the run itself, whatever the methods."""
    antmaze, toy = task.family == "antmaze", task.family == "toy"
    values: dict[str, Any] = {
        "transform.reward": "minus_one" if antmaze else "raw",  # docs/algorithms.md#transforms: PEX, CFDG's bases, RLPD
        "transform.observation": "none",
        "evaluate.episodes": 100 if antmaze else 20 if toy else 10,  # docs/algorithms.md#evaluation
        "evaluate.online_every": 50_000 if antmaze else 10_000,
        "evaluate.offline_every": 100_000 if antmaze else 50_000,  # IQL: 100K AntMaze; locomotion thinned from 5K
    }
    if not task.pretrains:
        values |= {"offline.steps": 0, "online.random_steps": 5_000}  # SAC, REDQ, RLPD: until updates begin
    if preset != "paper":
        values |= _reduced(task)
    if preset == "smoke":
        values |= _smoke(task)
    return values


def _reduced(task: Task) -> dict[str, Any]:
    values: dict[str, Any] = {
        "offline.steps": 20_000,
        "online.steps": 20_000,
        "online.start_steps": 1_000,
        "online.capacity": 100_000,
        "refresh.every": 5_000,
        "refresh.min_online": 1_000,
        "refresh.rows": 20_000,
        "refresh.capacity": 100_000,
        "refresh.chunk": 5_000,
        "evaluate.offline_every": 5_000,
        "evaluate.online_every": 2_500,
        "seeds": 3,
    }
    if not task.pretrains:
        values |= {"offline.steps": 0, "online.steps": 100_000, "online.random_steps": 1_000}
        values |= {"evaluate.online_every": 5_000}
    if task.family == "toy":
        values |= {"offline.steps": 4_000 if task.pretrains else 0, "online.steps": 4_000}
        values |= {"online.start_steps": 500, "online.capacity": 10_000}
        values |= {"refresh.every": 2_000, "refresh.min_online": 500}
        values |= {"refresh.rows": 5_000, "refresh.capacity": 10_000}
        values |= {"evaluate.offline_every": 1_000, "evaluate.online_every": 1_000}
    return values


def _smoke(task: Task) -> dict[str, Any]:
    return {
        "offline.steps": 400 if task.pretrains else 0,
        "offline.updates_per_call": 50,
        "mix.batch_size": 64,
        "online.steps": 400,
        "online.start_steps": 100,
        "online.capacity": 1_000,
        "refresh.every": 200,
        "refresh.min_online": 100,
        "refresh.rows": 500,
        "refresh.capacity": 1_000,
        "refresh.chunk": 250,
        "refresh.fit_steps_per_call": 50,
        "evaluate.offline_every": 200,
        "evaluate.online_every": 200,
        "evaluate.episodes": 2,
        "log.every": 100,
        "seeds": 2,
    } | ({} if task.pretrains else {"online.random_steps": 100})
