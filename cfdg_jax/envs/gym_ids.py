"""The environments that logged D4RL's files as Gymnasium ids, for other libraries, such as ``Hopper-d4rl-v0``.

``import cfdg_jax.envs`` registers them; `gymnasium.make` also takes ``cfdg_jax.envs:`` before an id and does both.
"""

from __future__ import annotations

import gymnasium

NAMESPACE = __name__.partition("_jax")[0]
"""Of all ids, before a slash: the first half of the package's name."""
IDS = {
    f"{NAMESPACE}/{name}-d4rl-v0": (task, limit)
    for name, task, limit in (
        ("Hopper", "hopper", 1000),
        ("HalfCheetah", "halfcheetah", 1000),
        ("Walker2d", "walker2d", 1000),
        ("Ant", "ant", 1000),
        ("AntMaze-umaze", "antmaze-umaze", 700),
        ("AntMaze-medium", "antmaze-medium", 1000),
        ("AntMaze-large", "antmaze-large", 1000),
    )
}
"""Task and time limit by id."""


def register() -> None:
    """Makes the ids known to Gymnasium."""
    for name, (task, limit) in IDS.items():
        if name not in gymnasium.registry:
            entry = f"{__package__}.d4rl_env:D4RLEnv"
            gymnasium.register(name, entry, max_episode_steps=limit, kwargs={"task": task})
