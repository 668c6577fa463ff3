"""``local:`` datasets: D4RL's recipe with behaviour policies that ship with the package, built on first use.

    random          the untrained policy
    medium          the policy at about a third of the reference return
    medium-replay   experience up to that point; here rolled out anew from snapshots along the way, rows shared equally
    medium-expert   half medium, half expert
    expert          the expert alone (toys)

They stand in for D4RL where it cannot be downloaded and are never shown in one table with it. The hopper's policies
are tanh-Gaussian networks trained by this project (`benchmarks/results`), the toys' their scripted controller with
noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import zlib
from typing import Literal

import jax
import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from cfdg_jax.data.collect import Policy, collect, load_policies
from cfdg_jax.data.files import PathLike, cache_dir, exists, locked, record_sha256, require_room
from cfdg_jax.data.hdf5 import write_hdf5
from cfdg_jax.envs.registry import make_env, spec_of
from cfdg_jax.envs.toy import behaviour
from cfdg_jax.errors import UserError, require

ASSETS = pathlib.Path(__file__).parents[1] / "assets"
ENVIRONMENTS = 50
"""Environments rolled out at once; part of the recipe, since another number gives other episodes."""
_RECIPE = 1
"""Raise it when the same policies would give other rows, so that files built before are built again."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One dataset: the environment, its default number of rows, and which behaviour."""

    task: str
    quality: str
    rows: int

    @property
    def has_dynamics(self) -> bool:
        """Whether the environment comes in MuJoCo variants."""
        return not self.task.startswith("toy")


DATASETS: dict[str, Recipe] = {
    f"{task}-{quality}-v0": Recipe(task, quality, rows)
    for task, rows, qualities in (
        ("hopper", 200_000, ("random", "medium-replay", "medium", "medium-expert")),
        ("toy-sparse", 20_000, ("random", "medium-replay", "medium", "medium-expert", "expert")),
        ("toy-dense", 20_000, ("random", "medium-replay", "medium", "medium-expert", "expert")),
    )
    for quality in qualities
}
"""Recipes by the name that follows ``local:``."""


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
      name: A key of `DATASETS`.
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
    recipe = DATASETS[name]
    rows = recipe.rows if rows is None else rows
    dynamics = (dynamics or "d4rl") if recipe.has_dynamics else "gymnasium"
    parts, digest = _behaviour(recipe)
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
        with tqdm(total=rows, desc=f"building local:{name}", unit="row", disable=not progress, leave=False) as bar:
            made = [
                _roll_out(recipe.task, policy, share, (*entropy, i), dynamics, threads, bar.update)
                for i, (policy, share) in enumerate(zip(parts.values(), shares, strict=True))
            ]
        arrays = {field: np.concatenate([part[field] for part in made]) for field in made[0]}
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
    task: str, policy: Policy, rows: int, entropy, dynamics: str, threads: int, report
) -> dict[str, np.ndarray]:
    """One policy's rows. BLAS gets one thread: a second one gains nothing at this size and slows the simulator."""
    env_seeds, policy_seed = np.random.SeedSequence(entropy).spawn(2)
    count = max(1, min(ENVIRONMENTS, rows // 100))
    env = make_env(task, env_seeds.generate_state(count).tolist(), dynamics, threads)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            return collect(env, policy, rows, np.random.default_rng(policy_seed), report)
    finally:
        env.close()


def _behaviour(recipe: Recipe) -> tuple[dict[str, Policy], str]:
    """The policies whose rows follow one another, by a label, and a digest of what they are made of."""
    if recipe.task.startswith("toy"):
        return _toy_behaviour(recipe.quality)
    path = ASSETS / f"{recipe.task}-policies.npz"
    if not path.exists():
        raise UserError(f"local:{recipe.task}-*", f"needs {path}, which is missing", "install the package again")
    policies = load_policies(path)
    snapshots = [label for label in policies if label.startswith("snapshot")]
    labels = {
        "random": snapshots[:1],
        "medium-replay": snapshots,
        "medium": snapshots[-1:],
        "medium-expert": [snapshots[-1], "expert"],
    }[recipe.quality]
    name = lambda label: f"{label} at {policies[label].step} steps, return {policies[label].mean_return:.0f}"
    return {name(label): policies[label] for label in labels}, hashlib.sha256(path.read_bytes()).hexdigest()


TOY_NOISE = {
    "random": (8.0,),
    "medium-replay": (8.0, 4.0, 3.0, 2.0),
    "medium": (2.0,),
    "medium-expert": (2.0, 0.1),
    "expert": (0.1,),
}
"""Noise of the toys' controller by quality, in units of full thrust."""


def _toy_behaviour(quality: str) -> tuple[dict[str, Policy], str]:
    def controller(noise: float) -> Policy:
        @jax.jit
        def act(obs, key):
            return jax.vmap(behaviour, (0, 0, None))(obs, jax.random.split(key, len(obs)), noise)

        return lambda obs, rng: np.asarray(act(obs, jax.random.key(int(rng.integers(2**31)))))

    return {f"controller with noise {noise:g}": controller(noise) for noise in TOY_NOISE[quality]}, repr(TOY_NOISE)
