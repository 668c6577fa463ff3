"""Trained policies as plain arrays, which a few lines of NumPy can act with (docs/use.md)."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cfdg_jax.errors import UserError, require
from cfdg_jax.training.logging import write_atomic
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.results import Run, actor

SQUASHES = ("tanh", "clip")
TOLERANCE = 1e-4
"""Largest difference of an action, in [-1, 1], from the run's own: float32 products in another order."""


def act(policy: Mapping[str, np.ndarray], obs: np.ndarray, seed: int = 0) -> np.ndarray:
    """Actions `[..., A]` of an exported policy at raw observations `[..., O]`."""
    x, last = (obs - policy["obs_mean"]) / policy["obs_scale"], sum(name.startswith("kernel") for name in policy) - 1
    for i in range(last + 1):
        x = x @ policy[f"kernel{i}"][seed] + policy[f"bias{i}"][seed]
        x = np.maximum(x, 0.0) if i < last else x
    return np.tanh(x) if str(policy["squash"]) == "tanh" else np.clip(x, -1.0, 1.0)


def export(run: Run, path: pathlib.Path) -> pathlib.Path:
    """Writes the evaluation policies of a run's newest checkpoint; returns `path`.

    The file holds ``kernel0 [S, in, out]``, ``bias0 [S, out]`` and so on, ``obs_mean`` and ``obs_scale`` `[O]`, the
    ``squash`` of the last layer and the ``seeds``. It is compared with the run's own actions before it is written. A
    seed that diverged keeps its place and is not finite; a warning names it.

    Raises:
      UserError: if the policy is more than one multilayer perceptron, or all seeds diverged.
    """
    require(path.suffix == ".npz", "--out", f"is {path}", "must end with .npz")
    program, agent, record = run.acting()
    arrays = layers(getattr(agent, "policy", None), program.spec.act_dim)
    if not arrays:
        raise _not_plain(run)
    whole = np.all([np.isfinite(each).reshape(len(each), -1).all(axis=1) for each in arrays.values()], axis=0)
    remedy = "look in its metrics.jsonl for what grew first, and export another run"
    require(bool(whole.any()), str(run.folder), "all its seeds diverged: no policy is finite", remedy)
    observation = program.transforms.observation
    shape = (program.spec.obs_dim,)
    arrays |= {"obs_mean": np.broadcast_to(np.asarray(observation.mean, np.float32), shape)}
    arrays |= {"obs_scale": np.broadcast_to(np.asarray(observation.scale, np.float32), shape)}
    obs = np.random.default_rng(0).normal(size=(len(run.config.lanes), 64, *shape)) * arrays["obs_scale"]
    obs = (obs + arrays["obs_mean"]).astype(np.float32)
    own = actor(program, agent, record)(obs)
    for squash in SQUASHES:
        made = arrays | {"squash": np.asarray(squash)}
        theirs = np.stack([act(made, obs[seed], seed) for seed in range(len(run.config.lanes))])
        if np.abs(own - theirs)[whole].max() < TOLERANCE:
            break
    else:
        raise _not_plain(run)
    packed, kept = io.BytesIO(), dict[str, Any](made)
    np.savez(packed, **kept, seeds=[lane.seed for lane in run.config.lanes])
    write_atomic(path, packed.getvalue())
    for lost in np.flatnonzero(~whole):
        Progress(False).warn(f"warning: seed {run.lanes[lost].name} diverged; its policy in {path} is not finite")
    return path


def layers(policy: Any, act_dim: int) -> dict[str, np.ndarray]:
    """The layers of a `cfdg_jax.core.networks` policy, the last one cut to the mean action; empty for anything else."""
    found: dict[str, np.ndarray] = {}
    for i in range(sum(name.startswith("l") and name[1:].isdigit() for name in policy or ())):
        layer = policy[f"l{i}"]
        found |= {f"kernel{i}": np.asarray(layer["kernel"]), f"bias{i}": np.asarray(layer["bias"])}
    last = len(found) // 2 - 1
    if last >= 0:
        for name in (f"kernel{last}", f"bias{last}"):
            found[name] = found[name][..., :act_dim]
    return found


def _not_plain(run: Run) -> UserError:
    problem = f"the policy of {run.config.name} is no single perceptron, so plain arrays cannot act as it does"
    return UserError(str(run.folder), problem, "use Run.policy() from Python, or an offline checkpoint of the run")
