"""Who acts in the `local:` datasets, and where: policies that ship with the package, after D4RL's recipes.

The table of recipes is in `cfdg_jax.data.names`.

    random          the untrained policy
    medium          the policy at about a third of the reference return
    medium-replay   experience up to that point; here rolled out anew from snapshots along the way, rows shared equally
    medium-expert   half medium, half expert
    expert          the best policy
    play            a maze: from free cells to the cells that D4RL marks by hand (in the small one from start to goal)
    diverse         a maze: from any free cell to any other

In a maze an episode lasts until its time is up, and the ant turns about the goal once it is there, as in D4RL's
gathering. In the end rewards and terminals are of one goal, evaluation's (`labelled`), whatever an episode was after.
The robots' policies are tanh-Gaussian networks trained by this project (`benchmarks/train_behaviour.py`), the ant of
the mazes is steered by a planner (`cfdg_jax.data.navigate`), the toys have their scripted controller with noise.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cfdg_jax.data.collect import GaussianPolicy, Policy, load_policies
from cfdg_jax.data.names import Recipe
from cfdg_jax.data.navigate import NOISE, Navigator
from cfdg_jax.envs.antmaze import GOAL_RADIUS, AntMazeVecEnv, middle_goal
from cfdg_jax.envs.maze import Cell, maze
from cfdg_jax.envs.registry import make_env
from cfdg_jax.envs.toy import behaviour
from cfdg_jax.errors import UserError
from cfdg_jax.types import Env

ASSETS = pathlib.Path(__file__).parents[1] / "assets"

ToPolicy = Callable[[Any], Policy]
"""The policy of an environment; most are the same for all."""


def environment(recipe: Recipe, seeds: Sequence[int], dynamics: str, threads: int) -> Env:
    """Where the behaviour is logged: the task's own environment, in mazes with the recipe's starts and goals."""
    if not recipe.task.startswith("antmaze-"):
        return make_env(recipe.task, seeds, dynamics, threads)
    size = recipe.task.removeprefix("antmaze-")
    layout = maze(size)
    starts: list[Cell] | None = [cell for cell in layout.free if cell not in layout.goals]
    targets = layout.goals
    if recipe.quality == "diverse":
        starts, targets = layout.free, layout.free
    elif size == "umaze":
        starts = None
    return AntMazeVecEnv(recipe.task, seeds, dynamics, threads, starts=starts, targets=targets, ends_at_goal=False)


def labelled(recipe: Recipe, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows as their dataset has them: in a maze, one goal pays, the middle of evaluation's, and ends an episode.

    D4RL labels its mazes alike once they are gathered, for one goal drawn once (Farama-Foundation/D4RL
    ``relabel_antmaze_rewards.py``): observations do not show what an episode was after. The ant never stops at a goal,
    so each row within the paying goal's radius is an end, and rows go on behind it.
    """
    if not recipe.task.startswith("antmaze-"):
        return arrays
    goal = middle_goal(maze(recipe.task.removeprefix("antmaze-")))
    paid = np.linalg.norm(arrays["next_observations"][:, :2] - goal, axis=1) <= GOAL_RADIUS
    return arrays | {"rewards": paid.astype(np.float32), "terminals": paid, "timeouts": arrays["timeouts"] & ~paid}


def parts(recipe: Recipe) -> tuple[dict[str, ToPolicy], str]:
    """The policies whose rows follow one another, by a label, and a digest of what they are made of.

    Raises:
      UserError: if the behaviour policies are missing.
    """
    if recipe.task.startswith("toy"):
        return _toy_parts(recipe.quality)
    if recipe.task.startswith("antmaze-"):
        policies, digest = _trained("antmaze")
        actor = policies["expert"]
        label = f"waypoints and an actor trained for {actor.step} steps, noise {NOISE:g}"
        return {label: lambda env: Navigator(actor, env)}, f"{digest} {NOISE} one goal, runs on"
    policies, digest = _trained(recipe.task)
    snapshots = [label for label in policies if label.startswith("snapshot")]
    labels = {
        "random": snapshots[:1],
        "medium-replay": snapshots,
        "medium": snapshots[-1:],
        "medium-expert": [snapshots[-1], "expert"],
        "expert": ["expert"],
    }[recipe.quality]
    name = lambda label: f"{label} at {policies[label].step} steps, return {policies[label].mean_return:.0f}"
    return {name(label): _always(policies[label]) for label in labels}, digest


def _always(policy: Policy) -> ToPolicy:
    return lambda env: policy


def _trained(body: str) -> tuple[dict[str, GaussianPolicy], str]:
    """The policies of a body by name, and their file's digest."""
    path = ASSETS / f"{body}-policies.npz"
    if not path.exists():
        raise UserError(f"local:{body}-*", f"needs {path}, which is missing", "install the package again")
    return load_policies(path), hashlib.sha256(path.read_bytes()).hexdigest()


TOY_NOISE = {
    "random": (8.0,),
    "medium-replay": (8.0, 4.0, 3.0, 2.0),
    "medium": (2.0,),
    "medium-expert": (2.0, 0.1),
    "expert": (0.1,),
}
"""Noise of the toys' controller by quality, in units of full thrust."""


def _toy_parts(quality: str) -> tuple[dict[str, ToPolicy], str]:
    def controller(noise: float) -> Policy:
        @jax.jit
        def act(obs, key):
            return jax.vmap(behaviour, (0, 0, None))(obs, jax.random.split(key, len(obs)), noise)

        return lambda obs, rng: np.asarray(act(obs, jax.random.key(int(rng.integers(2**31)))))

    parts = {f"controller with noise {noise:g}": _always(controller(noise)) for noise in TOY_NOISE[quality]}
    return parts, repr(TOY_NOISE)
