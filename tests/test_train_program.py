"""What compiles once per program, beside other work where it is asked ahead."""

import threading
import types
from unittest import mock

import jax.numpy as jnp
import pytest
from train_helpers import compilations

from cfdg_jax.training.program import Compiled, compiled
from cfdg_jax.training.stopwatch import Stopwatch


@pytest.fixture
def program():
    return types.SimpleNamespace(settings={}, mesh=None, kept={})


def test_a_call_that_was_compiled_ahead_is_compiled_once_and_elsewhere(program):
    @compiled(static=("k",), donate=("x",))
    def grow(program, x, k):
        return jnp.sin(x) * k + 1.0

    x = jnp.ones(3)
    with compilations() as where:
        grow.ahead(program, x, k=2)
        x = grow(program, x, k=2)
        assert len(where) == 1 and where[0] != threading.get_ident()
        x = grow(program, grow(program, x, k=2), k=3)  # another number is another program, as ever
        assert len(where) == 2 and where[1] == threading.get_ident() and x.shape == (3,)


def test_the_wait_for_it_counts_as_compilation(program):
    @compiled()
    def more(program, x):
        return x + 1

    clock = Stopwatch()
    program.kept[Compiled.ahead, more.plain] = thread = threading.Timer(0.5, lambda: None)
    thread.start()
    with clock("work"):
        more(program, jnp.ones(2))
    assert clock.totals["compile"] > 0.05 and not thread.is_alive()


def test_what_fails_ahead_fails_where_it_is_called(program):
    fails = mock.Mock(side_effect=ValueError("too large"))
    fails.lower.return_value.compile.side_effect = fails
    more = compiled()(lambda program, x: x + 1)
    program.kept[more.plain] = fails
    more.ahead(program, jnp.ones(2))
    with pytest.raises(ValueError, match="too large"):
        more(program, jnp.ones(2))
    assert fails.call_count == 2
