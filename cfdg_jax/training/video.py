"""A video of a trained policy: one episode of the first seed."""

from __future__ import annotations

import importlib.util
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from cfdg_jax.envs.camera import Camera
from cfdg_jax.envs.registry import make_env
from cfdg_jax.errors import require
from cfdg_jax.training.program import env_seed
from cfdg_jax.training.results import Run, actor
from cfdg_jax.types import Env

KINDS = (".gif", ".webp", ".mp4")
EVERY = 4
"""Environment steps from frame to frame."""
SECONDS = 0.04
"""A frame is shown for so long, in units that every GIF viewer keeps."""


def require_video(run: Run, path: pathlib.Path) -> None:
    """Refuses, before anything is evaluated, a video that could not be made or written.

    Raises:
      UserError: for another kind of file, a missing folder or package, or where nothing renders.
    """
    require(path.suffix in KINDS, "--video", f"is {path}", f"must end with {', '.join(KINDS)}")
    require(path.parent.is_dir(), str(path.parent), "is no folder", "make it, or name another file")
    missing = path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None
    require(not missing, str(path), "needs imageio-ffmpeg", "pip install 'cfdg-jax[video]', or name a .gif or .webp")
    env = _environment(run, 0)
    try:
        env.reset()
        Camera(env, "--video").close()
    finally:
        env.close()


def film(run: Run, path: pathlib.Path) -> pathlib.Path:
    """Writes a video of one episode of the first seed's evaluation policy; returns `path`."""
    program, agent, record = run.acting()
    phase = 0 if record.phase == "offline" else 1
    act, seed = actor(program, agent, record), env_seed(run.config, 0, "evaluate_env", phase, record.step, 0)
    env = _environment(run, seed)
    frames, done, obs = [], False, env.reset()
    camera = Camera(env, "--video")
    try:
        for step in range(env.spec.horizon):
            if step % EVERY == 0:
                frames.append(camera.frame())
            if done:
                break
            every_seed = np.repeat(obs, len(run.config.lanes), axis=0)  # the policy acts for all seeds at once
            result = env.step(act(every_seed)[:1])
            obs, done = result.next_obs, bool(result.terminal[0] or result.truncated[0])
    finally:
        camera.close()
        env.close()
    _write(path, frames)
    return path


def _environment(run: Run, seed: int) -> Env:
    return make_env(run.config.env.task, [seed], run.config.env.dynamics, 1)


def _write(path: pathlib.Path, frames: list[np.ndarray]) -> None:
    if path.suffix == ".mp4":
        # else imageio forks this process, whose threads (JAX) a fork may leave locked; a pipe to ffmpeg needs no fork
        os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
        import imageio.v2

        writer: Any = imageio.v2.get_writer(path, fps=round(1 / SECONDS), macro_block_size=None)
        with writer:
            for frame in frames:
                writer.append_data(frame)
        return
    first, *others = [Image.fromarray(frame) for frame in frames]
    first.save(path, save_all=True, append_images=others, duration=round(1000 * SECONDS), loop=0)
