"""A run's moving half: the state, the clock, the log, and the events that come due at a step.

Events at a step happen in a fixed order (log, evaluate, refresh, checkpoint) and each remembers the last step it was
done at, so a run that resumes at a step does exactly the events the checkpoint had not seen.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.augment.base import first_refresh
from cfdg_jax.fields import config_hash
from cfdg_jax.training.checkpoint import Checkpointer, Kept, Saved
from cfdg_jax.training.evaluate import run_episodes
from cfdg_jax.training.logging import RunLogger
from cfdg_jax.training.meters import Meters
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.training.refresh import check_rows, refresh, synthetic_rows
from cfdg_jax.types import TrainState


class Stopwatch:
    """Seconds by activity; an inner activity's time does not count for the outer one."""

    def __init__(self, totals: Mapping[str, float] | None = None):
        self.totals: dict[str, float] = dict(totals or {})
        self._stack: list[str] = []
        self._since = time.perf_counter()

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.totals[self._stack[-1]] = self.totals.get(self._stack[-1], 0.0) + now - self._since
        self._since = now

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._charge()
        self._stack.append(name)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()


class Episodes:
    """Returns of the episodes finished since the last log line, per seed."""

    def __init__(self, seeds: int):
        self._seeds = seeds
        self.sums = np.zeros((4, seeds))  # return, length, success, count

    def add(self, done: np.ndarray, returns: np.ndarray, lengths: np.ndarray, success: np.ndarray) -> None:
        """Adds the episodes of the seeds where `done`; all `[S]`."""
        self.sums += np.where(done, np.stack([returns, lengths, success, np.ones(self._seeds)]), 0.0)

    def flush(self) -> dict[str, np.ndarray]:
        """Means per seed (NaN where no episode ended), and clears."""
        total, count = self.sums[:3], self.sums[3]
        means = np.full((3, self._seeds), np.nan)
        np.divide(total, count, out=means, where=count > 0)
        self.sums = np.zeros((4, self._seeds))
        return {"episode_return": means[0], "episode_length": means[1], "episode_success": means[2], "episodes": count}


