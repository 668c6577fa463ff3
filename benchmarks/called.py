"""How a benchmark was called, for its results."""

import pathlib
import shlex
import sys


def command(script: str | None = None) -> str:
    """Script and options as given. An absolute path belongs to one machine, so only its last part is kept."""
    called = script or f"python benchmarks/{pathlib.Path(sys.argv[0]).name}"
    return " ".join([called, *map(_of_no_machine, sys.argv[1:])])


def _of_no_machine(word: str) -> str:
    option, equals, value = word.rpartition("=")
    path = pathlib.Path(value)
    return shlex.quote(option + equals + (path.name if path.is_absolute() else value))
