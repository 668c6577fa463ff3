"""Environments: many copies of one task stepped at once; the only place that imports gymnasium and mujoco."""

import contextlib
import os
import signal
import threading
import types
from collections.abc import Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def _later_signals() -> Iterator[None]:
    """Signals wait, for this process and for those that it starts: GLFW's import asks a second Python for its version.

    That one would print a traceback when Ctrl-C reached it, or when its reader was gone.
    """
    came: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        came.append(number)

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    handlers = {number: signal.signal(number, note) for number in _SIGNALS}  # another thread may be handed one
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in came:
            signal.raise_signal(number)


def _import_mujoco() -> None:
    """Imports MuJoCo whatever ``MUJOCO_GL`` says: nothing here renders, but MuJoCo loads that library on import."""
    try:
        import mujoco
    except Exception:
        if "MUJOCO_GL" not in os.environ:
            raise
        given, os.environ["MUJOCO_GL"] = os.environ["MUJOCO_GL"], "disable"
        try:
            import mujoco  # noqa: F401
        finally:
            os.environ["MUJOCO_GL"] = given


with _later_signals():
    _import_mujoco()
    import gymnasium.envs.mujoco  # noqa: F401  imports GLFW too, also where MuJoCo draws with something else
