"""Chooses behaviour policies among the snapshots of `benchmarks/train_behaviour.py` and writes the package's asset.

    python benchmarks/choose_behaviour.py halfcheetah --seed 0

Following D4RL's recipe: ``random`` is the untrained policy, ``medium`` the snapshot nearest to a third of D4RL's
reference score, ``expert`` the best one. Candidates are played again, for more episodes than training played. The
snapshots of medium-replay come from the steps up to medium and are spread evenly over the returns between untrained
and medium, so that an offline agent finds something to stitch. The curve goes to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
from collections.abc import Callable

import numpy as np
from train_behaviour import evaluate, make_task

from cfdg_jax.data.behaviours import ASSETS
from cfdg_jax.data.collect import GaussianPolicy, load_policies, save_policies
from cfdg_jax.data.reference_scores import normalized_score

SNAPSHOTS = 8
"""Snapshots of medium-replay, the untrained and the medium policy included."""
CANDIDATES = 6
EPISODES = 25


def load(folder: pathlib.Path, step: int) -> GaussianPolicy:
    """The actor that was written at a step."""
    with np.load(folder / f"{step:07d}.npz") as file:
        count = len({name.split("/")[0] for name in file.files})
        entry = lambda name: file[name].astype(np.float32)
        return GaussianPolicy(tuple((entry(f"l{i}/W"), entry(f"l{i}/b")) for i in range(count)), step)


def trained(policy: GaussianPolicy, earned: float):
    """What `save_policies` writes."""
    layers = {f"l{i}": {"kernel": kernel, "bias": bias} for i, (kernel, bias) in enumerate(policy.layers)}
    return policy.step, earned, layers


def spread(curve: dict[int, float], medium: int) -> list[int]:
    """Steps up to `medium`, the first and the last included, whose returns divide the way between them evenly."""
    until = [step for step in curve if step <= medium]
    wanted = np.linspace(curve[until[0]], curve[medium], SNAPSHOTS)[1:-1]
    inner = until[1:-1]
    chosen = {min(inner, key=lambda step: abs(curve[step] - target)) for target in wanted} if inner else set()
    return sorted({until[0], medium, *chosen})


def best_of(curve: dict[int, float], played: Callable[[int], float]) -> int:
    """The step of the best policy by `played`, among those that the curve puts first."""
    return max(sorted(curve, key=lambda step: -curve[step])[:CANDIDATES], key=played)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("hopper", "halfcheetah", "walker2d", "ant-goals"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/behaviour"))
    parser.add_argument("--trust-curve", action="store_true", help="play no candidate again")
    parser.add_argument("--no-expert", action="store_true", help="leave the expert out: none is good enough")
    parser.add_argument("--mend", action="store_true", help="renew what lies between untrained and medium")
    parser.add_argument("--expert-alone", action="store_true", help="renew the expert, keep every snapshot")
    parser.add_argument("--until", type=int, default=10**9, help="mend from snapshots up to this step")
    parser.add_argument("--command", default="", help="how it was trained, for the record")
    args = parser.parse_args()
    folder = args.out / f"{args.task}-{args.seed}"
    written = json.loads((folder / "curve.json").read_text())
    curve = {int(step): value for step, value in written.items()}
    env = make_task(args.task, [7_000_000 + i for i in range(EPISODES)])
    played = functools.cache(lambda step: float(evaluate(load(folder, step), env, step).mean()))
    if args.mend:
        return mend(args, folder, curve, played, env)
    if args.expert_alone:
        return renew_expert(args, folder, curve, played)
    if args.trust_curve:
        played = curve.__getitem__
    maze = args.task == "ant-goals"
    off_a_third = lambda value: abs(float(normalized_score(args.task, value)) - 100 / 3)
    kept = [] if args.no_expert else [best_of(curve, played)]
    chosen = []
    if not maze:
        near = sorted(curve, key=lambda step: off_a_third(curve[step]))[:CANDIDATES]
        chosen = spread(curve, min(near, key=lambda step: off_a_third(played(step))))
    policies = [trained(load(folder, step), played(step)) for step in (*chosen, *kept)]
    path = ASSETS / f"{'antmaze' if maze else args.task}-policies.npz"
    save_policies(path, policies[: len(chosen)], policies[-1] if kept else None)
    report(args, path, {step: played(step) for step in (*chosen, *kept)}, curve)


def mend(args: argparse.Namespace, folder: pathlib.Path, curve: dict[int, float], played, env) -> None:
    """Renews the snapshots between the asset's untrained and medium policy, and its expert if the run has a better."""
    path = ASSETS / f"{args.task}-policies.npz"
    kept = load_policies(path)
    ends = [kept["snapshot0"], kept[f"snapshot{len(kept) - 2}"], kept["expert"]]
    untrained, medium, expert = (trained(each, float(evaluate(each, env, each.step).mean())) for each in ends)
    first = best_of(curve, played)
    wanted = np.linspace(untrained[1], medium[1], SNAPSHOTS)[1:-1]
    early = [step for step in curve if 0 < step <= args.until]
    chosen = sorted({min(early, key=lambda step: abs(played(step) - target)) for target in wanted})
    if played(first) > expert[1]:
        expert = trained(load(folder, first), played(first))
    between = [trained(load(folder, step), played(step)) for step in chosen]
    save_policies(path, [untrained, *between, medium], expert)
    report(args, path, {step: played(step) for step in (*chosen, first)}, curve)


def renew_expert(args: argparse.Namespace, folder: pathlib.Path, curve: dict[int, float], played) -> None:
    """Gives the asset the run's best policy as its expert; the record keeps how the snapshots were trained."""
    path = ASSETS / f"{args.task}-policies.npz"
    snapshots = [
        trained(policy, policy.mean_return) for name, policy in load_policies(path).items() if name != "expert"
    ]
    first = best_of(curve, played)
    save_policies(path, snapshots, trained(load(folder, first), played(first)))
    record = json.loads(results_of(args.task).read_text())
    record["expert"] = {"command": args.command, "chosen": {str(first): round(played(first), 1)}, "curve": curve}
    results_of(args.task).write_text(json.dumps(record) + "\n")
    told(path, {first: played(first)})


def results_of(task: str) -> pathlib.Path:
    """Where curves are kept."""
    return pathlib.Path(__file__).parent / "results" / f"behaviour-{task}.json"


def told(path: pathlib.Path, kept: dict[int, float]) -> None:
    print(f"written: {path} ({path.stat().st_size / 1e3:.0f} kB)")
    for step, earned in kept.items():
        print(f"step {step:>8}  return {earned:8.1f}  score {normalized_score(path.name.split('-')[0], earned)}")


def report(args: argparse.Namespace, path: pathlib.Path, kept: dict[int, float], curve: dict[int, float]) -> None:
    """Prints what was chosen and records it with the curve."""
    told(path, kept)
    what = "mean return of 5 episodes under D4RL's dynamics, actions drawn"
    what += "" if args.trust_curve else f"; chosen ones of {EPISODES}"
    chosen = {str(step): round(earned, 1) for step, earned in kept.items()}
    record = {"command": args.command, "what": what, "chosen": chosen, "curve": curve}
    results_of(args.task).write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
