"""Reads a run folder: what was run, what every evaluation scored, where the seconds went."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from cfdg_jax.axis import Lane
from cfdg_jax.errors import UserError, require
from cfdg_jax.report.status import KNOWN, standing, status

PHASES = ("offline", "online")
ORDER = ("offline", "stratify", "online")
"""What a run does, in this order; only `PHASES` are evaluated."""
SAMPLE_KINDS = ("offline", "online", "synthetic_offline", "synthetic_online")


class Evaluation(NamedTuple):
    """One evaluation of all seeds.

    Attributes:
      phase: ``offline`` or ``online``.
      step: Agent updates (offline) or environment steps per seed (online) made before it.
      returns: `[S, E]` raw returns; `[S, 1]` where the run logged means over episodes.
      normalized: As `returns`, D4RL's normalised score, or None where the task has no reference.
      success: As `returns`, share of episodes that reached the goal, or None.
      episodes: ``E``, or None where the run logged means over episodes.
    """

    phase: str
    step: int
    returns: np.ndarray
    normalized: np.ndarray | None
    success: np.ndarray | None
    episodes: int | None

    @property
    def scores(self) -> np.ndarray:
        """`[S, E]` normalised scores, or raw returns where the task has no reference."""
        return self.returns if self.normalized is None else self.normalized


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder in memory.

    Attributes:
      path: The folder.
      label: The method, such as ``IQL + CFDG``; unique among the runs of one `groups.read_runs` call.
      dataset: The dataset's name, such as ``d4rl:hopper-medium-v2``; ``scratch:TASK`` for a run without one.
      config: The resolved configuration, nested.
      summary: ``summary.json``.
      evaluations: All evaluations in the order they were made, at least one.
      metrics: The lines of ``metrics.jsonl``.
      samples: Rows `[n, 2 O + A + 2]` by kind (`SAMPLE_KINDS`), empty where the run kept none.
      notes: What a reader of the numbers must know: diverged seeds, an interrupted run, a broken last line.
    """

    path: pathlib.Path
    label: str
    dataset: str
    config: dict[str, Any]
    summary: dict[str, Any]
    evaluations: tuple[Evaluation, ...]
    metrics: tuple[dict[str, Any], ...]
    samples: dict[str, np.ndarray]
    notes: tuple[str, ...]

    @property
    def origin(self) -> str:
        """Where the dataset comes from: ``d4rl``, ``local``, ``minari``, ``scratch``, or ``file`` for a path."""
        prefix, colon, _ = self.dataset.partition(":")
        return prefix if colon and len(prefix) > 1 and "/" not in prefix else "file"

    @property
    def setting(self) -> dict[str, float]:
        """The values that this run has of an axis, by dotted field; empty for a run without one."""
        return (self.summary.get("lanes") or [{}])[0]

    @property
    def normalized(self) -> bool:
        """Whether scores are normalised; raw returns otherwise."""
        return self.evaluations[-1].normalized is not None

    @property
    def seeds(self) -> int:
        """``S``, diverged seeds included."""
        return len(self.evaluations[-1].returns)

    @property
    def numbers(self) -> list[int]:
        """The `S` numbers of the seeds."""
        return list(self.summary.get("seeds", range(self.seeds)))

    @property
    def finite(self) -> np.ndarray:
        """`[S]` bool, the seeds that stayed finite, parameters and every score: only these enter statistics."""
        failed = self.summary.get("failed_seeds", {})
        scores = np.all([np.isfinite(evaluation.scores).all(axis=1) for evaluation in self.evaluations], axis=0)
        return scores & [name not in failed for name in _names(self.summary, self.seeds)]

    def lost(self, evaluation: Evaluation) -> np.ndarray:
        """`[S]` bool, the seeds whose scores in `evaluation` may be those of parameters that are not finite.

        Training looks at its parameters when it logs, so that a seed is lost some time after the log before.
        """
        failed, lost = self.summary.get("failed_seeds", {}), ~np.isfinite(evaluation.scores).all(axis=1)
        for index, name in enumerate(_names(self.summary, self.seeds)):
            if name in failed:
                phase, step = failed[name]
                logs = [line["step"] for line in self.metrics if line["phase"] == phase and line["step"] < step]
                lost[index] |= (ORDER.index(evaluation.phase), evaluation.step) > (
                    ORDER.index(phase),
                    max(logs, default=0),
                )
        return lost

    @property
    def shown(self) -> str:
        """The label as it stands beside numbers: where seeds were lost it says how many the numbers are over."""
        finite = int(self.finite.sum())
        return self.label if finite == self.seeds else f"{self.label} ({finite} of {self.seeds} seeds)"

    def curve(self, phase: str, finite_only: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The learning curve of a phase: steps `[T]` and scores `[T, S]`, the mean over the episodes of each seed."""
        chosen = [evaluation for evaluation in self.evaluations if evaluation.phase == phase]
        scores = np.array([evaluation.scores.mean(axis=1) for evaluation in chosen]).reshape(len(chosen), self.seeds)
        return np.array([evaluation.step for evaluation in chosen]), scores[:, self.finite] if finite_only else scores

    def planned(self, phase: str) -> int:
        """Steps that the config gives a phase; 0 where it does not say."""
        return int((self.config.get(phase) or {}).get("steps", 0))

    def refreshes(self) -> np.ndarray:
        """Online steps at which the generator was refreshed, from the ``refresh`` lines of the metrics."""
        return np.unique([line["step"] for line in self.metrics if line["phase"] == "refresh"])


def runs_in(folder: pathlib.Path | str) -> list[pathlib.Path]:
    """The run folders that `folder` stands for: itself, or those in the folder of a sweep or of groups of seeds."""
    path = pathlib.Path(folder)
    inner = [] if (path / "config.yaml").exists() else sorted(path.rglob("config.yaml"))
    return [each.parent for each in inner] or [path]


def read_run(folder: pathlib.Path | str) -> Run:
    """Reads one run folder.

    Raises:
      UserError: The folder or one of its files is missing, unfinished or unreadable; the message names it.
    """
    path = pathlib.Path(folder).resolve()
    require(path.is_dir(), str(folder), "is not a folder", "name the folder a run was written to")
    resume = f"finish the run with `cfdg-jax train --resume {shlex.quote(str(folder))}`"
    for name in ("summary.json", "config.yaml", "evaluations.jsonl", "metrics.jsonl"):
        require((path / name).is_file(), str(path / name), "is missing: not a finished run folder", resume)
    summary, config = _read_json(path / "summary.json"), read_yaml(path / "config.yaml")
    for field in ("dataset", "label", "status"):
        found = summary.get(field)
        require(isinstance(found, str), str(path / "summary.json"), f"`{field}` is {found!r}, not a text", resume)
    found = summary["status"]
    require(found in KNOWN, str(path / "summary.json"), f"status is {found!r}: not finished", resume)
    lines, evaluation_notes = _read_lines(path / "evaluations.jsonl", ("phase", "step", "return"))
    metrics, metric_notes = _read_lines(path / "metrics.jsonl", ("phase", "step"))
    ahead = "let the run reach its first evaluation" if status(path, summary) == "running" else resume
    require(len(lines) > 0, str(path / "evaluations.jsonl"), "holds no evaluation", ahead)
    evaluations = _evaluations(path / "evaluations.jsonl", lines)
    samples, sample_notes = _read_samples(path / "samples.npz")
    notes = [*evaluation_notes, *metric_notes, *sample_notes, *divergence(evaluations, summary)]
    notes += standing(path, summary, [*lines, *metrics])
    phases = {line["phase"] for line in metrics}
    generator: Any = config.get("augment")
    generates = isinstance(generator, dict) and len(generator) > 1  # what generates nothing has a name and no fields
    if found == "done" and generates and "online" in phases and "refresh" not in phases:
        notes.append(f"{generator.get('name')} never generated a row, for no refresh was due")
    return Run(
        path=path,
        label=summary["label"],
        dataset=summary["dataset"] or f"scratch:{summary.get('task', 'unknown task')}",
        config=config,
        summary=summary,
        evaluations=evaluations,
        metrics=tuple(metrics),
        samples=samples,
        notes=tuple(notes),
    )


def going_on(folders: Sequence[pathlib.Path]) -> bool:
    """Whether one of the runs is under way; one whose process is gone is not."""
    found = [run for folder in folders for run in runs_in(folder)]
    begun = [run for run in found if (run / "summary.json").is_file()]
    return any(status(run, _read_json(run / "summary.json")) == "running" for run in begun)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(str(path), f"is not JSON ({error})", "restore it or repeat the run") from None
    require(isinstance(content, dict), str(path), "holds no JSON object", "restore it or repeat the run")
    return content


def read_yaml(path: pathlib.Path) -> dict[str, Any]:
    """The mapping that a yaml file holds; `UserError` if it holds none."""
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(str(path), f"is not YAML ({error})", "restore it or repeat the run") from None
    require(isinstance(content, dict), str(path), "holds no mapping", "restore it or repeat the run")
    return content


def _read_lines(path: pathlib.Path, fields: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects of a .jsonl file and notes; a last line cut short by a killed process is left out with a warning."""
    lines = path.read_bytes().splitlines()
    parsed: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                note = f"{path.name}: the last line is cut short and left out"
                warnings.warn(f"{path}: the last line is cut short and left out", stacklevel=3)
                return parsed, [note]
            raise UserError(f"{path}, line {number}", f"is not JSON ({error})", "restore the file") from None
        require(isinstance(content, dict), f"{path}, line {number}", "is not a JSON object", "restore the file")
        missing = [field for field in fields if field not in content]
        require(not missing, f"{path}, line {number}", f"has no {', '.join(missing)}", "restore the file")
        parsed.append(content)
    return parsed, []


def _evaluations(path: pathlib.Path, lines: Sequence[dict[str, Any]]) -> tuple[Evaluation, ...]:
    evaluations = []
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        require(line["phase"] in PHASES, where, f"phase is {line['phase']!r}", f"must be one of {', '.join(PHASES)}")
        returns = _scores(where, "return", line["return"])
        optional = {name: line.get(name) for name in ("normalized_score", "success")}
        others = {name: None if x is None else _scores(where, name, x) for name, x in optional.items()}
        evaluations.append(
            Evaluation(
                phase=line["phase"],
                step=int(line["step"]),
                returns=returns if returns.ndim == 2 else returns[:, None],
                normalized=_two_axes(others["normalized_score"]),
                success=_two_axes(others["success"]),
                episodes=returns.shape[1] if returns.ndim == 2 else None,
            )
        )
        first = evaluations[0]
        same = len(first.returns) == len(returns) and (first.normalized is None) == (evaluations[-1].normalized is None)
        require(same, where, "has other seeds or another kind of score than line 1", "restore the file")
    return tuple(evaluations)


def _scores(where: str, name: str, values: Any) -> np.ndarray:
    """`[S]` or `[S, E]` floats; null stands for a score that is not finite."""
    try:
        scores = np.array(values, dtype=float)
    except (TypeError, ValueError):
        scores = np.zeros(0)
    require(scores.ndim in (1, 2) and scores.size > 0, where, f"`{name}` is not a list of S or S x E numbers")
    return scores


def _two_axes(scores: np.ndarray | None) -> np.ndarray | None:
    return scores[:, None] if scores is not None and scores.ndim == 1 else scores


def divergence(evaluations: Sequence[Evaluation], summary: dict[str, Any]) -> list[str]:
    """One note per seed whose training or score was not finite, naming where that was seen first."""
    failed = summary.get("failed_seeds", {})
    notes = []
    for index, seed in enumerate(_names(summary, len(evaluations[0].returns))):
        bad = [evaluation for evaluation in evaluations if not np.isfinite(evaluation.scores[index]).all()]
        if bad:
            where = f"{bad[0].phase} step {bad[0].step:,}"
            notes.append(f"seed {seed} diverged: its score at {where} is not finite; it is left out of all statistics")
        elif seed in failed:
            phase, step = failed[seed]
            notes.append(f"seed {seed} was no longer finite at {phase} step {step:,}; it is left out of all statistics")
    return notes


def _names(summary: dict[str, Any], count: int) -> list[str]:
    """The lanes by name, as training names them; their seeds alone where nothing else differs."""
    seeds = summary.get("seeds", range(count))
    return [Lane(*lane).name for lane in zip(seeds, summary.get("lanes", [{}] * count), strict=True)]


def _read_samples(path: pathlib.Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows by kind, and a note per kind with rows that are not finite, which no picture can show."""
    if not path.is_file():
        return {}, []
    remedy = "delete it to build the report without it"
    try:
        with np.load(path) as file:
            samples = {kind: np.asarray(file[kind], float) for kind in SAMPLE_KINDS if kind in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(str(path), f"cannot be read ({error})", remedy) from None
    shapes = {rows.shape[1:] for rows in samples.values()}
    matrices = len(shapes) <= 1 and all(len(shape) == 1 for shape in shapes)
    require(matrices, str(path), f"holds rows of shapes {sorted(shapes)}", f"one width is needed; {remedy}")
    notes = []
    for kind, rows in samples.items():
        samples[kind] = rows[np.isfinite(rows).all(axis=1)]
        if len(samples[kind]) < len(rows):
            notes.append(f"{len(rows) - len(samples[kind])} of {len(rows)} {kind} rows are not finite and not drawn")
    return {kind: rows for kind, rows in samples.items() if len(rows)}, notes
