"""What a checkpoint holds of the host, beside arrays: where the run is, and what it has said so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from cfdg_jax.training.store import Damaged

Phase = Literal["offline", "stratify", "online"]
PHASES: tuple[Phase, ...] = ("offline", "stratify", "online")


class LogMark(NamedTuple):
    """How far a log had come: its length, and the SHA-256 of all that."""

    bytes: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Record:
    """The host's part of a checkpoint.

    Attributes:
      phase: The phase under way.
      step: Its steps made.
      done: The last step at which each kind of event happened, in this phase.
      failed: ``{seed: (phase, step)}`` of the seeds that are no longer finite.
      last_return: Mean return per seed of the last evaluation.
      logs: The mark of each log.
      elapsed: Seconds of the run.
      clock: Seconds by activity.
      config_hash: Of the run's config.
      offline_rows: Rows of the dataset.
      buffers: Rows of each ring.
    """

    phase: Phase = "offline"
    step: int = 0
    done: Mapping[str, int] = dataclasses.field(default_factory=dict)
    failed: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    last_return: tuple[float, ...] | None = None
    logs: Mapping[str, LogMark] = dataclasses.field(default_factory=dict)
    elapsed: float = 0.0
    clock: Mapping[str, float] = dataclasses.field(default_factory=dict)
    config_hash: str = ""
    offline_rows: int = 0
    buffers: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, plain: Any) -> Record:
        """The inverse of `to_json`; `Damaged` if something is missing or of another kind."""
        try:
            read = {field.name: _READ[field.name](plain[field.name]) for field in dataclasses.fields(cls)}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Damaged(f"its record is not a run's ({type(error).__name__} {error})") from None
        return cls(**read)


def _phase(plain: Any) -> Phase:
    return PHASES[PHASES.index(plain)]


def _each(kind: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    return lambda plain: {str(name): kind(value) for name, value in plain.items()}


_READ: dict[str, Callable[[Any], Any]] = {
    "phase": _phase,
    "step": int,
    "done": _each(int),
    "failed": _each(lambda plain: (str(plain[0]), int(plain[1]))),
    "last_return": lambda plain: None if plain is None else tuple(float(value) for value in plain),
    "logs": _each(lambda plain: LogMark(int(plain[0]), str(plain[1]))),
    "elapsed": float,
    "clock": _each(float),
    "config_hash": str,
    "offline_rows": int,
    "buffers": _each(int),
}
