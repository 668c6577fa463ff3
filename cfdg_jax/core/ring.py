"""Rings of packed rows: one matrix, one gather per minibatch, one slice update per insertion, no copies.

Separate leaves for observations, actions and rewards make XLA copy the small leaves whole when a buffer is updated,
gathered from and learnt from in one program; one packed matrix is updated in place (`cfdg-jax bench online`).

Rows are kept as float32, or as the bits of bfloat16 in uint16, which `take` and `numbers` read: XLA on CPU would make
float32 of a whole bfloat16 ring to write one row into it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cfdg_jax.types import Array, Buffer, Key

Rows = TypeVar("Rows", Array, np.ndarray)


def rounded(rows: Rows) -> Rows:
    """Rows as the bits of the nearest bfloat16; what lies inside (-1, 1), as actions must, stays inside."""
    inside = 1.0 - float(jnp.finfo(jnp.bfloat16).epsneg)
    where = np.where if isinstance(rows, np.ndarray) else jnp.where
    return where(abs(rows) < 1.0, rows.clip(-inside, inside), rows).astype(jnp.bfloat16).view(jnp.uint16)


def kept(rows: Array, buffer: Buffer) -> Array:
    """float32 `rows` as `buffer` keeps them."""
    return rounded(rows) if buffer.rows.dtype == jnp.uint16 else rows


def numbers(rows: Rows) -> Rows:
    """Kept rows as float32."""
    return rows.view(jnp.bfloat16).astype(jnp.float32) if rows.dtype == jnp.uint16 else rows


def take(rows: Array, index: Any) -> Array:
    """The kept `rows` `[n, D]` at `index` `[...]`, `[..., D]` float32."""
    return numbers(rows[index])


def empty(capacity: int, width: int, seeds: int | None = None, dtype: DTypeLike = jnp.float32) -> Buffer:
    """An empty ring of `capacity` rows of `width` columns, `[S, C, D]` if `seeds` is given; `dtype` is that of the rows
    kept."""
    shape = (capacity, width) if seeds is None else (seeds, capacity, width)
    return Buffer(jnp.zeros(shape, dtype), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def full(rows: Array) -> Buffer:
    """A ring that holds exactly `rows` `[..., C, D]`; the next insertion overwrites the first."""
    return Buffer(rows, jnp.zeros((), jnp.int32), jnp.asarray(rows.shape[-2], jnp.int32))


def insert(buffer: Buffer, rows: Array) -> Buffer:
    """Writes `rows` `[..., n, D]` (leading axes as the buffer's) at the position, wrapping around; n <= C."""
    capacity, count = buffer.rows.shape[-2], rows.shape[-2]
    if count > capacity:
        raise ValueError(f"cannot insert {count} rows at once into a buffer of capacity {capacity}")
    rows = kept(rows, buffer)
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
    return numbers(buffer.rows[..., (buffer.position - count + jnp.arange(count)) % capacity, :])


def sample(buffer: Buffer, key: Key, count: int) -> Array:
    """`count` rows `[count, D]` drawn uniformly with replacement from a one-seed ring that is not empty."""
    return take(buffer.rows, jax.random.randint(key, (count,), 0, buffer.size))


def sample_recent(buffer: Buffer, key: Key, count: int, window: int) -> Array:
    """`count` rows `[count, D]` drawn uniformly from the `window` newest rows of a one-seed ring."""
    age = jax.random.randint(key, (count,), 0, jnp.minimum(buffer.size, window))
    return take(buffer.rows, (buffer.position - 1 - age) % buffer.rows.shape[0])
