"""``local:`` datasets: the recipes of `cfdg_jax.data.behaviours`, rolled out on first use.

They stand in for D4RL where it cannot be downloaded and are never shown in one table with it.
"""

from __future__ import annotations

import hashlib
import pathlib
import zlib
from typing import Literal

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from cfdg_jax.data import behaviours
from cfdg_jax.data.behaviours import ToPolicy
from cfdg_jax.data.collect import collect
from cfdg_jax.data.files import PathLike, cache_dir, exists, locked, record_sha256, require_room
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.data.names import RECIPES, Recipe
from cfdg_jax.envs.registry import spec_of
from cfdg_jax.errors import require

ENVIRONMENTS = 50
"""Most environments rolled out at once; part of the recipe, since another number gives other episodes."""
MOST_ROWS = 2_000_000
_RECIPE = 2
"""Raise it when the same policies would give other rows, so that files built before are built again."""


def build(
    name: str,
    *,
    rows: int | None = None,
    seed: int = 0,
    dynamics: Literal["d4rl", "gymnasium"] | None = None,
    threads: int = 0,
    data_dir: PathLike | None = None,
    progress: bool = True,
) -> pathlib.Path:
    """The path of a ``local:`` dataset, rolled out on first use into ``<data folder>/local/``.

    The same arguments on the same machine and library versions give the same file, byte for byte. Its name carries
    what it was made from, so other rows, seeds, dynamics or policies never meet in one file.

    Args:
      name: A key of `cfdg_jax.data.names.RECIPES`.
      rows: Rows; by default the recipe's.
      seed: Of environments and policies.
      dynamics: ``d4rl`` (default) or ``gymnasium``; the toys have one dynamics.
      threads: Threads that step MuJoCo; 0 chooses.
      data_dir: See `cache_dir`.
      progress: Whether to show a bar.

    Raises:
      UserError: if the behaviour policies are missing.
      OSError: if the disk is full.
    """
    recipe = RECIPES[name]
    rows = recipe.rows if rows is None else rows
    dynamics = (dynamics or "d4rl") if recipe.has_dynamics else "gymnasium"
    require(rows <= MOST_ROWS, "rows", f"is {rows}", f"must be at most {MOST_ROWS}")
    parts, digest = behaviours.parts(recipe)
    key = hashlib.sha256(repr((_RECIPE, ENVIRONMENTS, name, rows, seed, dynamics, digest)).encode()).hexdigest()[:10]
    path = cache_dir(data_dir) / "local" / f"{name}-{rows}-{key}.hdf5"
    if exists(path):  # before the lock, which a read-only folder would refuse
        return path
    with locked(path):
        if path.exists():
            return path
        shares = np.diff(np.linspace(0, rows, len(parts) + 1).round().astype(int)).tolist()
        require(min(shares) >= 1, "rows", f"is {rows}", f"must be at least {len(parts)}, one for each policy")
        spec = spec_of(recipe.task, dynamics)
        require_room(path, rows * (4 * (2 * spec.obs_dim + spec.act_dim + 1) + 2))
        entropy = (seed, zlib.crc32(name.encode()))
        with tqdm(
            total=rows, desc=f"building local:{name}", unit="row", disable=None if progress else True, leave=False
        ) as bar:
            made = [
                _roll_out(recipe, policy, share, (*entropy, i), dynamics, threads, bar.update)
                for i, (policy, share) in enumerate(zip(parts.values(), shares, strict=True))
            ]
        arrays = {field: np.concatenate([part[field] for part in made]) for field in made[0]}
        arrays = behaviours.labelled(recipe, arrays)
        policies = ", ".join(f"{label} ({share} rows)" for label, share in zip(parts, shares, strict=True))
        write_hdf5(path, arrays, _metadata(recipe.task, dynamics, name, seed, policies))
        record_sha256(path)
    return path


def _metadata(task: str, dynamics: str, name: str, seed: int, policies: str) -> dict[str, str | int | float]:
    """What the file says about itself."""
    return {
        "task": task,
        "dynamics": dynamics,
        "name": f"local:{name}",
        "seed": seed,
        "policies": policies,
        "recipe": "rolled out anew from each policy in turn, not a training log",
    }


def _roll_out(
    recipe: Recipe, policy: ToPolicy, rows: int, entropy, dynamics: str, threads: int, report
) -> dict[str, np.ndarray]:
    """One policy's rows. BLAS gets one thread: a second one gains nothing at this size and slows the simulator."""
    env_seeds, policy_seed = np.random.SeedSequence(entropy).spawn(2)
    count = max(1, min(ENVIRONMENTS, rows // spec_of(recipe.task, dynamics).horizon))  # whole episodes, little surplus
    env = behaviours.environment(recipe, env_seeds.generate_state(count).tolist(), dynamics, threads)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            return collect(env, policy(env), rows, np.random.default_rng(policy_seed), report)
    finally:
        env.close()
