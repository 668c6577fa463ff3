"""The memory plan: what a run will hold, told and checked before anything is allocated."""

from __future__ import annotations

import os

import jax

from cfdg_jax.errors import require
from cfdg_jax.training.prepare import init
from cfdg_jax.training.program import Program
from cfdg_jax.training.progress import Progress
from cfdg_jax.training.refresh import synthetic_rows


def memory_plan(program: Program, progress: Progress) -> dict[str, float]:
    """Says what the run will hold, in MB, and refuses a plan that does not fit.

    Raises:
      UserError: if the buffers alone exceed what the device has, with what to make smaller.
    """
    config, row = program.config, program.spec.layout.width * 4 / 1e6
    online = config.online.capacity if config.online.steps else 1
    generated = sum(synthetic_rows(program).values()) if config.online.steps else 0
    plan = {
        "offline rows, shared": program.offline_rows.shape[0] * row,
        "online rings": config.seeds * online * row,
        "synthetic rings": 2 * config.seeds * generated * row,  # the old and the new during a refresh
        "one dispatch": config.seeds * max(config.offline.updates_per_call, 1) * config.mix.batch_size * row * 2,
    }
    if config.online.steps:
        fields = jax.tree.leaves(jax.eval_shape(lambda: init(program, "online").stratifier))
        plan["stratifier"] = sum(leaf.size * leaf.dtype.itemsize for leaf in fields) / 1e6
    total, available = sum(plan.values()), available_mb()
    parts = ", ".join(f"{name} {value:,.0f} MB" for name, value in plan.items() if value >= 0.5)
    progress.say(f"memory plan: {parts}; {total:,.0f} MB of {available:,.0f} MB available")
    require(
        total < 0.9 * available,
        "memory",
        f"the plan needs {total:,.0f} MB and {available:,.0f} MB are available",
        "use fewer --seeds, a smaller --online.capacity or fewer --refresh.rows",
    )
    return plan


def available_mb() -> float:
    """Free memory of the default device, in MB."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) / 1e6
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
