"""D4RL's published files: where they are served, and fetching one.

`cfdg_jax.data.names` has their names, `cfdg_jax.data.hdf5` reads the files.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from cfdg_jax.data.download import download
from cfdg_jax.data.files import PathLike, cache_dir
from cfdg_jax.data.hdf5 import require_hdf5
from cfdg_jax.data.names import REMOTES, Remote

SERVERS = (
    "https://rail.eecs.berkeley.edu/datasets/offline_rl",
    "http://rail.eecs.berkeley.edu/datasets/offline_rl",
)
"""Where D4RL's files are served. The environment variable ``CFDG_MIRRORS`` names further places, comma separated, to be
tried first: ``https://host/folder`` with the same folders below, any address with ``{file}`` or ``{path}``, or a folder
of this machine with the files in it or in the same folders."""


def fetch(
    name: str,
    *,
    data_dir: PathLike | None = None,
    mirrors: Sequence[str] = (),
    allowed: bool = True,
    progress: bool = True,
) -> pathlib.Path:
    """The local path of a D4RL dataset, downloaded on first use to ``<data folder>/d4rl/``.

    Args:
      name: A key of `cfdg_jax.data.names.REMOTES`.
      data_dir: The data folder; see `cache_dir`.
      mirrors: Servers tried before those of ``CFDG_MIRRORS`` and D4RL's own.
      allowed: Whether the network may be used (``CFDG_OFFLINE`` forbids it as well).
      progress: Whether to show a bar.

    Raises:
      UserError: if the file is absent and cannot be fetched.
    """
    remote = REMOTES[name]
    target = cache_dir(data_dir) / "d4rl" / remote.file
    extra = [mirror.strip() for mirror in os.environ.get("CFDG_MIRRORS", "").split(",") if mirror.strip()]
    urls = [url for server in (*mirrors, *extra, *SERVERS) for url in _addresses(server, remote)]
    download(target, urls, what=f"d4rl:{name}", check=require_hdf5, allowed=allowed, progress=progress)
    return target


def _addresses(server: str, remote: Remote) -> list[str]:
    if "{file}" in server or "{path}" in server:
        return [server.replace("{file}", remote.file).replace("{path}", remote.path)]
    below = [remote.path] if "://" in server else [remote.path, remote.file]
    return [f"{server.rstrip('/')}/{path}" for path in below]
