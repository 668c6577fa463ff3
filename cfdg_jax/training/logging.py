"""Everything a run writes besides checkpoints: two jsonl files, a summary, and optional loggers imported on use.

The jsonl files are append-only; a checkpoint stores how far they had come, and resuming cuts them back to it, so a
resumed run's files equal those of a run that never stopped (wall-clock fields aside).
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Protocol

import jax
import numpy as np

from cfdg_jax.config import TrainConfig
from cfdg_jax.errors import UserError, require
from cfdg_jax.fields import to_dict
from cfdg_jax.training.record import LogMark
from cfdg_jax.training.store import errors_name

FILES = ("metrics.jsonl", "evaluations.jsonl")


class Sink(Protocol):
    """An optional second destination of metrics."""

    def write(self, phase: str, step: int, values: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class RunLogger:
    """Writes a run folder's jsonl files and summary."""

    def __init__(self, folder: pathlib.Path, config: TrainConfig, elapsed: float = 0.0):
        self.folder, self._start = folder, time.perf_counter() - elapsed
        self._files = {name: (folder / name).open("ab") for name in FILES}
        self._digests = {name: _digest(folder / name) for name in FILES}
        self._sink = make_sink(config, folder)

    @property
    def elapsed(self) -> float:
        """Seconds of this run, earlier parts of a resumed one included."""
        return time.perf_counter() - self._start

    def metrics(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``; values are scalars or `[S]` vectors, NaN is written as null."""
        self._write("metrics.jsonl", phase, step, values)

    def evaluation(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of ``evaluations.jsonl``."""
        self._write("evaluations.jsonl", phase, step, values)

    def _write(self, name: str, phase: str, step: int, values: Mapping[str, Any]) -> None:
        line = {"phase": phase, "step": step, "seconds": round(self.elapsed, 3)} | {
            k: plain(v) for k, v in values.items()
        }
        data = (json.dumps(line, allow_nan=False) + "\n").encode()
        with errors_name(self.folder / name):
            self._files[name].write(data)
            self._files[name].flush()
        self._digests[name].update(data)
        if self._sink is not None:
            self._sink.write(phase, step, values)

    def marks(self) -> dict[str, LogMark]:
        """How far each file has come, everything so far on disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {name: LogMark(file.tell(), self._digests[name].hexdigest()) for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._sink is not None:
            self._sink.close()


def _digest(path: pathlib.Path, length: int | None = None) -> Any:
    """SHA-256 of a file's first `length` bytes, by default of all, to be updated."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20 if length is None else min(1 << 20, length)):
            digest.update(data)
            length = None if length is None else length - len(data)
    return digest


def require_logs(folder: pathlib.Path, marks: Mapping[str, LogMark]) -> None:
    """Refuses logs that are not what a checkpoint recorded; later lines are no fault.

    Raises:
      UserError: naming the first that is missing, no file, too short or edited.
    """
    remedy = "restore it, or start a new run"
    for name, mark in marks.items():
        path = folder / name
        require(path.exists(), str(path), "is missing", remedy)
        require(path.is_file(), str(path), "is no file", remedy)
        size = path.stat().st_size
        require(size >= mark.bytes, str(path), f"holds {size:,} bytes, the checkpoint recorded {mark.bytes:,}", remedy)
        same = _digest(path, mark.bytes).hexdigest() == mark.digest
        require(same, str(path), "was edited: its lines are not those that the checkpoint recorded", remedy)


def truncate_logs(folder: pathlib.Path, marks: Mapping[str, LogMark]) -> None:
    """Cuts the jsonl files back to where a checkpoint recorded them; none is touched unless all are as recorded."""
    require_logs(folder, marks)
    for name, mark in marks.items():
        with (folder / name).open("r+b") as file:
            file.truncate(mark.bytes)


def plain(value: Any) -> Any:
    """JSON-ready: arrays as lists of Python numbers, non-finite numbers as null."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    array = np.asarray(value)
    if array.dtype == bool or np.issubdtype(array.dtype, np.integer):
        return array.tolist()
    rounded = np.asarray(array, np.float64)
    return _null_nonfinite(rounded.tolist())


def _null_nonfinite(value: Any) -> Any:
    if isinstance(value, list):
        return [_null_nonfinite(item) for item in value]
    return value if np.isfinite(value) else None


def write_summary(folder: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes ``summary.json`` whole or not at all."""
    write_atomic(folder / "summary.json", json.dumps({k: plain(v) for k, v in values.items()}, indent=2) + "\n")


def write_atomic(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a small file so that no reader ever sees half of it; an `OSError` names it."""
    data = content.encode() if isinstance(content, str) else content
    with errors_name(path), tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("cfdg-jax", "jax", "flax", "optax", "gymnasium", "mujoco", "numpy")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}


def device_name() -> str:
    """The default device in words, such as ``cpu (AMD EPYC, 2 cores)``."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.platform} ({device.device_kind})"
    model = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return f"cpu ({model}, {os.cpu_count()} cores)"


def make_sink(config: TrainConfig, folder: pathlib.Path) -> Sink | None:
    """The logger named by ``log.loggers``, or None."""
    if config.log.loggers == "tensorboard":
        return _TensorBoard(folder)
    if config.log.loggers == "wandb":
        return _Wandb(folder, config)
    return None


def _flat(values: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in values.items():
        if value is None or isinstance(value, str):
            continue
        array = np.asarray(value, np.float64)
        rows = array.reshape(array.shape[0], -1).mean(axis=1) if array.ndim else array[None]
        flat |= {f"{name}/seed{i}" if array.ndim else name: float(v) for i, v in enumerate(rows) if np.isfinite(v)}
    return flat


class _TensorBoard:
    def __init__(self, folder: pathlib.Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        for name, value in _flat(values).items():
            self._writer.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: pathlib.Path, config: TrainConfig):
        try:
            import wandb
        except ImportError:
            raise _missing("wandb") from None
        self._run = wandb.init(
            project="cfdg_jax", name=config.name, dir=str(folder), mode=config.log.wandb_mode, config=to_dict(config)
        )

    def write(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({f"{phase}/{name}": value for name, value in _flat(values).items()} | {f"{phase}/step": step})

    def close(self) -> None:
        self._run.finish()


def _missing(extra: str) -> UserError:
    return UserError("log.loggers", f"'{extra}' is not installed", f"pip install 'cfdg-jax[{extra}]'")
