"""The seed axis, added once: every algorithm is written for one seed, and these two functions make it many.

Keys are never carried and split along the way. A draw's key is ``fold_in(fold_in(run_key, seed), purpose)`` with the
step folded in where it is used, so a resumed run needs no key history, and seed i of an S-seed run draws exactly what
a single-seed run of seed i draws.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cfdg_jax.types import Array, Key

SeedAxis = Literal["vmap", "scan"]


def seed_keys(run_key: int, seeds: int, first_seed: int = 0) -> Key:
    """Keys `[S]` of seeds ``first_seed .. first_seed + seeds - 1`` of the run numbered `run_key`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(run_key), first_seed + jnp.arange(seeds))


def purpose_key(key: Key, purpose: str, step: Array | int | None = None) -> Key:
    """One seed's key for a named purpose and, if given, a step; the purpose is hashed, so names are order-free."""
    key = jax.random.fold_in(key, zlib.crc32(purpose.encode()) & 0x7FFFFFFF)
    return key if step is None else jax.random.fold_in(key, step)


def purpose_keys(keys: Key, purpose: str, step: Array | int | None = None) -> Key:
    """`purpose_key` for all seeds: keys `[S]` -> keys `[S]`."""
    return jax.vmap(lambda key: purpose_key(key, purpose, step))(keys)


def over_seeds(fn: Callable, in_axes: Sequence[int | None], how: SeedAxis = "vmap") -> Callable:
    """Runs a one-seed function over the leading seed axis of the arguments whose `in_axes` entry is 0.

    Args:
      fn: One-seed function of positional arguments.
      in_axes: 0 for arguments with a leading seed axis, None for shared ones, one entry per argument.
      how: ``vmap`` batches the seeds, ``scan`` runs them one after the other inside the same program.
    """
    batched = jax.vmap(fn, tuple(in_axes)) if how == "vmap" else _scanned(fn, in_axes)

    def run(*args: Any) -> Any:
        seeded = [arg for arg, axis in zip(args, in_axes, strict=True) if axis == 0]
        if {leaf.shape[0] for leaf in jax.tree.leaves(seeded)} != {1}:
            return batched(*args)
        # A batched product of one is a third slower.
        off = lambda tree: jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), tree)
        alone = fn(*(off(arg) if axis == 0 else arg for arg, axis in zip(args, in_axes, strict=True)))
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], alone)

    return run


def _scanned(fn: Callable, in_axes: Sequence[int | None]) -> Callable:
    def run(*args: Any) -> Any:
        def one(seeded: list) -> Any:
            it = iter(seeded)
            return fn(*(next(it) if axis == 0 else arg for arg, axis in zip(args, in_axes, strict=True)))

        return jax.lax.map(one, [arg for arg, axis in zip(args, in_axes, strict=True) if axis == 0])

    return run
