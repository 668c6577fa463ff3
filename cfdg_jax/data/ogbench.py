"""``ogbench:FILE.npz``: OGBench's files as arrays in D4RL's layout.

A file holds every state of its trajectories, the last one included: ``terminals`` marks that last state, from which no
transition starts (seohongpark/ogbench, ogbench/utils.py). No trajectory ends by its task, so in D4RL's words such a row
is a time-out, and dropping the rows at time-outs gives the transitions that OGBench's own reader gives.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np

from cfdg_jax.data.npz import read_npz
from cfdg_jax.errors import require

NO_REWARDS = "its source has no rewards, they are all 0; give them the values of your task"
"""What every later reader of such rows is told."""


def read_ogbench(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by the names of D4RL's layout, and what to say about them; simulator states are left out.

    Raises:
      UserError: if the file cannot be read, or is of another layout.
    """
    found, _ = read_npz(path)
    for name in ("observations", "actions", "terminals"):
        known = ", ".join(sorted(found)[:8]) or "nothing"
        require(name in found, f"{path}: {name}", "is missing", f"found {known}; OGBench's layout is needed")
    final = found["terminals"]
    arrays = {name: found[name] for name in ("observations", "actions")}
    arrays |= {"terminals": np.zeros(final.shape, bool), "timeouts": final}
    arrays["rewards"] = found.get("rewards", np.zeros(len(final), np.float32))
    return arrays, {} if "rewards" in found else {"doubt": NO_REWARDS}
