"""One environment with the dynamics that logged D4RL, in Gymnasium's interface; `cfdg_jax.gym_ids` has the ids."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from cfdg_jax.envs.camera import Camera
from cfdg_jax.envs.generators import make_generator
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import require


class D4RLEnv(gymnasium.Env):
    """One environment of one task.

    Args:
      task: An id of `cfdg_jax.envs.registry` with D4RL's dynamics.
      render_mode: ``rgb_array`` or None.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 125}  # noqa: RUF012

    def __init__(self, task: str, render_mode: str | None = None):
        require(render_mode in (None, "rgb_array"), "render_mode", f"is {render_mode!r}", "must be None or 'rgb_array'")
        self.render_mode = render_mode
        self._env: Any = make_env(task, [0], "d4rl", 1)
        self._camera: Camera | None = None
        shape = (self._env.spec.obs_dim,)
        self.observation_space = spaces.Box(-np.inf, np.inf, shape, np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (self._env.spec.act_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A new episode; `seed` starts the random stream anew, as in Gymnasium's own robots."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.simulators.generators[0] = make_generator(seed)
        return self._env.reset()[0].astype(np.float64), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One step; `info` holds ``success``."""
        result = self._env.step(np.asarray(action)[None])
        info = {"success": bool(result.success[0])}
        ended = bool(result.terminal[0]), bool(result.truncated[0])
        return result.next_obs[0].astype(np.float64), float(result.reward[0]), *ended, info

    def render(self) -> np.ndarray | None:
        """The picture of now, `[360, 480, 3]` uint8."""
        if self.render_mode is None:
            return None
        self._camera = self._camera or Camera(self._env, "render_mode")
        return self._camera.frame()

    def close(self) -> None:
        """Frees threads and pictures."""
        if self._camera:
            self._camera.close()
        self._env.close()
