"""How an ant finds its way through a maze: a planner of waypoints and a trained actor that runs towards them.

The actor sees the body from inside: height, where up is, joints, velocities and the direction to run in, all turned
into the torso's frame, so that what it learns holds for every heading. D4RL gathers its AntMaze data alike: the next
cell on a shortest way is the direction, Gaussian noise of 0.2 is added to actions.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from cfdg_jax.data.collect import GaussianPolicy
from cfdg_jax.envs.antmaze import AntMazeVecEnv

FEATURES = 29
NOISE = 0.2
"""Standard deviation of the noise on actions (Farama-Foundation/D4RL ``generate_ant_maze_datasets.py``)."""


def into_body(quaternion: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """`vector` `[n, 3]` of the world in the frames that `quaternion` `[n, 4]` (w first) turns into the world."""
    w, axis = quaternion[:, :1], -quaternion[:, 1:]
    twice = 2.0 * np.cross(axis, vector)
    return vector + w * twice + np.cross(axis, twice)


def features(obs: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """What the actor sees: `[n, FEATURES]` of AntMaze observations `[n, 29]` and directions `[n, 2]` of any length."""
    quaternion = obs[:, 3:7] / np.linalg.norm(obs[:, 3:7], axis=1, keepdims=True)
    length = np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    flat = np.concatenate([direction / length, np.zeros((len(obs), 1))], axis=1)
    up = into_body(quaternion, np.broadcast_to([0.0, 0.0, 1.0], (len(obs), 3)))
    parts = (obs[:, 2:3], up, obs[:, 7:15], into_body(quaternion, obs[:, 15:18]), obs[:, 18:29])
    return np.concatenate([*parts, into_body(quaternion, flat)], axis=1)


@dataclasses.dataclass(frozen=True)
class Navigator:
    """Behaviour in a maze: heads for the next waypoint of each environment's goal.

    Attributes:
      actor: The goal-reaching actor, on `features`.
      env: Knows the maze and the goals, which observations do not show.
      noise: Standard deviation of the noise on actions.
    """

    actor: GaussianPolicy
    env: AntMazeVecEnv
    noise: float = NOISE

    def __call__(self, obs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        places = obs[:, :2]
        waypoints = [self.env.maze.waypoint(*pair) for pair in zip(places, self.env.goals, strict=True)]
        action = self.actor(features(obs, np.stack(waypoints) - places), rng)
        return np.clip(action + self.noise * rng.standard_normal(action.shape), -1.0, 1.0)
