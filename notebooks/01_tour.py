# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of cfdg_jax
#
# From logged data to a report on a toy task, with pictures: a point mass must go around a wall to reach a goal. The
# environment is written in JAX, so a whole phase, simulator included, compiles into one program.

# %%
import dataclasses
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import cfdg_jax
from cfdg_jax.augment.cfdg import CFDGConfig
from cfdg_jax.config import named_choice, override
from cfdg_jax.data import buffer as ring
from cfdg_jax.data.transforms import fit_transforms, pack
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.envs.toy import GOAL, WALL_HALF_WIDTH, WALL_TOP
from cfdg_jax.presets import apply_preset
from cfdg_jax.report import plots
from cfdg_jax.report.runs import read_runs
from cfdg_jax.types import Source

OUT = pathlib.Path(tempfile.mkdtemp())


# %% [markdown]
# ## 1. The data
#
# `local:` datasets are rolled out on first use from behaviour policies that ship with the package. This one holds the
# experience of controllers from useless to fair; the expert's stands in for what an agent would gather online.

# %%
def draw_world(ax, title):
    ax.add_patch(plt.Rectangle((-WALL_HALF_WIDTH, -1), 2 * WALL_HALF_WIDTH, 1 + WALL_TOP, color="0.75"))
    ax.plot(*GOAL, marker="*", ms=14, color="k")
    ax.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", title=title, xticks=[], yticks=[])


offline = cfdg_jax.load_dataset("local:toy-dense-medium-replay-v0", progress=False)
expert = cfdg_jax.load_dataset("local:toy-dense-expert-v0", progress=False)
fig, axes = plt.subplots(1, 2, figsize=(8, 4))
for ax, data, title in zip(axes, (offline, expert), ("offline: medium-replay", "online: expert"), strict=True):
    draw_world(ax, title)
    ax.scatter(*data.observations[::10, :2].T, s=2, c=np.arange(len(data))[::10], cmap="viridis")
print(f"{len(offline):,} rows, returns {offline.episode_returns.min():.2f} to {offline.episode_returns.max():.2f}")

# %% [markdown]
# ## 2. One diffusion model, two labels, any guidance
#
# CFDG trains one EDM on both kinds of rows, each labelled with its origin, and samples with classifier-free guidance:
# $\tilde D = (1+w)\,D(x \mid c) - w\,D(x \mid \varnothing)$. The stronger `w`, the further the rows labelled *online*
# move away from what offline rows look like too.

# %%
spec = spec_of("toy-dense")
transforms = fit_transforms(offline)
offline_rows, online_rows = jnp.asarray(pack(offline, transforms)), jnp.asarray(pack(expert, transforms))
online = ring.full(online_rows)
config = CFDGConfig(width=128, blocks=3, dim_t=32, steps=1_500, sampler_steps=16, churn=0.0)
augmenter = cfdg_jax.make_augmenter(config, spec, with_terminal=True)
init_key, fit_key, sample_key = jax.random.split(jax.random.key(0), 3)
generator = augmenter.init(init_key, offline_rows, online)
generator, metrics = jax.jit(augmenter.fit, static_argnums=4)(generator, offline_rows, online, fit_key, config.steps)
print(f"denoising loss {float(metrics['loss']):.3f}")

# %%
guidances = (0.0, 0.3, 1.0, 3.0)
fig, axes = plt.subplots(1, len(guidances), figsize=(3 * len(guidances), 3.2))
for ax, w in zip(axes, guidances, strict=True):
    guided = cfdg_jax.make_augmenter(dataclasses.replace(config, w=w), spec, with_terminal=True)
    generate = jax.jit(guided.generate, static_argnums=(2, 3))
    draw_world(ax, f"w = {w}")
    for source, color in ((Source.SYNTHETIC_OFFLINE, "tab:orange"), (Source.SYNTHETIC_ONLINE, "tab:blue")):
        rows, _ = generate(generator, sample_key, int(source), 500)
        ax.scatter(*np.asarray(spec.layout.unpack(rows).obs)[:, :2].T, s=3, color=color, label=source.name.lower())
axes[0].legend(fontsize=7, loc="upper left")

# %% [markdown]
# ## 3. Pre-train, then improve: IQL with and without CFDG
#
# Three seeds train at once. The second run starts from the first one's pre-training, so both curves share their
# offline half.

# %%
values = {"offline.steps": 1_500, "online.steps": 2_000, "refresh.every": 1_000, "refresh.rows": 2_000}
values |= {"agent.hidden": (64, 64), "mix.batch_size": 128, "evaluate.episodes": 10, "augment.steps": 500}
values |= {"evaluate.offline_every": 500, "evaluate.online_every": 500, "augment.width": 64, "augment.dim_t": 32}


def toy(augment):
    choices = cfdg_jax.TrainConfig(
        dataset="local:toy-dense-medium-replay-v0", augment=named_choice("augment", augment), seeds=3
    )
    chosen = apply_preset(choices, "reduced", "toy-dense")
    return override(chosen, {k: v for k, v in values.items() if augment != "none" or not k.startswith("augment.")})


base = cfdg_jax.train(toy("none"), OUT / "iql", progress=False)
augmented = cfdg_jax.train(toy("cfdg"), OUT / "iql-cfdg", offline_from=base.folder, progress=False)

# %%
runs = read_runs([base.folder, augmented.folder])
figure = plots.learning_curves(runs, "toy-dense: return of the evaluation policy")
figure

# %% [markdown]
# ## 4. What a run folder holds
#
# `config.yaml`, `metrics.jsonl`, `evaluations.jsonl`, `summary.json`, `samples.npz` and checkpoints. The trained
# policies of all seeds come back as one function, and `cfdg-jax report` turns run folders into a page.

# %%
policy = cfdg_jax.load_run(augmented.folder).policy()
env = cfdg_jax.make_env("toy-dense", seeds=[0, 1, 2])
obs, path = env.reset(), []
for _ in range(60):
    path.append(obs[:, :2])
    obs = env.step(policy(obs)).next_obs
fig, ax = plt.subplots(figsize=(4, 4))
draw_world(ax, "one episode of each seed")
for seed, (x, y) in enumerate(np.stack(path, axis=-1)):
    ax.plot(x, y, ".-", ms=3, label=f"seed {seed}")
ax.legend(loc="upper left");
