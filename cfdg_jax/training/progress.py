"""Progress bars, clocks and interruption: what a person at the terminal sees and presses."""

from __future__ import annotations

import signal
import sys
import time
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm


class Interrupted(Exception):
    """The run was asked to stop (SIGINT or SIGTERM); raised only where a checkpoint can be written."""


class Interrupts:
    """Turns SIGINT and SIGTERM into a flag that the loops read where the state is whole; a second one ends at once."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raises `Interrupted` if a signal has arrived."""
        if self.requested:
            raise Interrupted

    @contextmanager
    def watching(self) -> Iterator[Interrupts]:
        """Watches within the block; does nothing outside the main thread, where Python delivers no signals."""

        def handle(number: int, frame: types.FrameType | None) -> None:
            if self.requested:
                raise KeyboardInterrupt
            self.requested = True
            print("\nstopping: writing a checkpoint (press again to stop without one)", file=sys.stderr)

        try:
            previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:
            yield self
            return
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class Progress:
    """Bars with steps/s and time left, one per running task; silent when not shown, but for warnings."""

    def __init__(self, shown: bool):
        self.shown = shown

    @contextmanager
    def bar(self, name: str, total: int, done: int = 0, unit: str = "it", keep: bool = True) -> Iterator[tqdm]:
        """A bar of `total` steps of which `done` are done; nested bars vanish when they end unless `keep`."""
        bar = tqdm(
            desc=f"{name:<10}", total=total, initial=done, unit=unit, unit_scale=total > 10_000, leave=keep,
            disable=not self.shown, dynamic_ncols=True, smoothing=0.1, mininterval=0.5,
        )  # fmt: skip
        with bar:
            yield bar

    def say(self, text: str) -> None:
        """A line that does not tear the bars."""
        if self.shown:
            self.warn(text)

    def warn(self, text: str) -> None:
        """The same, shown or not."""
        tqdm.write(text, file=sys.stderr)


class Stopwatch:
    """Seconds by activity; an inner activity's time does not count for the outer one."""

    def __init__(self, totals: Mapping[str, float] | None = None):
        self.totals: dict[str, float] = dict(totals or {})
        self._stack: list[str] = []
        self._since = time.perf_counter()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.totals[self._stack[-1]] = self.totals.get(self._stack[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()
