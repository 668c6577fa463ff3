"""Writes run folders as training does, with made-up but plausible numbers, for the tests of the report."""

import json
import pathlib

import numpy as np
import yaml

SECONDS = {"data": 12.0, "offline": 95.0, "online": 160.0, "refresh": 70.0, "evaluate": 21.0}


def write_run(
    folder: pathlib.Path,
    *,
    label: str = "IQL",
    dataset: str = "local:hopper-medium-replay-v0",
    seeds: int = 3,
    episodes: int | None = 10,
    online: bool = True,
    normalized: bool = True,
    samples: int = 0,
    lift: float = 20.0,
    refreshes: tuple[int, ...] = (),
    status: str = "done",
) -> pathlib.Path:
    """Writes a finished run into `folder` and returns it; `episodes=None` logs means over episodes, `samples` rows of
    each kind go into ``samples.npz`` (none if 0), and `lift` is what the online phase adds to the score."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(label))
    config = {"agent": {"name": "iql", "expectile": 0.7, "hidden": [256, 256]}, "dataset": dataset, "hash": "0a1b2c3d"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    evaluations = [_evaluation("offline", step, 45 - 30 * np.exp(-step / 4000), rng, seeds, episodes, normalized)
                   for step in range(2000, 20001, 2000)]  # fmt: skip
    if online:
        evaluations += [_evaluation("online", step, 45 + lift * (1 - np.exp(-step / 3000)), rng, seeds, episodes,
                                    normalized) for step in range(0, 10001, 1000)]  # fmt: skip
    metrics = [{"phase": "offline", "step": 1000, "seconds": 2.0, "critic_loss": [0.5] * seeds}]
    metrics += [{"phase": "refresh", "step": step, "seconds": 30.0, "loss": [0.1] * seeds} for step in refreshes]
    for name, lines in (("evaluations.jsonl", evaluations), ("metrics.jsonl", metrics)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {"status": status, "dataset": dataset, "label": label, "seconds": SECONDS, "device": "cpu (2 cores)",
               "versions": {"jax": "0.10.2", "python": "3.11.7"}, "rows": 200_000}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    if samples:
        write_samples(folder / "samples.npz", samples, rng)
    return folder


def write_samples(path: pathlib.Path, rows: int, rng: np.random.Generator, obs_dim: int = 11, act_dim: int = 3) -> None:
    """Rows near a curved sheet: online rows lie further along it, generated rows are the real ones with noise."""

    def sheet(low: float, high: float, noise: float) -> np.ndarray:
        t, u = rng.uniform(low, high, (2, rows, 1))
        frequency = np.linspace(0.5, 3.0, 2 * obs_dim + act_dim + 2)
        return np.sin(frequency * t) + u * np.cos(frequency) + noise * rng.normal(size=(rows, frequency.size))

    kinds = {"offline": sheet(0, 2, 0.05), "online": sheet(1.5, 3, 0.05),
             "synthetic_offline": sheet(0, 2, 0.12), "synthetic_online": sheet(1.5, 3, 0.12)}  # fmt: skip
    np.savez(path, obs_dim=obs_dim, act_dim=act_dim, **kinds)


def _evaluation(phase, step, center, rng, seeds, episodes, normalized):
    shape = (seeds,) if episodes is None else (seeds, episodes)
    per_seed = np.linspace(-4, 4, seeds).reshape((seeds,) + (1,) * (len(shape) - 1))
    score = center + per_seed + rng.normal(size=shape) * (1.0 if episodes is None else 6.0)
    returns = -20 + 32.5 * score
    return {"phase": phase, "step": step, "seconds": step / 100, "return": returns.tolist(),
            "normalized_score": score.tolist() if normalized else None, "success": None}  # fmt: skip
