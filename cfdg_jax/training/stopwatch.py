"""Where the time of a run goes."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax

COMPILE = "compile"


class Stopwatch:
    """Seconds by activity; an inner activity's time does not count for the outer one, nor does compilation.

    XLA's seconds, and JAX's of writing programs down for it, are those of the activity `COMPILE`, within and between
    the others; so is a wait for what is compiled ahead.
    """

    def __init__(self, totals: Mapping[str, float] | None = None):
        self.totals: dict[str, float] = dict(totals or {})
        self._stack: list[str] = []
        self._since, self._compiled = time.perf_counter(), _compiled().seconds

    def _charge(self) -> None:
        now, compiled = time.perf_counter(), _compiled().seconds
        spent = compiled - self._compiled
        for name, seconds in [(COMPILE, spent), *((name, now - self._since - spent) for name in self._stack[-1:])]:
            self.totals[name] = self.totals.get(name, 0.0) + max(seconds, 0.0)
        self._since, self._compiled = now, compiled

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()


@contextmanager
def compiling() -> Iterator[None]:
    """A wait for what another thread compiles; its seconds count as those of compilation."""
    began = time.perf_counter()
    yield
    _compiled().seconds += time.perf_counter() - began


class _Compiled(threading.local):
    """Seconds that each thread has spent on compilations since the first question."""

    seconds = 0.0


@functools.cache
def _compiled() -> _Compiled:
    spent = _Compiled()

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith(("/backend_compile_duration", "/jaxpr_to_mlir_module_duration")):
            spent.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(listen)
    return spent
