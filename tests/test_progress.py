"""What a person sees of a run: a bar on a terminal, plain lines in a pipe, nothing but warnings where not asked."""

import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import jax
import jax.numpy as jnp
import pytest

from cfdg_jax import cli
from cfdg_jax.training import progress as module
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.stopwatch import Stopwatch

RUN = ["train", "--preset", "smoke", "--dataset", "local:toy-dense-medium-replay-v0", "--seeds", "1"]
RUN += ["--offline.steps", "60", "--evaluate.offline_every", "30", "--mix.batch_size", "8"]
RUN += ["--online.steps", "60", "--evaluate.online_every", "30", "--online.start_steps", "20"]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


class Clock:
    """Seconds that pass when told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_a_file_gets_a_line_every_so_often(clock):
    stream = io.StringIO()
    progress = Progress(True, stream)
    with progress.bar("offline", 100, unit="update", later=100) as bar:
        for step in range(100):
            clock.now += 1.0
            bar.update(1)
            if step == 40:
                progress.score = "score 12.3"
    assert stream.getvalue().splitlines() == [
        "offline 30 of 100 updates (30%), 1 updates/s, about 0:02:50 left",
        "offline 60 of 100 updates (60%), 1 updates/s, score 12.3, about 0:02:20 left",
        "offline 90 of 100 updates (90%), 1 updates/s, score 12.3, about 0:01:50 left",
    ]


def test_a_resumed_task_counts_its_pace_from_where_it_began(clock):
    stream = io.StringIO()
    with Progress(True, stream).bar("online", 100, 60) as bar:
        assert bar.seconds_left() is None
        clock.now += 31.0
        bar.update(10)
    assert stream.getvalue() == "online 70 of 100 steps (70%), 0.323 steps/s, about 0:01:33 left\n"


def test_the_first_steps_which_wait_for_a_compiler_are_left_out_of_the_time_left(clock):
    with Progress(True, io.StringIO()).bar("online", 100) as bar:
        for seconds, left in ((60.0, 540.0), (1.0, 8.0), (1.0, 7.0)):
            clock.now += seconds
            bar.update(10)
            assert bar.seconds_left() == left


def test_a_task_within_another_has_no_lines_of_its_own(clock):
    stream = io.StringIO()
    progress = Progress(True, stream)
    with progress.bar("online", 100) as outer:
        outer.update(50)
        with progress.bar("evaluate", 10) as inner:
            clock.now += 100.0
            inner.update(5)
            assert stream.getvalue() == "" and "evaluate 50%" in outer.line()
            inner.update(5)
        assert "evaluate" not in outer.line()
        outer.update(1)
    assert stream.getvalue().startswith("online 51 of 100")


def test_without_progress_there_are_warnings_alone():
    stream = io.StringIO()
    progress = Progress(False, stream)
    with progress.bar("offline", 10) as bar:
        bar.update(10)
    progress.say("said")
    progress.warn("warned")
    assert stream.getvalue() == "warned\n"


def test_a_run_in_a_pipe_writes_no_control_characters_and_says_what_is_next(tmp_path, capfd):
    assert cli.main([*RUN, "--out", str(tmp_path / "run")]) == 0
    said = capfd.readouterr()
    assert not CONTROL.search(said.err + said.out)
    assert len(re.findall(r"^(?:offline|online) +step +\d+  return per seed", said.err, re.M)) == 6
    first, second = said.out.splitlines()
    folder = tmp_path / "run"
    assert first.startswith(f"done: {folder}")
    assert second == f"next: cfdg-jax report {folder}, or cfdg-jax evaluate {folder}", "the toys have no picture"


@contextlib.contextmanager
def terminal(rows, columns):
    """A pseudo terminal: its stream, and a function that returns what was written since it was last asked."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)

    def written():
        seen = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                seen += os.read(ours, 1 << 16)
        return seen.decode()

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with open(theirs, "w", closefd=False) as stream:
        yield stream, written
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize("size", [(0, 0), (24, 0), (24, 80)])
def test_a_terminal_that_tells_no_size_has_a_bar_too(size):
    with terminal(*size) as (stream, written):
        with Progress(True, stream).bar("offline", 10) as bar:
            bar.update(10)
        assert re.search(r"offline   100%\|█+\| 10/10", written())


def test_a_note_is_drawn_ten_times_a_second_at_most_and_wiped_at_once(clock):
    with terminal(24, 80) as (stream, written):
        progress = Progress(True, stream)
        with progress.bar("online", 100), progress.bar("evaluate", 1000) as inner:
            for _ in range(1000):
                clock.now += 0.001
                inner.update(1)
            shown = written()
        assert 8 <= len(re.findall("evaluate", shown)) <= 12
        assert "evaluate" not in shown.split("\r")[-1]


def test_a_run_on_a_terminal_has_one_bar_for_each_phase(tmp_path):
    words = [sys.executable, "-m", "cfdg_jax", *RUN, "--out", str(tmp_path / "run")]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with subprocess.Popen(words, stderr=theirs, stdout=subprocess.PIPE) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                data = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not data:
                break
            seen += data
    os.close(ours)
    shown = seen.decode()
    assert process.returncode == 0
    full = [line for line in re.split(r"[\r\n]+", shown) if "100%|" in line]
    assert {line.split()[0] for line in full} == {"offline", "online"}
    assert all("60/60" in line and "/s" in line and "return " in line for line in full)
    assert "about 0:00:0" in shown


def test_compilation_is_counted_apart_from_what_it_is_for():
    began, clock = time.perf_counter(), Stopwatch()
    with clock("outer"), clock("work"):
        before = time.perf_counter()
        jax.jit(lambda x: jnp.sin(jnp.cos(x @ x)) * 1.2345)(jnp.ones((7, 7))).block_until_ready()
        taken = time.perf_counter() - before
    whole = time.perf_counter() - began
    assert set(clock.totals) == {"compile", "outer", "work"} and clock.totals["compile"] > 0.002
    assert taken <= clock.totals["work"] + clock.totals["compile"] <= sum(clock.totals.values()) <= whole
