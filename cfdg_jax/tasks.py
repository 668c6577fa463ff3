"""The built-in environments by id, with a line on each; `cfdg_jax.envs.registry` makes them."""

from __future__ import annotations

TASKS: dict[str, str] = {
    "hopper": "one leg that hops; Gymnasium's -v4, or the dynamics that logged D4RL (Todorov et al. 2012)",
    "halfcheetah": "a planar runner that never falls; as above",
    "walker2d": "two planar legs; as above",
    "ant": "four legs in space; as above",
    "antmaze-umaze": "the ant in a U-shaped maze, reward at the goal alone (D4RL, Fu et al. 2020)",
    "antmaze-medium": "a larger maze; as above",
    "antmaze-large": "the largest maze; as above",
    "door": "a hand that opens a door, extra `adroit` (Rajeswaran et al. 2018; D4RL)",
    "hammer": "a hand that drives a nail into a board; as above",
    "pen": "a hand that turns a pen; as above",
    "relocate": "a hand that carries a ball; as above",
    "toy-sparse": "a point mass that must go around a wall, reward at the goal alone; in JAX, seconds (ours)",
    "toy-dense": "the same with a reward for coming closer (ours)",
}


def has_picture(task: str) -> bool:
    """Whether a run of this task can be filmed: those that MuJoCo steps here, so neither the toys nor ``gym:ID``."""
    return task in TASKS and not task.startswith("toy-")
