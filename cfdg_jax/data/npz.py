"""Datasets as npz files: arrays by the names of D4RL's layout, and what the file says about itself as json."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cfdg_jax.errors import UserError

ABOUT = "about"
"""The array that holds the scalars of a file as json."""


def write_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes a file that is whole or absent."""
    part = path.with_suffix(".part.npz")
    columns: dict[str, Any] = {**arrays, ABOUT: np.asarray(json.dumps(dict(about)))}
    np.savez(part, **columns)
    part.rename(path)


def read_npz(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by the names of D4RL's layout, and what an npz file of `convert` says about itself.

    Raises:
      UserError: if the file cannot be opened or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(str(path), f"cannot be read as npz ({reason})", "write it anew with numpy.savez") from error
    about = json.loads(str(arrays.pop(ABOUT))) if ABOUT in arrays else {}
    return arrays, about
