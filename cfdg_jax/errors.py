"""Errors of the user's making, on one line that says where, what is wrong and what would be right."""

from __future__ import annotations

import difflib
import errno
import pathlib
from collections.abc import Callable, Iterable

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PATH_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip
"""What is wrong with a path that a user named."""
MUCH_LESS = 0.1
"""Likeness below the best one's from which a name is no suggestion."""
FEW = 4
"""Valid names that a message gives in full, though a command lists them."""

GROUPS = "groups.yaml"
"""In the folder of a run that is made in groups of its seeds: the size of the groups and the config of the whole."""


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

    def __reduce__(self) -> tuple:
        return UserError, (self.field, self.problem, self.remedy)  # pickled by what it is made of


def require_run(folder: pathlib.Path) -> None:
    """Refuses a folder that no run wrote."""
    parted = (folder / GROUPS).is_file()
    require(not parted, str(folder), "holds groups of seeds, each a run", f"name one, such as {_first(folder)}")
    found = (folder / "config.yaml").is_file()
    holds_runs = not found and any(folder.glob("*/config.yaml"))
    remedy = f"name a folder that a run wrote{f', such as {_first(folder)}' if holds_runs else ''}"
    require(found, str(folder), "is no run folder (no config.yaml)", remedy)


def _first(folder: pathlib.Path) -> str:
    return next((str(path.parent) for path in sorted(folder.glob("*/config.yaml"))), f"{folder}/...")


def require_begun(folder: pathlib.Path) -> None:
    """Refuses a folder that no run wrote, neither as one nor in groups of its seeds."""
    if not (folder / GROUPS).is_file():
        require_run(folder)


def require_file(path: pathlib.Path) -> None:
    """Refuses a yaml file that is not there."""
    require(path.is_file(), str(path), "does not exist", "name a yaml file")


def require(condition: bool, field: str, problem: str, remedy: str | Callable[[], str] = "") -> None:
    """Raises `UserError` unless `condition` holds; a remedy that takes time to find is given as a function."""
    if not condition:
        raise UserError(field, problem, remedy() if callable(remedy) else remedy)


def nearest(name: object, names: Iterable[str], listing: str = "") -> str:
    """``did you mean ...?`` with at most three near names; then all of them where they are few, or what lists them.

    Args:
      name: What was written.
      names: What would be right.
      listing: The command that shows all of many names.
    """
    name, names = str(name), list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    likeness = [difflib.SequenceMatcher(None, each, name).ratio() for each in close]
    close = [each for each, value in zip(close, likeness, strict=True) if value > likeness[0] - MUCH_LESS]
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    return meant + (f"`{listing}` lists all" if listing and len(names) > FEW else f"valid: {', '.join(names)}")
