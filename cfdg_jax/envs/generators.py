"""NumPy generators, one per environment, seeded as Gymnasium seeds and kept in checkpoints as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cfdg_jax.errors import require

_LOW = (1 << 64) - 1


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """`seeds` as Python ints; `UserError` if there are none or one is negative."""
    require(len(seeds) > 0, "seeds", "is empty", "give one seed per environment")
    require(min(seeds) >= 0, "seeds", f"holds {min(seeds)}", "seeds must not be negative")
    return tuple(int(seed) for seed in seeds)


def make_generator(seed: int) -> np.random.Generator:
    """The generator that ``gymnasium.Env.reset(seed=seed)`` makes."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))


def pack_generators(generators: Sequence[np.random.Generator]) -> np.ndarray:
    """States of PCG64 generators as uint64 `[n, 6]`: state and increment in halves, then the cached half draw."""
    rows = []
    for generator in generators:
        state = generator.bit_generator.state
        value, increment = state["state"]["state"], state["state"]["inc"]
        halves = (value >> 64, value & _LOW, increment >> 64, increment & _LOW)
        rows.append((*halves, state["has_uint32"], state["uinteger"]))
    return np.array(rows, dtype=np.uint64)


def unpack_generators(generators: Sequence[np.random.Generator], packed: np.ndarray) -> None:
    """Sets PCG64 `generators` to the states that `pack_generators` returned."""
    for generator, row in zip(generators, packed, strict=True):
        value_high, value_low, increment_high, increment_low, has_half, half = (int(word) for word in row)
        generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": value_high << 64 | value_low, "inc": increment_high << 64 | increment_low},
            "has_uint32": has_half,
            "uinteger": half,
        }
