"""Microseconds of each kernel, from a profiler's trace."""

import collections
import gzip
import json
import pathlib
import tempfile
from collections.abc import Callable

import jax

LOOPS = ("while", "cond", "call")
"""Kernels that run others; their time is that of what they run."""


def kernel_microseconds(call: Callable[[], object]) -> dict[str, float]:
    """Of one call, which waits, by the name of the kernel; trace it once before, so that nothing is compiled."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (trace,) = pathlib.Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event.get("name") == "process_name"}
    total: collections.Counter[str] = collections.Counter()
    for event in events:
        kernel = "hlo_op" in event.get("args", {}) or "/device:" in names.get(event.get("pid"), "")
        if event.get("ph") == "X" and kernel and event["name"].split(".")[0] not in LOOPS:
            total[event["name"]] += event["dur"]
    return dict(total.most_common())
