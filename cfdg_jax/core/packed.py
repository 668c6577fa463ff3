"""Parameters packed: the small arrays of a network in one vector, its large ones apart.

A network has many small arrays, and each costs its own kernels in an optimiser's step and a target's average. In one
vector they cost as many as one array. Large arrays stay as they are: products read them where they lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cfdg_jax.types import Array, Params

LARGE = 1 << 14
"""Elements from which an array stays apart: copying it would cost more than its kernels."""
Path = tuple[str, ...]
Layout = tuple[tuple[Path, tuple[int, ...]], ...]
"""Path and shape of each small array, in the order of the vector."""


@jax.tree_util.register_pytree_with_keys_class
class Packed(Mapping[str, Any]):
    """A network's parameters, read like the dictionary that they pack; leading axes, such as Q or S, may be any.

    Attributes:
      small: `[..., n]`, the small arrays one after the other.
      large: ``{"l1/kernel": [..., in, out]}``, the others by path.
      layout: Of `small`.
    """

    def __init__(self, small: Any, large: dict[str, Any], layout: Layout):
        self.small, self.large, self.layout = small, large, layout

    def tree_flatten_with_keys(self) -> tuple[tuple, Layout]:
        """Both parts, named, and the layout."""
        key = jax.tree_util.GetAttrKey
        return ((key("small"), self.small), (key("large"), self.large)), self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, children: tuple) -> Packed:
        """The inverse of `tree_flatten_with_keys`."""
        small, large = children
        return cls(small, large, layout)

    @jax.named_scope("unpack")
    def unpacked(self) -> dict[str, Any]:
        """The dictionary of arrays."""
        tree: dict[str, Any] = {}
        place, lead = 0, self.small.shape[:-1]
        for path, shape in self.layout:
            size = math.prod(shape)
            _put(tree, path, self.small[..., place : place + size].reshape(*lead, *shape))
            place += size
        for name, array in self.large.items():
            _put(tree, tuple(name.split("/")), array)
        return tree

    @jax.named_scope("join")
    def repacked(self, tree: Params) -> Packed:
        """`tree` of arrays, such as a gradient by `unpacked`, in this layout."""
        lead = self.small.shape[:-1]
        parts = [_get(tree, path).reshape(*lead, -1) for path, _ in self.layout]
        return Packed(
            jnp.concatenate(parts, axis=-1), {name: _get(tree, name.split("/")) for name in self.large}, self.layout
        )

    def __getitem__(self, name: str) -> Any:
        return self.unpacked()[name]

    def __iter__(self) -> Iterator[str]:
        names = [path[0] for path, _ in self.layout] + [name.split("/")[0] for name in self.large]
        return iter(sorted(set(names)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __eq__(self, other: object) -> bool:
        """Part by part, whatever stands in the place of arrays: `jax.tree.map` may have made shapes of them."""
        if not isinstance(other, Packed):
            return NotImplemented
        return (self.small, self.large, self.layout) == (other.small, other.large, other.layout)

    __hash__ = None  # type: ignore[assignment]


def pack(tree: Mapping[str, Any]) -> Packed:
    """The parameters of one network, a nested dictionary of arrays without leading axes."""
    leaves = [(_names(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(dict(tree))]
    small = {path: leaf for path, leaf in leaves if leaf.size < LARGE}
    large = {"/".join(path): leaf for path, leaf in leaves if leaf.size >= LARGE}
    vector = jnp.concatenate([leaf.reshape(-1) for leaf in small.values()])
    return Packed(vector, large, tuple((path, leaf.shape) for path, leaf in small.items()))


def unpack(params: Params) -> Params:
    """The dictionary of arrays of packed parameters; others as they are."""
    return params.unpacked() if isinstance(params, Packed) else params


def gradient_of(params: Params, tree: Params) -> Params:
    """A gradient by ``unpack(params)`` in the layout of `params`."""
    return params.repacked(tree) if isinstance(params, Packed) else tree


def _names(path: tuple[Any, ...]) -> Path:
    return tuple(str(part.key) for part in path)


def _put(tree: dict[str, Any], path: Path, array: Array) -> None:
    *outer, last = path
    for name in outer:
        tree = tree.setdefault(name, {})
    tree[last] = array


def _get(tree: Any, path: Any) -> Array:
    for name in path:
        tree = tree[name]
    return tree
