"""How a run stands: done, under way, or ended before its time, and then what continues it."""

from __future__ import annotations

import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from cfdg_jax.training import lock

WORDS = {"interrupted": "was interrupted", "failed": "failed", "killed": "was killed"}
KNOWN = ("done", "running", "interrupted", "failed")
"""What ``summary.json`` may say of a run."""


def status(folder: pathlib.Path, summary: Mapping[str, Any]) -> Any:
    """What the summary says, or ``killed`` where it says that the run goes on and no process has the folder."""
    found = summary.get("status")
    return "killed" if found == "running" and lock.held(folder) is False else found


def standing(folder: pathlib.Path, summary: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """A note on a run that is not done: where it stopped, why as far as it could say, and what continues it.

    Args:
      folder: The run's.
      summary: Its ``summary.json``.
      lines: Of its logs; a killed run has no other record of how far it came.
    """
    found = status(folder, summary)
    if found == "done":
        return []
    if found == "running":
        return ["the run goes on: its numbers are not final"]
    if found == "killed":
        steps = [(line["phase"] == "online", line["step"]) for line in lines if line["phase"] in ("offline", "online")]
        online, step = max(steps, default=(False, None))
        where = "" if step is None else f" after {'online' if online else 'offline'} step {step:,}"
    else:
        where = f" at {summary['phase']} step {summary['step']:,}" if {"phase", "step"} <= summary.keys() else ""
    why = f" ({summary['error']})" if summary.get("error") else ""
    resume = f"`cfdg-jax train --resume {shlex.quote(str(folder))}` continues it"
    return [f"the run {WORDS[found]}{where}{why}: its numbers are not final; {resume}"]
