"""Quality of CFDG's rows against fit steps: a refresh from scratch beside one that goes on from a pre-training.

    python benchmarks/pretraining.py --out benchmarks/results/pretraining.md

Offline rows are a local dataset; 10,000 rows of another play the online ring. By width it fits from scratch for every
number of steps, and goes on for the same numbers from one pre-training, under the constants of preset ``reduced``.
One-step errors are in units of a real step, medians; energy distances are to the label's own rows.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from called import command

from cfdg_jax.augment.quality import quality_report
from cfdg_jax.augment.registry import make_augmenter
from cfdg_jax.core import ring
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.envs.onestep import one_step, termination
from cfdg_jax.presets import make_config
from cfdg_jax.process import setup
from cfdg_jax.training.logging import device_name
from cfdg_jax.training.progress import Progress
from cfdg_jax.types import Source, Spec

ONLINE_ROWS = 10_000
MADE = 4_000
"""Rows generated for each label."""
PER_CALL = 250
KINDS = {"offline": Source.SYNTHETIC_OFFLINE, "online": Source.SYNTHETIC_ONLINE}
HEAD = (
    "| width | pre-trained | refresh | seconds | one-step error, offline | online | reward error, offline | online "
    "| distance, offline | online | label gap, offline | online | ended, offline |"
)


class Study:
    """Two datasets, and what is measured on them."""

    def __init__(self, offline: str, online: str):
        data, other = load_dataset(offline), load_dataset(online)
        self.offline, ring_rows = (pack(each, identity_transforms(each.obs_dim)) for each in (data, other))
        ends = bool(data.terminals.any() or other.terminals.any())
        self.spec = Spec(data.obs_dim, data.act_dim, 1_000, ends)
        start = len(ring_rows) // 10  # the first trajectories are of one reset
        self.online = ring_rows[start : start + ONLINE_ROWS]
        self.online[:, self.spec.layout.source] = Source.ONLINE
        self.simulate, self.ended = one_step(data.task, data.dynamics), termination(data.task)
        self.dataset = offline

    def augmenter(self, width: int, steps: int, pretrain_steps: int) -> Any:
        fields = {"augment.width": width, "augment.steps": steps, "augment.pretrain_steps": pretrain_steps}
        return make_augmenter(make_config(self.dataset, augment="cfdg", preset="reduced", **fields).augment, self.spec)

    def fitted(self, augmenter: Any, state: Any, online: Any, purpose: int) -> tuple[Any, float]:
        """The state after the augmenter's fit, and the seconds it took but for its first call, which compiles."""
        fit, seconds, offline = jax.jit(augmenter.fit, static_argnames="steps"), 0.0, jnp.asarray(self.offline)
        for start in range(0, augmenter.fit_steps, PER_CALL):
            begun = time.perf_counter()
            key = jax.random.fold_in(jax.random.key(purpose), start)
            state, _ = jax.block_until_ready(fit(state, offline, online, key, steps=PER_CALL))
            seconds += 0.0 if start == 0 else time.perf_counter() - begun
        return state, seconds

    def measured(self, augmenter: Any, state: Any) -> dict[str, float]:
        found = {}
        for name, source in KINDS.items():
            rows, _ = jax.jit(augmenter.generate, static_argnums=(2, 3))(state, jax.random.key(9), int(source), MADE)
            report = quality_report(
                np.asarray(rows), self.spec.layout, self.offline, self.online, self.simulate, self.ended
            )
            found |= {f"{name}/{key}": value for key, value in report.items()}
        return found


def rows_of(study: Study, width: int, pretrain_steps: int, counts: list[int]) -> Iterator[dict[str, Any]]:
    """Every refresh of `counts` steps from scratch, then from one pre-training."""
    offline, online = jnp.asarray(study.offline), ring.full(jnp.asarray(study.online))
    before, state = study.augmenter(width, PER_CALL, pretrain_steps).pretraining, None
    whole = ring.full(offline)
    if pretrain_steps:
        state, spent = study.fitted(before, jax.jit(before.init)(jax.random.key(0), offline, whole), whole, 1)
        yield {"width": width, "pretrained": pretrain_steps, "steps": 0, "seconds": spent} | study.measured(
            before, state
        )
    for made, start in ((0, None), (pretrain_steps, state)):
        for steps in counts if made or start is None else []:
            augmenter = study.augmenter(width, steps, made)
            begun = augmenter.init(jax.random.key(0), offline, online)
            begun = augmenter.adopt(start, offline, online) if start is not None else begun
            done, seconds = study.fitted(augmenter, begun, online, 2)
            yield {"width": width, "pretrained": made, "steps": steps, "seconds": seconds} | study.measured(
                augmenter, done
            )


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    both = lambda name: f"{row['offline/' + name]:.3f} | {row['online/' + name]:.3f}"
    distances = f"{row['offline/offline/energy_distance']:.4f} | {row['online/online/energy_distance']:.4f}"
    parts = [f"{row['width']} | {row['pretrained']:,} | {row['steps']:,} | {row['seconds']:.0f}"]
    parts += [both("dynamics_error"), both("reward_error"), distances, both("label_gap")]
    ended = row.get("offline/ended")
    return "| " + " | ".join([*parts, "" if ended is None else f"{100 * ended:.2f} %"]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offline", default="local:hopper-medium-replay-v0")
    parser.add_argument("--online", default="local:hopper-medium-v0")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 1_000, 3_000])
    parser.add_argument("--pretrain-steps", type=int, default=10_000)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/pretraining.md"))
    args = parser.parse_args()
    setup()
    study, found = Study(args.offline, args.online), []
    where = f"{device_name()}, JAX {jax.__version__}"
    names = f"`{args.offline}` as offline rows, {ONLINE_ROWS:,} rows of `{args.online}` as online ones"
    real = 100 * study.offline[:, study.spec.layout.terminal].mean()
    head = f"# Generators: fits from scratch and continued\n\n{names}; {real:.2f} % of the offline rows end. {where}.\n"
    head += "Seconds are those of one seed's fit without compilation, on a machine with other work.\n"
    total = len(args.widths) * (1 + 2 * len(args.steps))
    with Progress(True).bar("fits", total, 0, "fit") as bar:
        for width in args.widths:
            for row in rows_of(study, width, args.pretrain_steps, args.steps):
                found.append(row)
                rule = "|".join(["", *["---"] * HEAD.count(" | "), "---", ""])
                text = "\n".join([head, HEAD, rule, *map(line, found)])
                args.out.write_text(f"{text}\n\n`{command()}`\n", encoding="utf-8")
                args.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                bar.update(1)


if __name__ == "__main__":
    main()
