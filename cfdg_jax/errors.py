"""Errors of the user's making, on one line that says where, what is wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 20
"""Valid names that a message lists in full beside the nearest ones."""


class UserError(ValueError):
    """Wrong usage or bad input; the command line prints it on one line and exits with code 2.

    Args:
      field: The config field, file or key at fault, as the user would write it.
      problem: What is wrong.
      remedy: What would be right.
    """

    def __init__(self, field: str, problem: str, remedy: str = ""):
        self.field, self.problem, self.remedy = field, problem, remedy
        super().__init__(" ".join(f"{field}: {problem}{'; ' + remedy if remedy else ''}".split()))


def require(condition: bool, field: str, problem: str, remedy: str = "") -> None:
    """Raises `UserError` unless `condition` holds."""
    if not condition:
        raise UserError(field, problem, remedy)


def nearest(name: str, names: Iterable[str]) -> str:
    """``did you mean ...? valid: ...`` for an unknown name; of many names only the near ones, where there are any."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close and len(names) > SHOWN:
        return f"did you mean {' or '.join(close)}?"
    return (f"did you mean {' or '.join(close)}? " if close else "") + f"valid: {', '.join(names)}"
