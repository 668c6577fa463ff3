"""What the command line does to its own process before anything is computed: memory, signals, compile cache."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import signal
import sys
import threading
import types
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def starting(deterministic: bool = False, compiles: bool = True) -> Iterator[None]:
    """While a command imports what it needs, SIGINT and SIGTERM end the process at once: nothing is under way yet."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        previous = {}
    else:
        previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if compiles:
            setup(deterministic)
        yield
    finally:
        for number, handler in previous.items():
            as_python = number == signal.SIGINT and handler == signal.SIG_DFL  # see __main__
            signal.signal(number, signal.default_int_handler if as_python else handler)


def keep_freed_memory() -> None:
    """Lets glibc keep up to 1 GiB of freed memory and take large blocks from it, where the user has set neither.

    XLA on CPU takes the scratch memory of a dispatch anew each time. Blocks above glibc's threshold (at most 32 MB)
    would be pages fresh from the kernel, faulted in and zeroed at every step of the environments.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # malloc.h; before glibc 2.35 or so the second is at most 32 MB
        if mallopt(mmap_threshold, 1 << 30) or mallopt(mmap_threshold, 1 << 25):
            mallopt(trim_threshold, 1 << 30)


def render_offscreen() -> None:
    """Chooses what MuJoCo draws with where there is no screen; it reads this when it is imported."""
    if sys.platform != "linux" or "MUJOCO_GL" in os.environ or "DISPLAY" in os.environ:
        return
    found = [name for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if ctypes.util.find_library(library)]
    os.environ["MUJOCO_GL"] = found[0] if found else "disable"


def setup(deterministic: bool = False) -> None:
    """Compile cache beside the datasets, a device for every core; to be called before the first array is there."""
    keep_freed_memory()
    if deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    import jax

    from cfdg_jax.core.machine import cores
    from cfdg_jax.data.files import cache_dir

    jax.config.update("jax_enable_x64", False)  # a shell may ask for it; single precision is all that is tested
    with contextlib.suppress(RuntimeError):  # there are arrays already; `devices` says what it finds
        if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
            jax.config.update("jax_num_cpu_devices", cores())
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # a folder that is full or may not be written costs time alone; a full disk is told where results are lost
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
