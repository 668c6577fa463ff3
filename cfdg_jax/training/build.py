"""From a config to the program of a run: data and methods, refusing what cannot work before anything is computed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.config import TrainConfig, resolved
from cfdg_jax.core import ring
from cfdg_jax.data.check import check_fits, doubts
from cfdg_jax.data.dataset import Dataset
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.data.returns import ReturnRule
from cfdg_jax.data.transforms import Transforms, fit_transforms
from cfdg_jax.envs.agreement import agreement
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.errors import require
from cfdg_jax.training.controls import check_control
from cfdg_jax.training.devices import mesh_of, placed
from cfdg_jax.training.lanes import make_methods, settings_of
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.training.traceable import require_one_program
from cfdg_jax.types import Spec


def build_program(
    config: TrainConfig, spec: Spec, transforms: Transforms, rows: np.ndarray, acts_only: bool = False
) -> Program:
    """Makes the methods of `config` and puts the offline rows `[N, D]` (N may be 0) on the device, once.

    Args:
      config: The run's, environment and dynamics resolved.
      spec: The task.
      transforms: Fitted.
      rows: Offline rows.
      acts_only: Of a program that will never learn: its rows may be missing.

    Raises:
      UserError: for a method that needs offline rows where there are none, or an axis that no program can have.
    """
    settings, mesh = settings_of(config), mesh_of(config)
    rows = ring.rounded(rows) if config.row_dtype == "bfloat16" else rows
    methods = make_methods(config, spec, {path: values[0] for path, values in settings.items()})
    require(
        acts_only or not methods["stratifier"].stages or rows.shape[0] > 0,
        "stratify",
        "is trained on offline data before the online phase, but there is no dataset",
        "name one with --dataset, or use --stratify none",
    )
    augmenter, capacity = methods["augmenter"], config.online.capacity
    if (
        augmenter.shares and not acts_only
    ):  # traced now, so that data it cannot learn from are refused before the run and not within it
        empty = jax.eval_shape(lambda: ring.empty(capacity, rows.shape[1], dtype=rows.dtype))
        jax.eval_shape(augmenter.init, jax.random.key(0), jax.ShapeDtypeStruct(rows.shape, rows.dtype), empty)
    program = Program(
        config=config,
        spec=spec,
        transforms=jax.tree.map(jnp.asarray, transforms),
        # device_put takes over what `pack` aligned; jnp.asarray copies it
        offline_rows=jax.device_put(placed(mesh, rows, copied=True)),
        returns=return_rule(config),
        settings=placed(mesh, settings),
        mesh=mesh,
        **methods,
    )
    if not acts_only:
        check_control(program)
    if settings and not acts_only:
        require_one_program(program, return_rule)
    return program


def discount_of(agent: Any) -> float:
    """The discount of the returns-to-go of a run with the agent's config; one that learns no values has none: 0.99."""
    fields = {field.name for field in dataclasses.fields(agent)}
    return agent.discount if "discount" in fields else 0.99


def load_program(
    config: TrainConfig, progress: Progress, clock: Stopwatch, transforms: Transforms | None = None
) -> Program:
    """Loads the data and builds the program; its config has environment and dynamics resolved.

    Args:
      config: The run's.
      progress: Shows how the data come, and what about them looks wrong when a run begins.
      clock: Counts the time.
      transforms: Those that the run was begun with; None begins it and fits them on the data.

    Raises:
      UserError: for data that cannot be read or do not fit the environment, or devices that are not here.
    """
    mesh_of(config)  # refused before the data are read
    with clock("data"):
        if config.dataset == "":
            config = _with_env(config, config.env.task, "gymnasium")
            spec = spec_of(config.env.task, config.env.dynamics, config.env.backend)
            rows = np.zeros((0, spec.layout.width), np.float32)
            fitted = fitted_transforms(config, None, spec.obs_dim) if transforms is None else transforms
            return build_program(config, spec, fitted, rows)
        dataset = load_dataset(config.dataset, progress=progress.shown)
        task = config.env.task or dataset.task
        require(bool(task), "env.task", f"{config.dataset} names no environment", "set it, such as --env.task hopper")
        config = _with_env(config, task, dataset.dynamics)
        spec = spec_of(config.env.task, config.env.dynamics, config.env.backend)
        check_fits(dataset, spec, config.env.task)
        if transforms is None:
            _tell_doubts(dataset, spec, config, progress)
        fitted = fitted_transforms(config, dataset, spec.obs_dim) if transforms is None else transforms
        return build_program(config, spec, fitted, offline_rows(config, dataset, fitted))


def _tell_doubts(dataset: Dataset, spec: Spec, config: TrainConfig, progress: Progress) -> None:
    """Warns of what looks wrong about the data, and of an environment that does not do what they say."""
    for words in doubts(dataset, spec):
        progress.warn(f"warning: {dataset.name}: {words}")
    found = agreement(dataset, config.env.task, config.env.dynamics)
    if found.warning:
        progress.warn(f"warning: {found.warning}")
    elif found.rows and not dataset.loose:
        progress.say(f"{found.rows} rows replayed in {found.compared} agree with it")
    for note in found.notes:
        progress.say(f"note: {note}")


def offline_rows(config: TrainConfig, dataset: Dataset, transforms: Transforms) -> np.ndarray:
    """The dataset as packed rows `[N, D]`, returns-to-go included."""
    return pack(dataset, transforms, return_rule(config))


def return_rule(config: TrainConfig) -> ReturnRule:
    """The rule of the run's returns-to-go, offline and online; its failure reward is raw."""
    rule, discount = config.transform, discount_of(resolved(config)["agent"])
    return ReturnRule(discount, rule.failure_reward, rule.failure_rule, rule.truncation)


def fitted_transforms(config: TrainConfig, dataset: Dataset | None, obs_dim: int) -> Transforms:
    """The transforms of `config` fitted on `dataset`."""
    rule = config.transform
    linear = (rule.scale, rule.bias)
    return fit_transforms(dataset, rule.reward, rule.observation, linear, rule.online_reward, obs_dim)


def _with_env(config: TrainConfig, task: str, dynamics: Any) -> TrainConfig:
    """`config` with its environment resolved; the dynamics are those given where the config says ``auto``."""
    asked = config.env.dynamics
    dynamics = dynamics if asked == "auto" else asked
    return dataclasses.replace(config, env=dataclasses.replace(config.env, task=task, dynamics=dynamics))
