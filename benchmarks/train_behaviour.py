"""Trains the behaviour policies that `local:` datasets are rolled out from, and writes the package's asset file.

    python benchmarks/train_behaviour.py hopper

A CrossQ agent (or SAC with ``--agent sac``) learns from scratch through the project's own online loop, under D4RL's
dynamics, with a checkpoint at every evaluation. Following D4RL's recipe: ``random`` is the untrained policy, ``medium``
the snapshot whose evaluation is nearest to a third of D4RL's reference score, ``expert`` the best one; the snapshots up
to medium stand for the experience that medium-replay holds. Weights are stored as float16.
"""

from __future__ import annotations

import argparse
import json
import pathlib

import jax
import numpy as np

from cfdg_jax.config import TrainConfig
from cfdg_jax.data.collect import save_policies
from cfdg_jax.data.reference_scores import normalized_score
from cfdg_jax.presets import make_config
from cfdg_jax.training.results import Run, load_run
from cfdg_jax.training.run import train

SNAPSHOTS = 8
"""Snapshots of medium-replay, the untrained and the medium policy included."""


def behaviour_config(task: str, agent: str, steps: int, seed: int) -> TrainConfig:
    """Learning from scratch under D4RL's dynamics, one seed, networks of 2 x 128."""
    values: dict[str, object] = {"agent.critic_hidden": (128, 128)} if agent == "crossq" else {}
    values |= {
        "env.task": task, "env.dynamics": "d4rl", "seeds": 1, "first_seed": seed, "online.steps": steps,
        "online.capacity": steps, "checkpoint.keep": 1_000, "evaluate.episodes": 10, "evaluate.online_every": 1_000,
        "agent.hidden": (128, 128), "label": f"{agent} {task}",
    }  # fmt: skip
    return make_config("", agent, preset="reduced", **values)  # type: ignore[arg-type]


def returns_by_checkpoint(run: Run) -> dict[int, float]:
    """``{environment step: mean evaluation return}``."""
    lines = [json.loads(line) for line in (run.folder / "evaluations.jsonl").read_text().splitlines()]
    return {line["step"]: float(np.mean(line["return"])) for line in lines if line["phase"] == "online"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("hopper", "halfcheetah", "walker2d"))
    parser.add_argument("--agent", choices=("crossq", "sac"), default="crossq")
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/behaviour"))
    arguments = parser.parse_args()
    folder = arguments.out / f"{arguments.task}-{arguments.agent}-{arguments.seed}"
    if (folder / "config.yaml").is_file():
        run = load_run(folder)
        if run.summary.get("status") != "done":
            run = train(resume=folder)
    else:
        run = train(behaviour_config(arguments.task, arguments.agent, arguments.steps, arguments.seed), folder)
    write_asset(run, arguments.task)


def write_asset(run: Run, task: str) -> None:
    """Chooses the snapshots and writes ``cfdg_jax/assets/<task>-policies.npz``."""
    returns = returns_by_checkpoint(run)
    steps = sorted(returns)
    score = lambda step: float(normalized_score(task, returns[step]))  # type: ignore[arg-type]
    medium = min(steps, key=lambda step: abs(score(step) - 100 / 3))
    if abs(score(medium) - 100 / 3) > 10:
        raise SystemExit(
            f"no snapshot is near a third of the reference; best {max(map(score, steps)):.1f}: train longer"
        )
    expert = max(steps, key=score)
    until = [step for step in steps if step <= medium]
    chosen = sorted({until[round(i)] for i in np.linspace(0, len(until) - 1, min(SNAPSHOTS, len(until)))})
    actors = actor_weights(run, {*chosen, expert})
    path = pathlib.Path(__file__).parents[1] / "cfdg_jax" / "assets" / f"{task}-policies.npz"
    snapshots = [(step, returns[step], actors[step]) for step in chosen]
    save_policies(path, snapshots, (expert, returns[expert], actors[expert]))
    print(f"written: {path} ({path.stat().st_size / 1e3:.0f} kB)")
    for step in [*chosen, expert]:
        print(f"step {step:>8}  return {returns[step]:8.1f}  score {score(step):6.1f}")


def actor_weights(run: Run, steps: set[int]) -> dict[int, dict]:
    """``{environment step: actor parameters}`` from the run's checkpoints."""
    found: dict[int, dict] = {}
    checkpoints = sorted(int(path.name) for path in (run.folder / "checkpoints").iterdir() if path.name.isdigit())
    for number in checkpoints:
        _, saved = run.restore(number)
        if saved.meta["phase"] == "online" and saved.meta["step"] in steps:
            found[saved.meta["step"]] = jax.tree.map(lambda leaf: np.asarray(leaf[0]), saved.state.agent.policy)
    return found


if __name__ == "__main__":
    main()
