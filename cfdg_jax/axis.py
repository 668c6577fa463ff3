"""Hyper-parameters as an axis: the grid of values that one run trains beside one another, and the lanes it has.

A *lane* is one seed at one point of the grid. Lanes go by points first: all seeds of the first point, then all of the
second. The last field varies fastest. Without such an axis there is one empty point, and a lane is a seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cfdg_jax.errors import require

Axis = Mapping[str, tuple[float, ...]]
"""Values by dotted config field."""
FORM = "such as augment.w=0,0.3,1"


class Lane(NamedTuple):
    """One seed at one point of the grid.

    Attributes:
      seed: The seed's number.
      values: ``{dotted field: value}``; empty without an axis.
    """

    seed: int
    values: Mapping[str, float]

    @property
    def name(self) -> str:
        """``3``, or ``3 at w 0.3``."""
        return f"{self.seed} at {words(self.values)}" if self.values else str(self.seed)


class Lanes(Sequence[Lane]):
    """All lanes of a run, each made when it is asked for: their number may be one that no machine holds."""

    def __init__(self, seeds: range, grid: Sequence[Mapping[str, float]]):
        self._seeds, self._grid = seeds, grid

    def __len__(self) -> int:
        return len(self._seeds) * len(self._grid)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        point, seed = divmod(range(len(self))[index], len(self._seeds))
        return Lane(self._seeds[seed], self._grid[point])


def points(axis: Axis) -> tuple[dict[str, float], ...]:
    """Every combination of the values, the last field fastest."""
    return tuple(dict(zip(axis, values, strict=True)) for values in itertools.product(*axis.values()))


def words(point: Mapping[str, float]) -> str:
    """``w 0.3, expectile 0.7``; fields of equal last names in full."""
    leaves = [path.rpartition(".")[2] for path in point]
    names = [leaf if leaves.count(leaf) == 1 else path for leaf, path in zip(leaves, point, strict=True)]
    return ", ".join(f"{name} {value:g}" for name, value in zip(names, point.values(), strict=True))


def read_axis(value: Any, path: str) -> dict[str, Sequence[Any]]:
    """A mapping, or texts ``FIELD=v1,v2`` (one, or a list of them), as ``{field: values}``; the values as written."""
    if isinstance(value, Mapping):
        for field, values in value.items():
            require(isinstance(values, list | tuple), f"{path}.{field}", f"is {values!r}", "must be a list of values")
        return {str(field): tuple(values) for field, values in value.items()}
    texts = [value] if isinstance(value, str) else value
    require(isinstance(texts, list | tuple), path, f"is {value!r}", f"must be FIELD=v1,v2 {FORM}")
    found: dict[str, Sequence[Any]] = {}
    for text in texts:
        field, equals, values = str(text).partition("=")
        require(bool(field and equals and values), path, f"is '{text}'", f"must be FIELD=v1,v2 {FORM}")
        require(field not in found, path, f"names {field} twice", "give all its values at once")
        found[field.strip().removeprefix("--").replace("-", "_")] = values.split(",")
    return found
