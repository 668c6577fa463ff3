"""One process per run folder."""

from __future__ import annotations

import errno
import os
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager

from cfdg_jax.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not kept apart there
    fcntl = None  # type: ignore[assignment]

FILE = ".lock"
IN_USE = (errno.EAGAIN, errno.EACCES)


@contextmanager
def only_process(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of `folder`, which exists, for the block. It goes with the process, however that ends.

    Raises:
      UserError: if another process holds it.
      OSError: if the folder may not be written.
    """
    with open(folder / FILE, "a+", encoding="utf-8") as handle:
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in IN_USE:
                handle.seek(0)
                holder = handle.read().strip() or "unknown"
                found = f"is in use by another process ({holder})"
                raise UserError(str(folder), found, "wait for it, or name another folder") from None
            # a file system without locks: go on without
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def held(folder: pathlib.Path) -> bool | None:
    """Whether a process holds the lock of `folder`; None where nobody can know."""
    if fcntl is None:
        return None
    try:
        with open(folder / FILE, encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in IN_USE else None
    return False
