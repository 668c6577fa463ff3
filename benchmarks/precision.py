"""What TF32 and bfloat16 products cost in quality: the same generator fitted and sampled with each.

    python benchmarks/precision.py [--dataset local:hopper-medium-v0] [--steps 5000] [--seeds 3] [--out FILE.md]

SynthER's generator at the sizes of preset `reduced`, the same draws for every precision. Factors of products are
rounded on every backend, so that quality may be measured on a CPU; speed may not.
"""

from __future__ import annotations

import argparse
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.augment.quality import quality_report
from cfdg_jax.augment.registry import make_augmenter
from cfdg_jax.core import ring
from cfdg_jax.data.load import load_dataset
from cfdg_jax.data.pack import pack
from cfdg_jax.data.transforms import identity_transforms
from cfdg_jax.envs.onestep import one_step
from cfdg_jax.fields import override
from cfdg_jax.presets import make_config
from cfdg_jax.report.tables import Table, cell, to_markdown
from cfdg_jax.training.logging import device_name
from cfdg_jax.types import Source, Spec

PRECISIONS = ("float32", "tensorfloat32", "bfloat16")
MEASURES = {
    "loss": "Last loss",
    "offline/energy_distance": "Energy distance to the data",
    "offline/marginal": "Marginals",
    "dynamics_error": "One-step error",
    "reward_error": "Reward error",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", default="local:hopper-medium-v0")
    parser.add_argument("--steps", type=int, default=5_000, help="fit steps")
    parser.add_argument("--rows", type=int, default=4_000, help="generated rows")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/precision.md"))
    options = parser.parse_args()

    values = {"dataset": options.dataset, "augment": "synther", "augment.data": "offline"}
    config = make_config(preset="reduced", **values, **{"augment.steps": options.steps})
    data = load_dataset(config.dataset)
    offline = jnp.asarray(pack(data, identity_transforms(data.obs_dim)))
    spec = Spec(data.obs_dim, data.act_dim, horizon=1_000, terminates=bool(data.terminals.any()))
    simulate, lines = one_step(data.task, data.dynamics), []
    for precision in PRECISIONS:
        chosen = override(config, {"augment.precision": precision}).augment
        augmenter = make_augmenter(chosen, spec)
        fit = jax.jit(augmenter.fit, static_argnames="steps")
        generate = jax.jit(augmenter.generate, static_argnums=(2, 3))
        found: dict[str, list[float]] = {name: [] for name in MEASURES}
        for seed in range(options.seeds):
            keys, online = jax.random.split(jax.random.key(seed), 3), ring.full(offline[:2])
            state = augmenter.init(keys[0], offline, online)
            state, metrics = fit(state, offline, online, keys[1], steps=options.steps)
            rows, _ = generate(state, keys[2], int(Source.SYNTHETIC_OFFLINE), options.rows)
            report = quality_report(np.asarray(rows), spec.layout, np.asarray(offline), None, simulate)
            for name, value in (report | {"loss": float(metrics["loss"])}).items():
                if name in found:
                    found[name].append(float(value))
            print(precision, seed, {name: round(v[-1], 4) for name, v in found.items() if v}, flush=True)
        lines.append((precision, *(cell(np.array(v), 4) for v in found.values())))
    command = (
        f"python benchmarks/precision.py --dataset {options.dataset} --steps {options.steps} --rows {options.rows}"
    )
    notes = (f"`{command} --seeds {options.seeds}`", device_name(), "Mean over seeds [95 % bootstrap interval].")
    title = "Quality of generated rows by precision of the products"
    options.out.write_text(to_markdown(Table(title, ("Products", *MEASURES.values()), tuple(lines), notes)), "utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
