"""What a checkpoint holds of the host, beside arrays: where the run is, and what it has said so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from cfdg_jax.errors import UserError

Phase = Literal["offline", "stratify", "online"]
PHASES: tuple[Phase, ...] = ("offline", "stratify", "online")


@dataclasses.dataclass(frozen=True)
class Record:
    """The host's part of a checkpoint.

    Attributes:
      phase: The phase under way.
      step: Its steps made.
      done: The last step at which each kind of event happened, in this phase.
      failed: ``{seed: (phase, step)}`` of the seeds that are no longer finite.
      last_return: Mean return per seed of the last evaluation.
      offsets: Bytes of each log.
      elapsed: Seconds of the run.
      clock: Seconds by activity.
      config_hash: Of the run's config.
      buffers: Rows of each ring.
    """

    phase: Phase = "offline"
    step: int = 0
    done: Mapping[str, int] = dataclasses.field(default_factory=dict)
    failed: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    last_return: tuple[float, ...] | None = None
    offsets: Mapping[str, int] = dataclasses.field(default_factory=dict)
    elapsed: float = 0.0
    clock: Mapping[str, float] = dataclasses.field(default_factory=dict)
    config_hash: str = ""
    buffers: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Any, place: str) -> Record:
        """The inverse of `to_json`.

        Raises:
          UserError: naming `place`, if something is missing or of another kind.
        """
        damaged = UserError(place, "is damaged: not what a run records", "restore it, or go back to an earlier one")
        if not isinstance(plain, Mapping) or plain.get("phase") not in PHASES:
            raise damaged
        try:
            read = {field.name: _READ[field.name](plain[field.name]) for field in dataclasses.fields(cls)}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise damaged from None
        return cls(**read)


def _numbers(kind: type) -> Any:
    return lambda plain: {str(name): kind(value) for name, value in plain.items()}


_READ: dict[str, Any] = {
    "phase": str,
    "step": int,
    "done": _numbers(int),
    "failed": lambda plain: {str(seed): (str(phase), int(step)) for seed, (phase, step) in plain.items()},
    "last_return": lambda plain: None if plain is None else tuple(float(value) for value in plain),
    "offsets": _numbers(int),
    "elapsed": float,
    "clock": _numbers(float),
    "config_hash": str,
    "buffers": _numbers(int),
}
