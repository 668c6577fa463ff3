"""Pictures of MuJoCo environments, without a screen: through EGL or OSMesa."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from cfdg_jax.envs.simulators import Simulators
from cfdg_jax.errors import UserError

HEIGHT, WIDTH = 360, 480


class Camera:
    """Films the first environment of `env`, following its root body where the model names no camera.

    Args:
      env: An environment of `cfdg_jax.envs.registry` that steps MuJoCo.
      asked: The option or argument that a picture was asked for with, for errors.

    Raises:
      UserError: if `env` has no simulator, or nothing renders on this machine.
    """

    def __init__(self, env: Any, asked: str):
        simulators = getattr(env, "simulators", None)
        if not isinstance(simulators, Simulators):
            raise UserError(asked, "this environment is no MuJoCo model and has no picture", "leave it out")
        self._data, model = simulators.datas[0], simulators.model
        try:
            self._renderer: Any = mujoco.Renderer(model, HEIGHT, WIDTH)
        except Exception as error:
            problem = f"nothing renders here ({type(error).__name__}: {error})"
            remedy = "install EGL or OSMesa and set MUJOCO_GL to egl or osmesa before Python starts"
            raise UserError(asked, problem, remedy) from None
        self._view: Any = mujoco.MjvCamera()
        if model.ncam:
            self._view = 0
        else:
            mujoco.mjv_defaultFreeCamera(model, self._view)

    def frame(self) -> np.ndarray:
        """The picture of now, `[360, 480, 3]` uint8."""
        self._renderer.update_scene(self._data, self._view)
        return self._renderer.render()

    def close(self) -> None:
        """Frees the picture's memory."""
        self._renderer.close()
