"""Behaviour policies in NumPy, their file, and rolling one out in many environments into rows in D4RL's layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from cfdg_jax.data.files import PathLike
from cfdg_jax.errors import require
from cfdg_jax.types import Env


class Policy(Protocol):
    """Behaviour to log: ``(obs [n, O], rng) -> action [n, A]`` in [-1, 1], all randomness from `rng`."""

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class GaussianPolicy:
    """A tanh-Gaussian actor: ReLU layers, then ``[mean (A), raw log std (A)]``.

    The action is ``tanh(mean + exp(clip(raw, -5, 2)) * eps)``, the convention of this package's SAC.

    Attributes:
      layers: ``(W [in, out], b [out])`` float32, in order.
      step: Environment steps of training.
      mean_return: Its evaluation return when it was saved.
    """

    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    step: int = 0
    mean_return: float = float("nan")

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        x = np.asarray(obs, np.float32)
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight + bias, 0.0)
        mean, raw = np.split(x @ self.layers[-1][0] + self.layers[-1][1], 2, axis=-1)
        noise = rng.standard_normal(mean.shape, np.float32)
        return np.tanh(mean + np.exp(np.clip(raw, -5.0, 2.0)) * noise)


Trained = tuple[int, float, Mapping[str, Any]]
"""``(training step, evaluation return, {"l0": {"kernel": [in, out], "bias": [out]}, ...})``: one seed's actor."""


def save_policies(
    path: PathLike, snapshots: Sequence[Trained], expert: Trained | None = None, dtype: type = np.float16
) -> None:
    """Writes one compressed npz with keys ``<name>/l<i>/W``, ``<name>/l<i>/b``, ``<name>/step``, ``<name>/return``.

    Args:
      path: The file, ending in ``.npz``.
      snapshots: In the order of training, the first untrained, the last the medium policy: ``snapshot0``, ...
      expert: Named ``expert``.
      dtype: Of the weights.
    """
    named = {f"snapshot{k}": trained for k, trained in enumerate(snapshots)} | ({"expert": expert} if expert else {})
    arrays: dict[str, Any] = {}
    for name, (step, mean_return, params) in named.items():
        for i in range(sum(f"l{k}" in params for k in range(len(params)))):
            weight, bias = np.asarray(params[f"l{i}"]["kernel"]), np.asarray(params[f"l{i}"]["bias"])
            require(weight.ndim == 2, f"{name}/l{i}", f"has shape {weight.shape}", "pass one seed's parameters")
            arrays |= {f"{name}/l{i}/W": weight.astype(dtype), f"{name}/l{i}/b": bias.astype(dtype)}
        arrays |= {f"{name}/step": np.asarray(step), f"{name}/return": np.asarray(mean_return)}
    np.savez_compressed(path, **arrays)


def load_policies(path: PathLike) -> dict[str, GaussianPolicy]:
    """What `save_policies` wrote, by name, in float32, snapshots in order."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    names = sorted({key.split("/")[0] for key in arrays}, key=lambda name: (name == "expert", len(name), name))

    def layers(name: str) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        count = sum(key.startswith(f"{name}/l") and key.endswith("/W") for key in arrays)
        entry = lambda i, which: arrays[f"{name}/l{i}/{which}"].astype(np.float32)
        return tuple((entry(i, "W"), entry(i, "b")) for i in range(count))

    describe = lambda name: (int(arrays[f"{name}/step"]), float(arrays[f"{name}/return"]))
    return {name: GaussianPolicy(layers(name), *describe(name)) for name in names}


class _Log:
    """Steps of n environments in order of time, kept until they are put in order of environment."""

    def __init__(self) -> None:
        self.steps: list[tuple[np.ndarray, ...]] = []

    def rows(self, kept: np.ndarray) -> list[np.ndarray]:
        """One array per field; environment i contributes its first `kept[i]` steps, all in a block."""
        columns = [np.stack(field, axis=1) for field in zip(*self.steps, strict=True)]  # [n, T, ...]
        inside = np.arange(len(self.steps)) < kept[:, None]
        return [column[inside] for column in columns]


def collect(
    env: Env,
    policy: Policy,
    rows: int,
    rng: np.random.Generator,
    progress: Callable[[int], object] | None = None,
) -> dict[str, np.ndarray]:
    """Logs `rows` transitions of `policy`.

    Each environment plays until it has its share of the rows and then finishes its episode, so that long episodes are
    neither cut nor left out; the surplus is cut from the end, where one episode may remain unfinished.

    Args:
      env: Environments; they are reset first.
      policy: The behaviour.
      rows: Rows wanted, at least 1.
      rng: The policy's randomness; with freshly seeded environments it determines the result.
      progress: Called with the number of new rows now and then.

    Returns:
      ``observations``, ``actions``, ``rewards``, ``next_observations`` float32 and ``terminals``, ``timeouts`` bool,
      one environment's episodes after the other's. A cut, by the time limit or by `rows`, is a timeout.
    """
    require(rows >= 1, "rows", f"is {rows}", "must be at least 1")
    share, log = -(-rows // env.num), _Log()
    kept = np.zeros(env.num, np.int64)
    playing = np.ones(env.num, bool)
    reported = 0
    obs = env.reset()
    while playing.any():
        action = np.clip(policy(obs, rng), -1.0, 1.0).astype(np.float32)
        step = env.step(action)
        timeout = np.asarray(step.truncated) & ~np.asarray(step.terminal)
        fields = (obs, action, step.reward, step.next_obs)
        log.steps.append((*(np.asarray(x, np.float32) for x in fields), np.asarray(step.terminal), timeout))
        kept += playing
        done = np.asarray(step.terminal) | timeout
        playing &= ~(done & (kept >= share))
        obs = env.reset(done) if done.any() else step.next_obs
        counted = int(np.minimum(kept, share).sum())
        if progress is not None and (counted - reported >= 1000 or not playing.any()):
            progress(min(counted, rows) - reported)
            reported = min(counted, rows)
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    arrays = {name: value[:rows] for name, value in zip(names, log.rows(kept), strict=True)}
    arrays["timeouts"][-1] = not arrays["terminals"][-1]
    return arrays
