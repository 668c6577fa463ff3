"""No augmentation: no synthetic source has a share, so nothing is ever fitted or generated."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NoReturn

from cfdg_jax.methods import Augmenter, Entry
from cfdg_jax.types import Spec


@dataclasses.dataclass(frozen=True)
class NoneConfig:
    """Nothing to choose."""

    fitted_to: ClassVar[None] = None


def none(config: NoneConfig, spec: Spec) -> Augmenter:
    """An `Augmenter` without state and without shares; asking it for rows is an error of the caller."""
    del config, spec

    def generate(state: Any, key: Any, source: int, rows: int) -> NoReturn:
        raise ValueError("augment none generates no rows: its shares are empty")

    return Augmenter(
        init=lambda key, offline_rows, online: (),
        fit=lambda state, offline_rows, online, key, steps: (state, {}),
        generate=generate,
        shares={},
        fit_steps=0,
    )


ENTRY = Entry(NoneConfig, none, about="no generated rows")
