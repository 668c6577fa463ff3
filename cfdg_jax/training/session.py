"""A run's moving half: the state, the clock, the log, and the events that come due at a step.

Events at a step happen in a fixed order (log, evaluate, refresh, checkpoint) and each remembers the last step it was
done at, so a run that resumes at a step does exactly the events the checkpoint had not seen.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from cfdg_jax.augment.base import first_refresh
from cfdg_jax.axis import points, words
from cfdg_jax.fields import config_hash
from cfdg_jax.training.checkpoint import Checkpointer, Kept, Saved
from cfdg_jax.training.devices import placed
from cfdg_jax.training.evaluate import run_episodes
from cfdg_jax.training.generate import synthetic_rows
from cfdg_jax.training.learn import no_meters
from cfdg_jax.training.logging import RunLogger
from cfdg_jax.training.meters import Episodes, per_group, restored, saved
from cfdg_jax.training.once import pretrained
from cfdg_jax.training.origin import Origin
from cfdg_jax.training.prepare import finite
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Interrupted, Interrupts, Progress
from cfdg_jax.training.quality import check_rows
from cfdg_jax.training.record import Phase, Record
from cfdg_jax.training.refresh import refresh
from cfdg_jax.training.stopwatch import Stopwatch
from cfdg_jax.types import TrainState


class Session:
    """Everything that changes while a run goes on."""

    def __init__(
        self,
        program: Program,
        folder: pathlib.Path,
        origin: Origin,
        state: TrainState,
        checkpointer: Checkpointer,
        progress: Progress,
        interrupts: Interrupts,
        begun: Saved | None = None,
    ):
        record = begun.record if begun else Record()
        self.program, self.folder, self.origin = program, folder, origin
        self.state = placed(program.mesh, state)
        self.checkpointer, self.progress, self.interrupts = checkpointer, progress, interrupts
        self.phase: Phase = record.phase
        self.step = record.step
        self.done = dict(record.done)
        self.failed = dict(record.failed)
        self.last_return = record.last_return
        self.clock = Stopwatch(record.clock)
        self.lanes = [lane.name for lane in program.config.lanes]
        self.logger = RunLogger(folder, program.config, record.elapsed)
        self.loop = begun.loop if begun else {}
        self.meters = placed(program.mesh, restored(no_meters(program, self.phase), self.loop))
        self.episodes = Episodes(self.loop.get("episodes", np.zeros((4, len(self.lanes)))))
        self.pretrained: Any = ()
        """The generator that first refreshes go on from."""
        self.loop_arrays: Callable[[], dict[str, np.ndarray]] = dict
        """What the online driver adds to a checkpoint."""
        self.summarise: Callable[[], None] = lambda: None
        """What writes the summary when a seed is lost: a run that is killed later leaves no other."""
        self._rate = (time.perf_counter(), self.step)
        self._updated = False

    # -- phases ------------------------------------------------------------------------------------------------------

    def start_phase(self, phase: Phase, state: TrainState) -> None:
        """Begins a phase at step 0 with fresh meters and events."""
        self.phase, self.step, self.done, self.loop = phase, 0, {}, {}
        self.state = placed(self.program.mesh, state)
        self.meters = no_meters(self.program, phase)
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

    def later(self) -> int:
        """Steps of the phases after this one."""
        config = self.program.config
        stages = sum(stage.steps for stage in self.program.stratifier.stages) if config.online.steps else 0
        after = {"offline": stages + config.online.steps, "stratify": config.online.steps, "online": 0}
        return after[self.phase]

    def first_update(self) -> None:
        """When the first updates are made: says how long that took, data and compilation included."""
        if not self._updated:
            self._updated = True
            self.progress.say(f"first updates after {self.progress.seconds:.1f} s")

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
        self.meters = no_meters(self.program, self.phase)
        self._note_failures(np.asarray(finite(self.program, self.state)))

    def _note_failures(self, whole: np.ndarray) -> None:
        """Warns of the seeds that are no longer `whole` `[S]`; raises `FloatingPointError` once none is."""
        new = [self.lanes[int(index)] for index in np.flatnonzero(~whole) if self.lanes[int(index)] not in self.failed]
        for seed in new:
            self.failed[seed] = (self.phase, self.step)
            self.progress.warn(f"seed {seed}: parameters are not finite ({self.phase}, step {self.step})")
        if new:
            self.summarise()
        if not whole.any():
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
        means = []
        for point, lanes in self._points():
            per_seed = " ".join(f"{value:8.1f}" for value in shown[lanes].mean(axis=1))
            mean, at = self._mean(shown.mean(axis=1), lanes), f" at {point}" if point else ""
            self.progress.say(f"{self.phase:<8} step {self.step:>8}{at}  {what} per seed {per_seed}   mean {mean}")
            means.append(f"{mean}{at}")
        self.progress.score = f"{what} {', '.join(means)}"
        self.last_return = tuple(result["return"].mean(axis=1).tolist())

    def _points(self) -> list[tuple[str, slice]]:
        """The points of the grid in words, and the lanes of their seeds."""
        config = self.program.config
        return [(words(p), slice(i * config.seeds, (i + 1) * config.seeds)) for i, p in enumerate(points(config.vmap))]

    def _mean(self, scores: np.ndarray, lanes: slice) -> str:
        """The mean of `scores` `[S]` over those of `lanes` that are finite, which says so where some are not."""
        alive, scores = np.array([lane not in self.failed for lane in self.lanes[lanes]]), scores[lanes]
        if not alive.any():
            return "nan, no seed is finite"
        said = "" if alive.all() else f" over {alive.sum()} of {len(scores)} seeds"
        return f"{scores[alive].mean():.1f}{said}"

    def pretrain_generator(self) -> None:
        """Before the first refresh of a generator that goes on from a pre-training: makes it, or finds it."""
        never = first_refresh(self.program.config) is None or self.program.augmenter.pretraining is None
        if never or self.state.synthetic:
            return
        with self.clock("generator"), self.checkpoint_if_interrupted():
            fitted = pretrained(self.program, self.progress, self.interrupts)
        self.pretrained = fitted.generator
        if "generator" not in self.done:
            for step, values in fitted.curve():
                lanes = len(self.lanes)
                self.logger.metrics("generator", step, {name: np.full(lanes, value) for name, value in values.items()})
            self.done["generator"] = 0

    def refresh(self) -> None:
        """Refreshes the synthetic rings and writes one line of metrics."""
        start = time.perf_counter()
        with self.clock("refresh"), self.checkpoint_if_interrupted():
            place = self.folder / "checkpoints" / f"refresh-{self.step}"
            kept = Kept(place, f"{config_hash(self.program.config)} {self.step}", self.progress.warn)
            self.state, metrics = refresh(
                self.program, self.state, self.pretrained, self.step, self.progress, self.interrupts, kept
            )
            if self.program.config.refresh.check:
                metrics |= check_rows(self.program, self.state)
        for index in np.flatnonzero(metrics["finite"] == 0):
            what = f"seed {self.lanes[int(index)]}: generated rows are not finite (refresh, step {self.step})"
            self.progress.warn(f"warning: {what}; it keeps the rows it had; lower augment.lr or the guidance")
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
            loop = saved(self.meters) | {"episodes": self.episodes.sums} | self.loop_arrays()
            self.checkpointer.save(self.state, loop, self.record())

    def record(self) -> Record:
        """The host's part of a checkpoint, as of now; everything logged so far is on disk."""
        return Record(
            phase=self.phase,
            step=self.step,
            done=self.done,
            failed=self.failed,
            last_return=self.last_return,
            logs=self.logger.marks(),
            elapsed=self.logger.elapsed,
            clock=self.clock.totals,
            config_hash=config_hash(self.program.config),
            offline_rows=self.program.offline_rows.shape[0],
        )


def block(tree: Any) -> None:
    """Waits for the device, so that bars and clocks tell the truth."""
    jax.block_until_ready(tree)
