"""What the command line does to its own process before anything is computed."""

import ctypes
import os
import types

import pytest

from cfdg_jax import process

TRIM, MMAP = -1, -3


@pytest.fixture
def mallopt(monkeypatch):
    """The calls of a C library that takes thresholds up to `most`."""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(process.sys, "platform", "linux")

    def install(most):
        calls = []

        def mallopt(parameter, value):
            calls.append((parameter, value))
            return int(parameter == TRIM or value <= most)

        monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace(mallopt=mallopt))
        return calls

    return install


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1 << 40, [(MMAP, 1 << 30), (TRIM, 1 << 30)]),
        (1 << 25, [(MMAP, 1 << 30), (MMAP, 1 << 25), (TRIM, 1 << 30)]),
        (0, [(MMAP, 1 << 30), (MMAP, 1 << 25)]),
    ],
    ids=["glibc now", "older glibc", "neither taken"],
)
def test_freed_memory_is_kept_where_large_blocks_can_come_from_it(mallopt, most, expected):
    """A trim threshold alone would freeze the other at 128 KB."""
    calls = mallopt(most)
    process.keep_freed_memory()
    assert calls == expected


@pytest.mark.parametrize("variable", ["MALLOC_TOP_PAD_", "GLIBC_TUNABLES"])
def test_what_the_user_set_of_the_allocator_stands(mallopt, monkeypatch, variable):
    calls = mallopt(1 << 40)
    monkeypatch.setenv(variable, "1")
    process.keep_freed_memory()
    assert calls == []


def test_other_systems_are_left_alone(mallopt, monkeypatch):
    calls = mallopt(1 << 40)
    monkeypatch.setattr(process.sys, "platform", "darwin")
    process.keep_freed_memory()
    monkeypatch.setattr(process.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace())
    process.keep_freed_memory()  # musl has no mallopt
    assert calls == []
