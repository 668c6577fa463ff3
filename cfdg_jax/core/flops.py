"""What a traced program will take: FLOP of its matrix products, and its largest array."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from cfdg_jax.errors import require


def product_flop(function: Callable, *args: Any, delay: int = 1) -> float:
    """FLOP of the matrix products in ``function(*args)`` on all its devices, scans times their length.

    Args:
      function: Traceable; constants are bound.
      delay: A conditional takes its dearest branch in one call of `delay`, its cheapest in the others.
    """
    return _flop_in(jax.make_jaxpr(function)(*args).jaxpr, delay)


def _flop_in(jaxpr: Jaxpr, delay: int) -> float:
    return sum(_flop_of(equation, delay) for equation in jaxpr.eqns)


def _flop_of(equation: Any, delay: int) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    inside = [_flop_in(_plain(inner), delay) for inner in _jaxprs(params)]
    if name == "cond":
        return (max(inside) + (delay - 1) * min(inside)) / delay
    require(name != "while" or sum(inside) == 0.0, name, "loops over products unknown times", "count it by hand")
    times = params["mesh"].size if name == "shard_map" else params.get("length", 1)  # of one device, or of one turn
    return times * sum(inside)


def _jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr | ClosedJaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, Jaxpr | ClosedJaxpr):
                yield one


def _plain(jaxpr: Jaxpr | ClosedJaxpr) -> Jaxpr:
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


def largest_in_turn(jaxpr: Jaxpr) -> int:
    """`largest_array` of one turn of the scans of a program, or of all of it where it has none."""
    scans = [equation.params for equation in jaxpr.eqns if equation.primitive.name == "scan"]
    turns = [largest_array(_plain(inner)) for params in scans for inner in _jaxprs(params)]
    return max(turns, default=0) or largest_array(jaxpr)


def largest_array(jaxpr: Jaxpr) -> int:
    """Bytes of the largest array that a traced program computes on the way: its scratch is hardly less."""
    sizes = [0]
    for equation in jaxpr.eqns:
        arrays: list[Any] = [variable.aval for variable in equation.outvars]
        sizes += [array.size * array.dtype.itemsize for array in arrays if hasattr(array, "dtype")]
        for inner in _jaxprs(equation.params):
            sizes.append(largest_array(_plain(inner)))
    return max(sizes)
