"""What all stratifiers share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cfdg_jax.methods import Entry


def check_marks(config: Any, chosen: Mapping[str, Entry]) -> Iterator[str]:
    """Warns where marks change nothing."""
    if chosen["agent"].without is None:
        yield "this agent has no offline regulariser, so marks change nothing; use --stratify none"
