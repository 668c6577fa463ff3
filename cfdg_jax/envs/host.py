"""A `PureEnv` stepped from the host, for loops that are written for simulators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.envs.generators import check_seeds
from cfdg_jax.errors import require
from cfdg_jax.types import Array, PureEnv, Step


@functools.cache
def _compiled(pure: PureEnv) -> tuple[Callable, Callable, Callable]:
    """Start, step and observe of many environments, compiled once for all evaluations."""

    def start(keys: Array, episodes: Array, mask: Array, state: Any) -> Any:
        fresh = jax.vmap(pure.reset)(jax.vmap(jax.random.fold_in)(keys, episodes))
        expand = lambda leaf: mask.reshape(mask.shape + (1,) * (leaf.ndim - 1))
        return jax.tree.map(lambda new, old: jnp.where(expand(new), new, old), fresh, state)

    return jax.jit(start), jax.jit(jax.vmap(pure.step)), jax.jit(jax.vmap(pure.observe))


class HostEnv:
    """`cfdg_jax.types.Env` over a `PureEnv`, vmapped and compiled.

    Episode e (from 0) of the environment with seed s starts from the key ``fold_in(key(s), e)``. Loops that compile
    whole phases use `pure` instead. Call `reset` before the first `step`.

    Args:
      pure: The environment.
      seeds: One non-negative seed per environment.
    """

    def __init__(self, pure: PureEnv, seeds: Sequence[int]):
        self.pure = pure
        self.spec = pure.spec
        self.num = len(seeds)
        self._episodes = np.zeros(self.num, np.int32)
        words = [(seed >> 32, seed & 0xFFFFFFFF) for seed in check_seeds(seeds)]  # key(seed) for seeds of 64 bits
        self._keys = jax.random.wrap_key_data(jnp.asarray(words, jnp.uint32), impl="threefry2x32")
        self._start, self._step, self._observe = _compiled(pure)
        empty = jax.eval_shape(jax.vmap(pure.reset), self._keys)
        self._state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), empty)

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Starts new episodes where `mask` `[num]` is True (everywhere by default); returns observations `[num, O]`."""
        mask = np.ones(self.num, bool) if mask is None else np.asarray(mask, bool)
        self._state = self._start(self._keys, self._episodes, mask, self._state)
        self._episodes = self._episodes + mask
        return np.asarray(self._observe(self._state))

    def step(self, action: np.ndarray) -> Step:
        """Steps all environments with `action` `[num, A]`, clipped to [-1, 1]."""
        self._state, result = self._step(self._state, np.asarray(action, np.float32))
        return Step(*(np.asarray(field) for field in result))

    def get_state(self) -> dict[str, np.ndarray]:
        """``episodes`` `[num]` started so far, and the leaves of the environments' states, ``leaf_i`` `[num, ...]`."""
        leaves = {f"leaf_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(self._state))}
        return {"episodes": self._episodes.copy(), **leaves}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continues from what `get_state` returned; `UserError` if it is of another task or number of environments."""
        now = self.get_state()
        for name, leaf in now.items():
            found = np.shape(state[name]) if name in state else None
            require(found == leaf.shape, "environment state", f"holds {name} of shape {found}", f"needs {leaf.shape}")
        leaves = [jnp.asarray(state[f"leaf_{i}"], leaf.dtype) for i, leaf in enumerate(jax.tree.leaves(self._state))]
        self._state = jax.tree.unflatten(jax.tree.structure(self._state), leaves)
        self._episodes = np.array(state["episodes"], np.int32)

    def close(self) -> None:
        """Nothing to free."""
