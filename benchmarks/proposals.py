"""StratDiff's proposals on a finished run: how few solver steps they bear, and what each option does to the marks.

    python benchmarks/proposals.py RUN_DIR [--rows 512] [--out FILE.md]

Takes the behaviour model, the energy network and the critics of a run with `--stratify stratdiff` and scores offline
rows and as many of the newest online rows. Three tables, all means over seeds: each choice of solver steps against 60
steps from t = 1 (Spearman's correlation of the scores, share of rows marked alike when half are); how well the scores
of each option tell the origins apart, and what its proposals gain in Q; and where adaptive rho settles.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from cfdg_jax.core.losses import masked_mean
from cfdg_jax.diffusion.fit import normalise, unnormalise
from cfdg_jax.report.tables import Table, to_markdown
from cfdg_jax.stratify import stratdiff
from cfdg_jax.stratify.marks import follow_freed_share, lowest
from cfdg_jax.stratify.proposals import draw_actions
from cfdg_jax.training.logging import device_name
from cfdg_jax.training.results import load_run
from cfdg_jax.types import Batch, Source

REFERENCE = dict[str, Any](sampler_steps=60, sampler_start=None)
SOLVERS = [(15, None), *((steps, start) for steps in (8, 5, 4, 3) for start in (5.0, 3.0, 2.0))]
"""(evaluations, first noise level; None: that of t = 1, 152)."""
BATCH, ONLINE_SHARES, FREED = 256, (0.1, 0.5, 0.75), 0.2


class Option(NamedTuple):
    """A way to score rows.

    Attributes:
      label: In words.
      changes: Fields of `StratDiffConfig`.
      scale: The guidance scale; None for the run's.
      standardise: Whether distances are in standard deviations of the actions.
      limit: Of the push, in units of mu's score.
    """

    label: str
    changes: dict[str, Any]
    scale: float | None = None
    standardise: bool = False
    limit: float | None = None


OPTIONS = [
    Option("mu alone (s = 0)", {}, 0.0),
    *(Option(f"s = {scale:g}", {}, scale) for scale in (1.0, 2.0, 3.0, 5.0, 8.0, 10.0)),
    *(Option(f"s = 10, at most {limit:g} of mu's score", {}, 10.0, limit=limit) for limit in (1.0, 0.3)),
    *(Option(f"J = {j}", {"proposals": j}) for j in (4, 16)),
    Option("mu alone, J = 16", {"proposals": 16}, 0.0),
    Option("actions in standard deviations", {}, standardise=True),
]


class Proposals:
    """The proposals of a run for rows of both origins, `n` of each."""

    def __init__(self, folder: pathlib.Path, n: int) -> None:
        run = load_run(folder)
        self.program, saved = run.restore()
        self.config, self.state = run.config.stratify, saved.state
        online = saved.state.online
        newest = (online.position - 1 - jnp.arange(n)) % online.rows.shape[1]
        chosen = np.random.default_rng(0).integers(0, self.program.offline_rows.shape[0], n)
        self.online = online.rows[:, newest]
        self.offline = self.program.offline_rows[chosen]

    def score(self, option: Option) -> tuple[np.ndarray, np.ndarray]:
        """Scores and Q of the proposals less Q of the rows' actions, `[S, 2 n]`; the noise is always the same."""
        spec = self.program.spec
        layout, value = spec.layout, self.program.online_agent.value
        config = dataclasses.replace(self.config, **option.changes)
        p = stratdiff.parts(config, spec).proposer
        std = self.program.offline_rows[:, layout.action].std(axis=0) if option.standardise else 1.0

        shared, own = self.state.stratifier

        def of_seed(own, agent, online):
            mu = stratdiff.model_of(shared, own).behavior
            rows = jnp.concatenate([self.offline, online])
            obs, action = rows[:, layout.obs], rows[:, layout.action]
            scale = own.guidance if option.scale is None else option.scale
            drawn = draw_actions(p, mu, own.energy, obs, jax.random.key(0), config.proposals, scale, option.limit)
            away = (drawn - normalise(mu.normaliser, action)) / std
            proposed = unnormalise(mu.normaliser, drawn)
            reached = jax.vmap(value, (None, None, 0))(agent, obs, proposed).mean(axis=0)
            return jnp.sum(away**2, axis=-1).mean(axis=0), reached - value(agent, obs, action)

        scores, gains = jax.jit(jax.vmap(of_seed))(own, self.state.agent, self.online)
        return np.asarray(scores), np.asarray(gains)


