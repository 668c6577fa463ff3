"""How few solver steps StratDiff's proposals bear: do rows rank as with many steps from the same noise?

    python benchmarks/proposals.py RUN_DIR [--rows 512] [--out FILE.md]

Takes the behaviour model and the energy network of a finished run with `--stratify stratdiff`, scores offline rows and
as many of the newest online rows, and compares each choice with 60 steps from t = 1: Spearman's correlation of the
scores, and the share of rows that are marked alike when half of them are. Means over seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from cfdg_jax.diffusion.fit import normalise
from cfdg_jax.report.tables import Table, to_markdown
from cfdg_jax.stratify import stratdiff
from cfdg_jax.stratify.marks import lowest
from cfdg_jax.train.logging import device_name
from cfdg_jax.train.run import load_run

REFERENCE = (60, None)
CHOICES = [(15, None), *((steps, start) for steps in (8, 5, 4, 3) for start in (5.0, 3.0, 2.0))]
"""(evaluations, first noise level; None: that of t = 1, 152)."""


class Proposals:
    """The proposals of a run for rows of both origins."""

    def __init__(self, folder: pathlib.Path, rows: int) -> None:
        run = load_run(folder)
        program, saved = run.restore()
        self.config, self.spec, self.state = run.config.stratify, program.spec, saved.state.stratifier
        online = saved.state.online
        newest = (online.position - 1 - jnp.arange(rows)) % online.rows.shape[1]
        chosen = np.random.default_rng(0).integers(0, program.offline_rows.shape[0], rows)
        self.online = online.rows[:, newest]
        self.offline = program.offline_rows[chosen]

    def scores(self, steps: int, start: float | None, guided: bool) -> np.ndarray:
        """Squared distance of every row from its proposal, `[S, 2 rows]`; the noise is always the same."""
        chosen = dataclasses.replace(self.config, sampler_steps=steps, sampler_start=start)
        p, layout = stratdiff.parts(chosen, self.spec), self.spec.layout

        def of_seed(state, online):
            rows = jnp.concatenate([self.offline, online])
            scale = state.guidance if guided else 0
            proposal = stratdiff.draw_actions(p, state, rows[:, layout.obs], jax.random.key(0), 1, scale)[0]
            action = normalise(state.behavior.normaliser, rows[:, layout.action])
            return jnp.sum((proposal - action) ** 2, axis=-1)

        return np.asarray(jax.jit(jax.vmap(of_seed))(self.state, self.online))


def agreement(scores: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation and the share of rows marked alike, means over seeds, of scores `[S, n]`."""
    rank = [stats.spearmanr(a, b).statistic for a, b in zip(scores, reference, strict=True)]
    half = scores.shape[1] // 2
    alike = [np.mean(lowest(a, half) == lowest(b, half)) for a, b in zip(scores, reference, strict=True)]
    return float(np.mean(rank)), float(np.mean(alike))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="run folder")
    parser.add_argument("--rows", type=int, default=512, help="of each origin")
    parser.add_argument("--out", type=pathlib.Path, default=None, help="Markdown file; none: the terminal alone")
    options = parser.parse_args()
    proposals = Proposals(options.run, options.rows)
    kinds = {"guided": True, "mu alone": False}
    reference = {kind: proposals.scores(*REFERENCE, guided) for kind, guided in kinds.items()}
    rows = []
    for steps, start in CHOICES:
        cells = [str(steps), "t = 1" if start is None else f"{start:g}"]
        for kind, guided in kinds.items():
            cells += [f"{v:.3f}" for v in agreement(proposals.scores(steps, start, guided), reference[kind])]
        rows.append(tuple(cells))
    header = (
        "Steps",
        "First noise level",
        *(f"{kind}: {v}" for kind in kinds for v in ("rank correlation", "marked alike")),
    )
    against = f"against {REFERENCE[0]} steps from t = 1"
    note = f"{options.run.name}, {options.rows} rows of each origin, {against}; {device_name()}."
    text = to_markdown(Table("Proposals of DPM-Solver++(2M)", header, tuple(rows), (note,)))
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
