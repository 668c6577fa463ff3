"""``lerobot:FOLDER``: LeRobot's datasets, version 3 and 2, as arrays in D4RL's layout.

``meta/info.json`` names the features and the parquet files; one row is one frame (huggingface/lerobot, docs on
LeRobotDataset v3.0). ``action`` was taken in the state of its frame; ``next.reward`` and ``next.done`` are what
followed. The state after an episode's last frame is not recorded: that frame is a terminal, which needs no next state,
or dropped.
"""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import numpy as np

from cfdg_jax.data.files import exists, told
from cfdg_jax.data.ogbench import NO_REWARDS
from cfdg_jax.errors import UserError, require

_VISUAL = ("video", "image", "string")
"""Kinds of features that no row has room for."""


def read_lerobot(folder: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by the names of D4RL's layout, and what to say about them.

    All numeric features named ``observation.*`` are joined, in the order of ``info.json``; pictures are left out. An
    episode's last frame is a terminal where it has ``next.success``, or in sets without that feature ``next.done``.

    Args:
      folder: The dataset, holding ``meta`` and ``data``.

    Raises:
      UserError: if pyarrow is not installed, files are missing or damaged, or observations or actions are.
    """
    info = _info(folder)
    features = info["features"]
    numeric = [name for name, feature in features.items() if feature.get("dtype") not in _VISUAL]
    observed = [name for name in numeric if name == "observation" or name.startswith("observation.")]
    require(bool(observed), f"{folder}: features", "hold no numeric observation", "pictures cannot be learnt from")
    for name in ("action", "episode_index", "index"):
        require(name in numeric, f"{folder}: {name}", "is missing", f"found {', '.join(sorted(numeric)[:8])}")
    flags = [name for name in ("next.reward", "next.done", "next.success") if name in numeric]
    columns = _columns(folder, info, [*observed, "action", "episode_index", "index", *flags])
    episode = columns["episode_index"][:, 0]
    last = np.append(np.diff(episode) != 0, True)
    done = columns.get("next.success", columns.get("next.done", np.zeros((len(last), 1))))[:, 0].astype(bool)
    arrays = {
        "observations": np.concatenate([columns[name] for name in observed], axis=1),
        "actions": columns["action"],
        "rewards": columns.get("next.reward", np.zeros((len(last), 1), np.float32))[:, 0],
        "terminals": last & done,
        "timeouts": last & ~done,
    }
    return arrays, {} if "next.reward" in flags else {"doubt": NO_REWARDS}


def _info(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "meta" / "info.json"
    require(exists(path), str(path), "does not exist", "name the folder that holds LeRobot's meta and data")
    with told(path, "cannot be read", "check its permissions"):
        text = path.read_text(errors="replace")
    try:
        info = json.loads(text)
        info["data_path"], info["total_frames"], info["features"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(str(path), f"is not LeRobot's ({type(error).__name__}: {error})", "copy it again") from error
    return info


def _columns(folder: pathlib.Path, info: dict[str, Any], names: list[str]) -> dict[str, np.ndarray]:
    """The features `[N, width]` of all files, in the order of the frames' ``index``."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        remedy = "install it with: pip install 'cfdg-jax[lerobot]'"
        raise UserError(f"lerobot:{folder}", "needs the pyarrow package", remedy) from None
    files = sorted(folder.glob(re.sub(r"\{[^}]*\}", "*", info["data_path"])))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for path in files:
        try:
            table = pyarrow.parquet.read_table(path, columns=names)
            for name in names:
                parts[name].append(_matrix(table.column(name), f"{path}: {name}"))
        except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(str(path), f"cannot be read as parquet ({reason})", "copy it again") from error
    frames = sum(len(part) for part in parts["index"])
    wanted = info["total_frames"]
    require(frames == wanted, str(folder), f"holds {frames} frames, info.json says {wanted}", "copy all its files")
    require(frames > 0, str(folder), "holds no frames", "choose another dataset")
    order = np.argsort(np.concatenate(parts["index"])[:, 0], kind="stable")
    return {name: np.concatenate(parts[name])[order] for name in names}


def _matrix(column: Any, where: str) -> np.ndarray:
    """A column `[n, width]`; lists of one length become rows, numbers a width of one."""
    import pyarrow

    require(column.null_count == 0, where, f"lacks {column.null_count} values", "record them again")
    kind = column.type
    if not (pyarrow.types.is_list(kind) or pyarrow.types.is_fixed_size_list(kind) or pyarrow.types.is_large_list(kind)):
        return np.asarray(column).reshape(len(column), -1)
    flat = [np.asarray(chunk.flatten()) for chunk in column.chunks if len(chunk)]
    values = np.concatenate(flat) if flat else np.empty(0)
    even = len(column) and values.dtype != object and len(values) % len(column) == 0
    require(bool(even), where, "holds no lists of one length", "flat numbers are needed")
    return values.reshape(len(column), -1)