def agreement(scores: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation and the share of rows marked alike, means over seeds, of scores `[S, n]`."""
    rank = [stats.spearmanr(a, b).statistic for a, b in zip(scores, reference, strict=True)]
    half = scores.shape[1] // 2
    alike = [np.mean(lowest(a, half) == lowest(b, half)) for a, b in zip(scores, reference, strict=True)]
    return float(np.mean(rank)), float(np.mean(alike))


def solvers(proposals: Proposals) -> Table:
    """How scores of fewer solver steps agree with those of many."""
    kinds = {"guided": None, "mu alone": 0.0}
    reference = {kind: proposals.score(Option(kind, REFERENCE, scale))[0] for kind, scale in kinds.items()}
    rows = []
    for steps, start in SOLVERS:
        cells = [str(steps), "t = 1" if start is None else f"{start:g}"]
        for kind, scale in kinds.items():
            scores, _ = proposals.score(Option(kind, {"sampler_steps": steps, "sampler_start": start}, scale))
            cells += [f"{v:.3f}" for v in agreement(scores, reference[kind])]
        rows.append(tuple(cells))
    header = tuple(f"{kind}: {v}" for kind in kinds for v in ("rank correlation", "marked alike"))
    note = f"Against {REFERENCE['sampler_steps']} steps from t = 1."
    return Table("Proposals of DPM-Solver++(2M)", ("Steps", "First noise level", *header), tuple(rows), (note,))


def options(proposals: Proposals) -> Table:
    """What each option does to scores and proposals."""
    rows = []
    for option in OPTIONS:
        scores, gains = proposals.score(option._replace(changes=REFERENCE | option.changes))
        n = scores.shape[1] // 2
        above = [stats.mannwhitneyu(seed[n:], seed[:n]).statistic / n**2 for seed in scores]
        crossed = [1.0 - np.mean(lowest(seed, n)[:n]) for seed in scores]
        gained = [f"{gains[:, half].mean():.1f}" for half in (slice(n), slice(n, None))]
        rows.append((option.label, f"{np.mean(above):.3f}", f"{np.mean(crossed):.3f}", *gained))
    header = ("Option", "AUC", "Offline rows marked online-like", "Q gained on offline rows", "Q gained on online rows")
    notes = (
        "AUC: probability that a random online row scores above a random offline row; by lot 0.5.",
        f"Q gained: of the proposals over the rows' own actions. s of the run: {proposals.config.guidance:g}.",
    )
    return Table("What the options do", header, tuple(rows), notes)


def settled(scores: np.ndarray, share: float, updates: int = 4_000) -> tuple[float, float, float]:
    """Adaptive rho on batches of these scores `[2 n]`, `share` of them online: rho and both error rates at the end."""
    n, online = scores.shape[0] // 2, round(share * BATCH)
    source = jnp.where(jnp.arange(BATCH) < online, Source.ONLINE, Source.OFFLINE)
    blank = Batch(*(jnp.zeros((1, BATCH)) for _ in Batch._fields))

    def step(rho, key):
        row = jax.random.randint(key, (BATCH,), 0, n) + jnp.where(source == Source.ONLINE, n, 0)
        conserve = lowest(jnp.asarray(scores)[row], jnp.round(rho * BATCH))
        rho = follow_freed_share(rho, 0.01, FREED, blank._replace(source=source[None], conserve=conserve[None]))
        missed = masked_mean(1.0 - conserve, source == Source.OFFLINE)
        return rho, jnp.stack([rho, missed, masked_mean(conserve, source == Source.ONLINE)])

    _, path = jax.lax.scan(step, jnp.asarray(0.5), jax.random.split(jax.random.key(0), updates))
    return tuple(np.asarray(path[updates // 2 :].mean(axis=0)).tolist())


def adaptive_rho(proposals: Proposals) -> Table:
    """Where adaptive rho settles as the share of online rows changes."""
    rows = []
    for label, scale in (("guided", None), ("mu alone", 0.0)):
        scores, _ = proposals.score(Option(label, {}, scale))
        for share in ONLINE_SHARES:
            found = np.mean([settled(seed, share) for seed in scores], axis=0)
            rows.append((label, f"{share:g}", *(f"{v:.2f}" for v in found)))
    header = ("Scores", "Online share of a batch", "rho", "Offline rows freed", "Online rows kept")
    rule = f"It frees {FREED:g} of the offline rows; batches of {BATCH} rows"
    note = f"{rule}; rho starts at 0.5, steps of 0.01 per update, mean of the last 2,000 of 4,000."
    return Table("Where adaptive rho settles", header, tuple(rows), (note,))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="run folder")
    parser.add_argument("--rows", type=int, default=512, help="of each origin")
    parser.add_argument("--out", type=pathlib.Path, default=None, help="Markdown file; none: the terminal alone")
    chosen = parser.parse_args()
    proposals = Proposals(chosen.run, chosen.rows)
    tables = [make(proposals) for make in (solvers, options, adaptive_rho)]
    head = f"`python benchmarks/proposals.py RUN_DIR` on {chosen.run.name}, {chosen.rows} rows of each origin"
    text = "\n".join([f"{head}; {device_name()}\n", *(to_markdown(table) for table in tables)])
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