class Session:
    """Everything that changes while a run goes on."""

    def __init__(
        self,
        program: Program,
        folder: pathlib.Path,
        state: TrainState,
        checkpointer: Checkpointer,
        progress: Progress,
        interrupts: Interrupts,
        saved: Saved | None = None,
        elapsed: float = 0.0,
    ):
        meta = saved.meta if saved else {}
        self.program, self.folder, self.state = program, folder, state
        self.checkpointer, self.progress, self.interrupts = checkpointer, progress, interrupts
        self.phase: str = meta.get("phase", "offline")
        self.step: int = meta.get("step", 0)
        self.done: dict[str, int] = dict(meta.get("done", {}))
        self.failed: dict[str, list] = dict(meta.get("failed", {}))
        self.last_return: list | None = meta.get("last_return")
        self.clock = Stopwatch(meta.get("clock"))
        self.logger = RunLogger(folder, program.config, meta.get("elapsed", elapsed))
        self.loop = saved.loop if saved else {}
        self.meters = _restore_meters(program.no_meters(self.phase), self.loop)
        self.episodes = Episodes(program.config.seeds)
        if "episodes" in self.loop:
            self.episodes.sums = self.loop["episodes"]
        self.loop_arrays: Callable[[], dict[str, np.ndarray]] = dict
        """What the online driver adds to a checkpoint."""
        self._rate = (time.perf_counter(), self.step)

    # -- phases ------------------------------------------------------------------------------------------------------

    def start_phase(self, phase: str, state: TrainState) -> None:
        """Begins a phase at step 0 with fresh meters and events."""
        self.phase, self.state, self.step, self.done, self.loop = phase, state, 0, {}, {}
        self.meters = self.program.no_meters(phase)
        self._rate = (time.perf_counter(), 0)

    def boundary(self, most: int, *points: int) -> int:
        """Steps that can be made before the next event, at most `most`; `points` are further absolute steps."""
        config = self.program.config
        total, every = self._budget()
        periods = [config.log.every, every, config.checkpoint.every or every]
        if self.phase == "online" and self.program.augmenter.shares:
            periods.append(config.refresh.every)
        ahead = [most, total - self.step] + [p - self.step % p for p in periods] + [p - self.step for p in points]
        return min(n for n in ahead if n > 0)

    def _budget(self) -> tuple[int, int]:
        config = self.program.config
        if self.phase == "offline":
            return config.offline.steps, config.evaluate.offline_every
        return config.online.steps, config.evaluate.online_every

    # -- events ------------------------------------------------------------------------------------------------------

    def events(self) -> None:
        """Does whatever is due at the current step and not yet done at it."""
        config, (total, every) = self.program.config, self._budget()
        last = self.step == total
        if self._due("log", config.log.every, last) and self.step > 0:
            self.log()
            self.done["log"] = self.step
        if self._due("evaluate", every, last or self.step == 0):
            self.evaluate()
            self.done["evaluate"] = self.step
        if self.phase == "online" and self._refresh_due(last):
            self.refresh()
            self.done["refresh"] = self.step
        if self._due("checkpoint", config.checkpoint.every or every, last):
            self.done["checkpoint"] = self.step
            self.checkpoint()

    def _due(self, event: str, every: int, also: bool) -> bool:
        return self.done.get(event) != self.step and (also or self.step % every == 0)

    def _refresh_due(self, last: bool) -> bool:
        config = self.program.config
        if not synthetic_rows(self.program) or (last and not config.refresh.last):
            return False
        first = first_refresh(config)
        return first is not None and self.step >= first and self._due("refresh", config.refresh.every, False)

    def log(self) -> None:
        """Writes the interval's mean metrics, clears the meters and looks for non-finite seeds."""
        count = max(float(self.meters.updates), 1.0)
        values: dict[str, Any] = {name: np.asarray(total) / count for name, total in self.meters.sums.items()}
        if self.phase == "online":
            values |= self.episodes.flush()
        if float(self.meters.updates) == 0:
            values = {name: value for name, value in values.items() if name not in self.meters.sums}
        values = per_group(values)
        now = time.perf_counter()
        values["steps_per_second"] = (self.step - self._rate[1]) / max(now - self._rate[0], 1e-9)
        self._rate = (now, self.step)
        self.logger.metrics(self.phase, self.step, values)
        self.meters = self.program.no_meters(self.phase)
        self._check_finite()

    def _check_finite(self) -> None:
        finite = np.asarray(self.program.finite(self.state))
        for index in np.flatnonzero(~finite):
            seed = str(self.program.config.first_seed + int(index))
            if seed not in self.failed:
                self.failed[seed] = [self.phase, self.step]
                self.progress.warn(f"seed {seed}: parameters are not finite ({self.phase}, step {self.step})")
        if not finite.any():
            when = ", ".join(f"seed {seed} at {phase} step {step}" for seed, (phase, step) in self.failed.items())
            raise FloatingPointError(f"no seed is finite: {when}; look for what grew first in metrics.jsonl")

    def evaluate(self) -> None:
        """Evaluates all seeds and writes one line."""
        with self.clock("evaluate"):
            result = run_episodes(self.program, self.state.agent, self.phase, self.step, self.progress)
        self.logger.evaluation(self.phase, self.step, result)
        score = result["normalized_score"]
        shown, what = (result["return"], "return") if score is None else (score, "score")
        assert shown is not None and result["return"] is not None
        per_seed = " ".join(f"{value:8.1f}" for value in shown.mean(axis=1))
        self.progress.say(f"{self.phase:<8} step {self.step:>8}  {what} per seed {per_seed}   mean {shown.mean():.1f}")
        self.last_return = result["return"].mean(axis=1).tolist()

    def refresh(self) -> None:
        """Refreshes the synthetic rings and writes one line of metrics."""
        start = time.perf_counter()
        with self.clock("refresh"), self.checkpoint_if_interrupted():
            kept = Kept(self.folder / "checkpoints" / f"refresh-{self.step}")
            self.state, metrics = refresh(self.program, self.state, self.step, self.progress, self.interrupts, kept)
            if self.program.config.refresh.check:
                metrics |= check_rows(self.program, self.state)
        for index in np.flatnonzero(metrics["finite"] == 0):
            seed = self.program.config.first_seed + int(index)
            what = f"seed {seed}: generated rows are not finite (refresh, step {self.step})"
            self.progress.warn(f"{what}; lower augment.lr or the guidance")
        seconds = {"refresh_seconds": time.perf_counter() - start}
        self.logger.metrics("refresh", self.step, metrics | seconds)

    @contextmanager
    def checkpoint_if_interrupted(self) -> Iterator[None]:
        """Writes a checkpoint if the block raises `Interrupted`, while the simulators are still there to be saved."""
        try:
            yield
        except Interrupted:
            self.checkpoint()
            raise

    def stop_if_asked(self) -> None:
        """Writes a checkpoint and raises `Interrupted` if a signal has arrived."""
        with self.checkpoint_if_interrupted():
            self.interrupts.check()

    def checkpoint(self) -> None:
        """Writes a checkpoint of everything, the log's lengths included."""
        with self.clock("checkpoint"):
            meters = {f"meters/{name}": np.asarray(value) for name, value in self.meters.sums.items()}
            loop = meters | {"meters_updates": np.asarray(self.meters.updates), "episodes": self.episodes.sums}
            meta = {
                "phase": self.phase,
                "step": self.step,
                "done": self.done,
                "failed": self.failed,
                "last_return": self.last_return,
                "offsets": self.logger.offsets(),
                "elapsed": self.logger.elapsed,
                "clock": self.clock.totals,
                "config_hash": config_hash(self.program.config),
            }
            self.checkpointer.save(self.state, loop | self.loop_arrays(), meta)


def per_group(values: Mapping[str, Any]) -> dict[str, Any]:
    """Divides weighted metrics ``x@group`` by their weight ``@group`` and names them ``x``; NaN where it is 0."""
    out = {}
    for name, value in values.items():
        metric, weighted, group = name.partition("@")
        if not weighted:
            out[name] = value
        elif metric:
            weight = np.asarray(values[f"@{group}"], float)
            out[metric] = np.where(weight > 0, value / np.where(weight > 0, weight, 1.0), np.nan)
    return out


def _restore_meters(meters: Meters, loop: Mapping[str, np.ndarray]) -> Meters:
    if "meters_updates" not in loop:
        return meters
    sums = {name: jnp.asarray(loop[f"meters/{name}"]) for name in meters.sums}
    return Meters(sums, jnp.asarray(loop["meters_updates"]))


def block(tree: Any) -> None:
    """Waits for the device, so that bars and clocks tell the truth."""
    jax.block_until_ready(tree)
