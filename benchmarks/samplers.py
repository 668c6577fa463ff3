"""Quality of samples against their price, for every sampler and number of steps.

    python benchmarks/samplers.py [--dataset local:hopper-medium-v0] [--steps 5000] [--rows 4000] [--out FILE.md]

One generator (SynthER's, preset `reduced`) is fitted once; every sampler draws from it and from a mixture of Gaussians
whose denoiser and density are known. The gap is E[log p] of fresh draws minus that of the samples, in nats: above 0 the
samples are too unlikely, below 0 too likely. Energy distances are to fresh draws and to real rows.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from cfdg_jax.augment.quality import energy_distance, quality_report
from cfdg_jax.augment.registry import make_augmenter
from cfdg_jax.core import ring
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.diffusion.samplers import Solver, sample
from cfdg_jax.envs.onestep import one_step
from cfdg_jax.fields import override
from cfdg_jax.presets import make_config
from cfdg_jax.training.logging import device_name, versions
from cfdg_jax.types import Source, Spec

SAMPLERS = [
    *(("heun", steps, 80.0) for steps in (128, 64, 32, 16)),
    *(("heun", steps, 0.0) for steps in (64, 32, 16, 8)),
    *((kind, steps, 0.0) for kind in ("dpm++2m", "dpm++3m") for steps in (64, 32, 24, 16, 12)),
    *(("dpm++2m-sde", steps, 0.0) for steps in (128, 64, 32, 24)),
]
"""(kind, steps, churn); the first is SynthER's."""
DIMENSION, COMPONENTS = 8, 5
HEAD = ("sampler", "steps", "evaluations", "mixture: gap", "mixture: energy distance", "rows: energy distance")
HEAD += ("rows: marginals", "rows: one-step error", "rows: reward error", "rows/s")


class Mixture:
    """`COMPONENTS` Gaussians of unequal widths in `DIMENSION` dimensions."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.mean = rng.normal(size=(COMPONENTS, DIMENSION))
        self.std = rng.uniform(0.05, 0.5, (COMPONENTS, DIMENSION))

    def log_terms(self, x, sigma):
        """log of weight times density of each component under noise `sigma`, `[n, COMPONENTS]`."""
        variance = self.std**2 + sigma**2
        squared = (x[:, None] - self.mean) ** 2 / variance
        return -0.5 * (squared + jnp.log(2 * jnp.pi * variance)).sum(-1) - np.log(COMPONENTS)

    def denoise(self, x, sigma):
        weight = jax.nn.softmax(self.log_terms(x, sigma), axis=-1)
        variance = self.std**2
        clean = (x[:, None] * variance + self.mean * sigma**2) / (variance + sigma**2)
        return (weight[..., None] * clean).sum(1)

    def log_density(self, x) -> float:
        return float(logsumexp(self.log_terms(x, 0.0), axis=-1).mean())

    def draw(self, count: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        chosen = rng.integers(COMPONENTS, size=count)
        return (self.mean[chosen] + self.std[chosen] * rng.normal(size=(count, DIMENSION))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="local:hopper-medium-v0")
    parser.add_argument("--steps", type=int, default=5_000, help="fit steps")
    parser.add_argument("--rows", type=int, default=4_000, help="rows of each sampler")
    parser.add_argument("--precision", default="default", choices=["default", "bfloat16"])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/samplers.md"))
    options = parser.parse_args()

    values = {
        "dataset": options.dataset,
        "augment": "synther",
        "augment.data": "offline",
        "augment.steps": options.steps,
    }
    config = make_config(preset="reduced", **values, **{"augment.precision": options.precision})
    data = load_dataset(config.dataset)
    rows = pack(data, identity_transforms(data.obs_dim))
    spec = Spec(data.obs_dim, data.act_dim, horizon=1_000, terminates=bool(data.terminals.any()))
    offline = jnp.asarray(rows)
    augmenter = make_augmenter(config.augment, spec)
    state = augmenter.init(jax.random.key(0), offline, ring.full(offline[:2]))
    fit = jax.jit(augmenter.fit, static_argnames="steps")
    state, metrics = fit(state, offline, ring.full(offline[:2]), jax.random.key(1), steps=options.steps)
    print({name: round(float(value), 4) for name, value in metrics.items()}, flush=True)

    mixture, simulate = Mixture(), one_step(data.task, data.dynamics)
    fresh = mixture.draw(options.rows, 1)
    lines = []
    for kind, steps, churn in SAMPLERS:
        solver = Solver(steps=steps, kind=kind, churn=churn)
        drawn = np.asarray(
            jax.jit(lambda key, s=solver: sample(mixture.denoise, s, key, fresh.shape))(jax.random.key(2))
        )
        chosen = override(config, {"augment.solver": kind, "augment.sampler_steps": steps, "augment.churn": churn})
        generate = jax.jit(make_augmenter(chosen.augment, spec).generate, static_argnums=(2, 3))
        jax.block_until_ready(generate(state, jax.random.key(3), int(Source.SYNTHETIC_OFFLINE), options.rows))
        start = time.perf_counter()
        made, _ = jax.block_until_ready(generate(state, jax.random.key(4), int(Source.SYNTHETIC_OFFLINE), options.rows))
        rate = options.rows / (time.perf_counter() - start)
        report = quality_report(np.asarray(made), spec.layout, rows, None, simulate)
        line = {
            "sampler": f"{kind}{' (stochastic)' if churn or 'sde' in kind else ''}", "steps": steps,
            "evaluations": solver.evaluations,
            "gap": mixture.log_density(fresh) - mixture.log_density(drawn),
            "mixture": energy_distance(drawn, fresh),
            **{name: report[f"offline/{name}"] for name in ("energy_distance", "marginal")},
            **{name: report.get(name, float("nan")) for name in ("dynamics_error", "reward_error")},
            "rows_per_second": rate,
        }  # fmt: skip
        lines.append(line)
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
    same = energy_distance(mixture.draw(options.rows, 2), fresh)
    write(options, lines, same)


def write(options, lines, same: float) -> None:
    """The table in Markdown, with where and how it was made."""
    shown = lambda v: str(v) if not isinstance(v, float) else (f"{v:,.0f}" if v > 100 else f"{v:.4f}")
    made = f"`python benchmarks/samplers.py --dataset {options.dataset} --steps {options.steps} --rows {options.rows}`"
    table = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    table += ["| " + " | ".join(shown(v) for v in line.values()) + " |" for line in lines]
    where = f"{device_name()}; " + ", ".join(f"{name} {version}" for name, version in versions().items())
    text = [made, "", where, "", f"Energy distance among fresh draws of the mixture: {same:.4f}.", "", *table, ""]
    options.out.write_text("\n".join(text), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
