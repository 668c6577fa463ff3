"""Chooses behaviour policies among the snapshots of `benchmarks/train_behaviour.py` and writes the package's asset.

    python benchmarks/choose_behaviour.py halfcheetah --seed 0

Following D4RL's recipe: ``random`` is the untrained policy, ``medium`` the snapshot nearest to a third of D4RL's
reference score, ``expert`` the best one. Candidates are played again, for more episodes than training played. The
snapshots of medium-replay come from the steps up to medium and are spread evenly over the returns between untrained
and medium, so that an offline agent finds something to stitch. The curve goes to ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import pathlib

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
    if args.mend:
        return mend(args, folder, curve, env)
    if args.expert_alone:
        return renew_expert(args, folder, curve, env)
    played = lambda step: float(evaluate(load(folder, step), env, step).mean())
    again = curve.__getitem__ if args.trust_curve else played
    maze = args.task == "ant-goals"
    score = (lambda value: value) if maze else lambda value: float(normalized_score(args.task, value))
    best = sorted(curve, key=lambda step: -curve[step])[:CANDIDATES]
    replayed = {step: again(step) for step in best}
    expert = max(replayed, key=lambda step: replayed[step])
    chosen = []
    if not maze:
        near = sorted(curve, key=lambda step: abs(score(curve[step]) - 100 / 3))[:CANDIDATES]
        replayed |= {step: again(step) for step in near if step not in replayed}
        medium = min(near, key=lambda step: abs(score(replayed[step]) - 100 / 3))
        chosen = spread(curve, medium)
        replayed |= {step: again(step) for step in chosen if step not in replayed}
    snapshots = [trained(load(folder, step), replayed[step]) for step in chosen]
    path = ASSETS / f"{'antmaze' if maze else args.task}-policies.npz"
    best_one = None if args.no_expert else trained(load(folder, expert), replayed[expert])
    save_policies(path, snapshots, best_one)
    kept = chosen if args.no_expert else [*chosen, expert]
    report(args, path, {step: replayed[step] for step in kept}, curve)


def mend(args: argparse.Namespace, folder: pathlib.Path, curve: dict[int, float], env) -> None:
    """Renews the snapshots between the asset's untrained and medium policy, and its expert if the run has a better."""
    path = ASSETS / f"{args.task}-policies.npz"
    kept = load_policies(path)
    ends = [kept["snapshot0"], kept[f"snapshot{len(kept) - 2}"], kept["expert"]]
    played = lambda policy: float(evaluate(policy, env, policy.step).mean())
    untrained, medium, expert = (trained(policy, played(policy)) for policy in ends)
    best = sorted(curve, key=lambda step: -curve[step])[:CANDIDATES]
    earned = {step: played(load(folder, step)) for step in curve if 0 < step <= args.until or step in best}
    first = max(best, key=lambda step: earned[step])
    wanted = np.linspace(untrained[1], medium[1], SNAPSHOTS)[1:-1]
    early = [step for step in earned if step <= args.until]
    chosen = sorted({min(early, key=lambda step: abs(earned[step] - target)) for target in wanted})
    if earned[first] > expert[1]:
        expert = trained(load(folder, first), earned[first])
    between = [trained(load(folder, step), earned[step]) for step in chosen]
    save_policies(path, [untrained, *between, medium], expert)
    report(args, path, {step: earned[step] for step in (*chosen, first)}, curve)


def renew_expert(args: argparse.Namespace, folder: pathlib.Path, curve: dict[int, float], env) -> None:
    """Gives the asset the run's best policy as its expert; the record keeps how the snapshots were trained."""
    path = ASSETS / f"{args.task}-policies.npz"
    kept = load_policies(path)
    snapshots = [trained(policy, policy.mean_return) for name, policy in kept.items() if name != "expert"]
    best = sorted(curve, key=lambda step: -curve[step])[:CANDIDATES]
    earned = {step: float(evaluate(load(folder, step), env, step).mean()) for step in best}
    first = max(best, key=lambda step: earned[step])
    save_policies(path, snapshots, trained(load(folder, first), earned[first]))
    record = json.loads(results_of(args.task).read_text())
    record["expert"] = {"command": args.command, "chosen": {str(first): round(earned[first], 1)}, "curve": curve}
    results_of(args.task).write_text(json.dumps(record) + "\n")
    told(path, {first: earned[first]})


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
