"""Rings of packed rows: one matrix, one gather per minibatch, one slice update per insertion, no copies.

Separate leaves for observations, actions and rewards make XLA copy the small leaves whole when a buffer is updated,
gathered from and learnt from in one program; one packed matrix is updated in place (`cfdg-jax bench online`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cfdg_jax.types import Array, Buffer, Key


def empty(capacity: int, width: int, seeds: int | None = None) -> Buffer:
    """An empty ring of `capacity` rows of `width` columns, `[S, C, D]` if `seeds` is given."""
    shape = (capacity, width) if seeds is None else (seeds, capacity, width)
    return Buffer(jnp.zeros(shape, jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def full(rows: Array) -> Buffer:
    """A ring that holds exactly `rows` `[..., C, D]`; the next insertion overwrites the first."""
    return Buffer(rows, jnp.zeros((), jnp.int32), jnp.asarray(rows.shape[-2], jnp.int32))


def insert(buffer: Buffer, rows: Array) -> Buffer:
    """Writes `rows` `[..., n, D]` (leading axes as the buffer's) at the position, wrapping around; n <= C."""
    capacity, count = buffer.rows.shape[-2], rows.shape[-2]
    if count > capacity:
        raise ValueError(f"cannot insert {count} rows at once into a buffer of capacity {capacity}")
    if count == 1:
        start: list[Array | int] = [*(0 for _ in buffer.rows.shape[:-2]), buffer.position, 0]
        data = jax.lax.dynamic_update_slice(buffer.rows, rows, start)
    else:
        index = (buffer.position + jnp.arange(count)) % capacity
        data = buffer.rows.at[..., index, :].set(rows)
    return Buffer(
        data, (buffer.position + count) % capacity, jnp.minimum(buffer.size + count, capacity).astype(jnp.int32)
    )


def newest(buffer: Buffer, count: int) -> Array:
    """The `count` newest rows `[..., count, D]`, oldest first; there must be as many."""
    capacity = buffer.rows.shape[-2]
    return buffer.rows[..., (buffer.position - count + jnp.arange(count)) % capacity, :]


def sample(buffer: Buffer, key: Key, count: int) -> Array:
    """`count` rows `[count, D]` drawn uniformly with replacement from a one-seed ring that is not empty."""
    return buffer.rows[jax.random.randint(key, (count,), 0, buffer.size)]


def sample_recent(buffer: Buffer, key: Key, count: int, window: int) -> Array:
    """`count` rows `[count, D]` drawn uniformly from the `window` newest rows of a one-seed ring."""
    age = jax.random.randint(key, (count,), 0, jnp.minimum(buffer.size, window))
    return buffer.rows[(buffer.position - 1 - age) % buffer.rows.shape[0]]
