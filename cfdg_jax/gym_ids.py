"""The environments that logged D4RL's files as Gymnasium ids, for other libraries, such as ``Hopper-d4rl-v0``.

``import cfdg_jax`` makes them known, before ``import gymnasium`` or after it, and imports nothing for it: Gymnasium 1.x
reads no entry points, and the command line must not wait for it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

GYMNASIUM = "gymnasium"
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
    """Makes the ids known to Gymnasium: at once where it is imported, else when it is."""
    if GYMNASIUM in sys.modules:
        _add(sys.modules[GYMNASIUM])
    else:
        sys.meta_path.insert(0, _Finder())


def _add(gymnasium: ModuleType) -> None:
    for name, (task, limit) in IDS.items():
        if name not in gymnasium.registry:
            entry = f"{__package__}.envs.d4rl_env:D4RLEnv"
            gymnasium.register(name, entry, max_episode_steps=limit, kwargs={"task": task})


class _Finder:
    """Finds Gymnasium once, as the other finders do, and adds the ids as soon as it has been executed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != GYMNASIUM:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                _add(module)

            spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec
