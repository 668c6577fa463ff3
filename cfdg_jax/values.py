"""Values of config fields from the texts that users write; imports nothing heavy, so that wrong ones are told
at once.
"""

from __future__ import annotations

import copy
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from cfdg_jax.axis import read_axis
from cfdg_jax.errors import UserError, nearest, require

PRESETS = ("paper", "reduced", "smoke")
"""Where the values of a run start from; `cfdg_jax.presets` says what each is."""
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "unit": (lambda x: 0.0 <= x <= 1.0, "must lie in [0, 1]"),
    "inside": (lambda x: 0.0 < x < 1.0, "must lie strictly between 0 and 1"),
    "rate": (lambda x: 0.0 < x <= 1.0, "must lie in (0, 1]"),
    "below_one": (lambda x: 0.0 <= x < 1.0, "must lie in [0, 1)"),
    "positive": (lambda x: x > 0.0, "must be positive"),
    "not_negative": (lambda x: x >= 0.0, "must not be negative"),
    "at_least_one": (lambda x: x >= 1, "must be at least 1"),
    "at_least_two": (lambda x: x >= 2, "must be at least 2"),
    "widths": (lambda x: x > 0, "must hold positive widths"),
}
"""Ranges of numbers by name, and how they are told."""
COMMON = {"discount": "unit", "tau": "rate", "learning_rate": "positive", "critics": "at_least_one"}
COMMON |= dict.fromkeys(("hidden", "critic_hidden"), "widths")
"""The ranges of fields that most agents have."""


def in_range(value: Any, kind: str) -> bool:
    """Whether a number, or all of a tuple, lie in a range of `RANGES`; None does, and an array, checked before."""
    numbers = value if isinstance(value, tuple) else (value,)
    return all(RANGES[kind][0](each) for each in numbers if isinstance(each, int | float))


def require_range(value: Any, kind: str, path: str) -> None:
    """Refuses what is not `in_range`."""
    require(in_range(value, kind), path, f"is {value}", RANGES[kind][1])


def check_ranges(config: Any, choice: str, **names: tuple[str, ...]) -> None:
    """Refuses values of a method's config outside their range.

    The command line reads these calls from the source, to refuse a value before anything is imported
    (`cfdg_jax.catalog.ranges`): names of ranges and fields stand in them as they are.

    Args:
      config: The method's.
      choice: What it is a method of, such as ``mix``.
      names: Fields by the name of their range in `RANGES`.

    Raises:
      UserError: for the first value out of its range.
    """
    for kind, fields in names.items():
        for name in fields:
            require_range(getattr(config, name), kind, f"{choice}.{name}")


def changed(config: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a frozen config with other values, which are not checked: they may be arrays."""
    new = copy.copy(config)
    for name, value in fields.items():
        object.__setattr__(new, name, value)
    return new


def is_off(value: Any) -> bool:
    """Whether a setting is a plain 0, so that what it scales is left out of the program.

    A value that enters the program as an array, as those of ``--vmap`` do, is never off: its 0 is computed.
    """
    return isinstance(value, int | float) and value == 0


def explains(path: str) -> str:
    """The command that says all of a field."""
    return f"cfdg-jax train --explain {path}"


def coerce(annotation: Any, value: Any, path: str) -> Any:
    """Reads `value` (a string from the command line, or a yaml value) as the annotated type."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        if value not in args:
            raise UserError(path, f"is '{value}'", nearest(str(value), map(str, args), explains(path)))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return coerce(next(arg for arg in args if arg is not type(None)), value, path)
    if origin is tuple:
        if isinstance(value, str):
            inner = value.strip("()[] ").removesuffix(",")
            value = inner.split(",") if inner else ()
        if not isinstance(value, list | tuple):
            raise UserError(path, f"is {value!r}", "must be a list, such as 64,64")
        return tuple(coerce(args[0], item.strip() if isinstance(item, str) else item, path) for item in value)
    if origin is Mapping:
        return {field: coerce(args[1], values, field) for field, values in read_axis(value, path).items()}
    if annotation is str:
        return str(value)
    return _number(annotation, value, path)


def _number(annotation: type, value: Any, path: str) -> Any:
    kind = {bool: "true or false", int: "a whole number", float: "a number"}[annotation]
    wrong = UserError(path, f"is '{value}'", f"must be {kind}")
    if annotation is bool:
        truth = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
        if str(value).lower() not in truth:
            raise wrong
        return truth[str(value).lower()]
    try:
        number = float(str(value).replace("_", ""))
    except ValueError:
        raise wrong from None
    require(math.isfinite(number), path, f"is {number}", "must be finite")
    if annotation is float:
        return number
    if number != int(number):
        raise wrong
    return int(number)
