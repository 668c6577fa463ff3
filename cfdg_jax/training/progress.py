"""Progress bars, clocks and interruption: what a person at the terminal sees and presses."""

from __future__ import annotations

import datetime
import math
import os
import signal
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from tqdm import tqdm

EVERY = 30.0
"""Seconds between the lines that a pipe or file gets of a task under way."""
REDRAW = 0.1
"""Seconds between two pictures of a bar that only its note changes."""
UNKNOWN = (80, 24)
"""Columns and rows of a terminal that says it has none."""
FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{rate_fmt}{postfix}]"


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
                raise KeyboardInterrupt("what was kept before stays")
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


class Bar:
    """How far a task is: a bar on a terminal, a line every so often in a pipe or file, nothing where not shown.

    A task within another one has no bar of its own: the outer one says how far it is.
    """

    def __init__(self, progress: Progress, name: str, total: int, done: int, unit: str, later: int, outer: Bar | None):
        self.progress, self.name, self.total, self.n, self.unit = progress, name, total, done, unit
        self._first, self._later, self._outer = done, later, outer
        self._start = self._told = self._paced = time.monotonic()
        self._slow = done
        self._note, self._drawn = "", -math.inf
        self._live: Any = None
        if progress.live and outer is None:
            known = all(os.get_terminal_size(progress.stream.fileno()))
            size = {"dynamic_ncols": True} if known else dict(zip(("ncols", "nrows"), UNKNOWN, strict=True))
            self._live = tqdm(
                desc=f"{name:<9}", total=total, initial=done, unit=unit, unit_scale=total > 10_000, **size,
                smoothing=0.1, mininterval=0.5, bar_format=FORMAT, file=progress.stream,
            )  # fmt: skip

    def update(self, steps: int) -> None:
        """`steps` more steps are done."""
        if self._slow == self._first:  # the first waits for its program to be compiled: the pace is that of the others
            self._slow, self._paced = self.n + steps, time.monotonic()
        self.n += steps
        if self._outer is not None:
            self._outer.note(f"{self.name.strip()} {self.n / max(self.total, 1):.0%}" if self.n < self.total else "")
        elif self._live is not None:
            self._live.set_postfix_str(", ".join(self._said()), refresh=False)
            self._live.update(steps)
        elif self.progress.shown and time.monotonic() - self._told >= EVERY and self.n < self.total:
            self._told = time.monotonic()
            print(self.line(), file=self.progress.stream, flush=True)

    def note(self, text: str) -> None:
        """What is being done at the moment; a note that goes is wiped at once."""
        self._note = text
        if self._live is not None and (not text or time.monotonic() - self._drawn >= REDRAW):
            self._drawn = time.monotonic()
            self._live.set_postfix_str(", ".join(self._said()))

    def line(self) -> str:
        """How far the task is, in words."""
        rate = (self.n - self._first) / max(time.monotonic() - self._start, 1e-9)
        head = f"{self.name} {self.n:,} of {self.total:,} {self.unit}s ({self.n / max(self.total, 1):.0%})"
        return ", ".join([head, f"{rate:.3g} {self.unit}s/s", *self._said()])

    def seconds_left(self) -> float | None:
        """Of the whole run: this task and `later` steps of others, at this one's pace; None before there is one."""
        later = self.n > self._slow
        made, since = (self.n - self._slow, self._paced) if later else (self.n - self._first, self._start)
        left = max(self.total - self.n, 0) + self._later
        return (time.monotonic() - since) / made * left if made else None

    def _said(self) -> list[str]:
        seconds = self.seconds_left()
        left = [] if seconds is None else [f"about {datetime.timedelta(seconds=round(seconds))} left"]
        return [*filter(None, (self._note, self.progress.score)), *left]

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._live is not None:
            self._live.close()


class Progress:
    """What a person sees of a run: one bar for each phase, with score, pace and time left; warnings always.

    Args:
      shown: Whether to show anything but warnings.
      stream: Where to; standard error by default. Bars are for terminals: a pipe or file gets plain lines.
    """

    def __init__(self, shown: bool, stream: TextIO | None = None):
        self.shown, self.stream = shown, stream or sys.stderr
        self.live = shown and self.stream.isatty()
        self.score = ""
        """The last evaluation, in words."""
        self._outer: Bar | None = None
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it was made, when the work began."""
        return time.monotonic() - self._begun

    @contextmanager
    def bar(self, name: str, total: int, done: int = 0, unit: str = "step", later: int = 0) -> Iterator[Bar]:
        """A bar of `total` steps of which `done` are done; `later` steps follow in other tasks of the same run."""
        outer, bar = self._outer, Bar(self, name, total, done, unit, later, self._outer)
        self._outer = outer or bar
        try:
            yield bar
        finally:
            self._outer = outer
            bar.close()

    def say(self, text: str) -> None:
        """A line that does not tear the bars."""
        if self.shown:
            self.warn(text)

    def warn(self, text: str) -> None:
        """The same, shown or not."""
        if self.live:
            tqdm.write(text, file=self.stream)
        else:
            print(text, file=self.stream, flush=True)
