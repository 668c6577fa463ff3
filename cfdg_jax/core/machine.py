"""What this process has of its machine."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

MEMINFO = pathlib.Path("/proc/meminfo")
OWN_GROUPS, GROUPS = pathlib.Path("/proc/self/cgroup"), pathlib.Path("/sys/fs/cgroup")
FIRST = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
SECOND = "memory.max", "memory.current", "inactive_file"
"""Files of a group of processes with its limit and use, and what of that is cache, in both versions of Linux's."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes that this process may still take: what is free or a cache of files, within its container's limits."""
    return min([_free(), *_left_of_limits()])


def _free() -> int:
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = MEMINFO.read_text().splitlines()
        return int(dict(line.split(":") for line in lines)["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_of_limits() -> Iterator[int]:
    """Bytes left of each limit on the groups of processes that this one is in: Docker's, Kubernetes', Slurm's.

    Caches of files count as used, but are given back.
    """
    with contextlib.suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds not in ("", "memory"):
                continue
            root = GROUPS / kinds
            limit, used, cache = FIRST if kinds else SECOND
            inner = root / path.lstrip("/")
            for folder in (inner, *inner.parents):
                with contextlib.suppress(OSError, ValueError):  # no limit, or none that a container shows
                    stats = dict(each.split() for each in (folder / "memory.stat").read_text().splitlines())
                    taken = int((folder / used).read_text()) - int(stats.get(cache, 0))
                    yield int((folder / limit).read_text()) - taken
                if folder == root:
                    break
