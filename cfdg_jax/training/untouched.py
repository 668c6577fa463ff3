"""Who may write into a run folder: nothing that a run made is ever written over."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cfdg_jax.config import TrainConfig
from cfdg_jax.errors import require
from cfdg_jax.training import lock, origin
from cfdg_jax.training.checkpoint import agent_place
from cfdg_jax.training.logging import FILES

OF_NO_RUN = {lock.FILE, origin.FILE}
"""What a run may leave that was killed before it had a config."""


def refuse_used(folder: pathlib.Path) -> None:
    """Refuses a folder for a new run that holds anything."""
    require(not folder.exists() or folder.is_dir(), str(folder), "is a file", "name a folder with --out")
    used = folder.is_dir() and any(path.name not in OF_NO_RUN for path in folder.iterdir())
    require(not used, str(folder), "is not empty", f"continue it with --resume {folder} or name another --out")


@contextmanager
def claimed(folder: pathlib.Path) -> Iterator[None]:
    """Makes and locks the folder of a new run for the block; takes it away again if no run begins in it.

    Raises:
      UserError: if another process has it, or has used it meanwhile.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock.only_process(folder):
            refuse_used(folder)
            yield
    finally:
        if not (folder / "config.yaml").exists():
            with suppress(OSError):
                if all(path.name in OF_NO_RUN for path in folder.iterdir()):
                    for name in OF_NO_RUN:
                        (folder / name).unlink(missing_ok=True)
                    for place in made:
                        place.rmdir()


def begin_anew(folder: pathlib.Path, config: TrainConfig, begun: origin.Origin) -> None:
    """Clears the logs of a run that was stopped before its first checkpoint.

    Raises:
      UserError: if anything shows that there was one: then a run begun anew would destroy what is left of it.
    """
    traces = list(_traces(folder, config, begun))
    problem = f"holds no whole checkpoint, but {traces[0] if traces else ''} shows that there was one"
    require(not traces, str(folder / "checkpoints"), problem, "restore it, or start a new run in another folder")
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _traces(folder: pathlib.Path, config: TrainConfig, begun: origin.Origin) -> Iterator[str]:
    """The files that a run has only after its first checkpoint, which is at step 0."""
    if (folder / "samples.npz").exists():
        yield "samples.npz"
    if config.offline.steps > 0 and begun.offline_from is None and agent_place(folder).exists():
        yield "checkpoints/offline_agent"
    for name in FILES:
        path = folder / name
        require(not path.exists() or path.is_file(), str(path), "is no file", "remove it")
        lines = path.read_bytes().splitlines() if path.exists() else []
        if any(not _before_any_checkpoint(line, name, begun) for line in lines):
            yield name
    with suppress(OSError, ValueError, AttributeError, TypeError):
        summary = json.loads((folder / "summary.json").read_bytes())
        if summary.get("status") in ("done", "interrupted") or summary.get("step", 0) > 0:
            yield "summary.json"


def _before_any_checkpoint(line: bytes, name: str, begun: origin.Origin) -> bool:
    """Only an evaluation at step 0, or one of a borrowed pre-training, is written before the first checkpoint."""
    if name != "evaluations.jsonl":
        return False
    try:
        values = json.loads(line)
        return values["step"] == 0 or (values["phase"] == "offline" and begun.offline_from is not None)
    except (ValueError, KeyError, TypeError):
        return False
