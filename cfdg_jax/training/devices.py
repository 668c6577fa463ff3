"""Lanes over devices: each device holds and trains its share of them, and no lane ever waits for another.

Lanes have nothing to say to one another, so every compiled function runs on each device as if its lanes were all there
are (`jax.shard_map`). Arrays that lead with S are split, all else is copied to each device. Where devices are more than
lanes, those of one lane hold the same and do the same, but for the batches of its generator, of which each has its part
(`cfdg_jax.core.spread`). On one device nothing of this happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src.distributed import global_state  # what it found has a public name only with the devices of all processes
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cfdg_jax.config import TrainConfig
from cfdg_jax.core.spread import ROWS
from cfdg_jax.errors import UserError, require
from cfdg_jax.types import StratifierState

AXIS = "lanes"
COPIED = ("offline_rows",)
"""Arguments of compiled functions that serve all lanes, beside scalars."""


def mesh_of(config: TrainConfig) -> Mesh | None:
    """The devices of a run, lanes by devices of one lane; None for one, which needs none of this.

    Raises:
      UserError: for more devices than there are, or a number that neither divides the lanes nor is a multiple of them.
    """
    lanes, found = len(config.lanes), jax.local_devices()
    fits = [count for count in range(1, len(found) + 1) if lanes % count == 0 or count % lanes == 0]
    if config.devices == "auto":
        count = 1 if found[0].platform == "cpu" else max(count for count in fits if count <= lanes)
    elif config.devices == "all":
        count = fits[-1]
    else:
        count = int(config.devices)
        here = f"is {count} and there are {len(found)} here"
        require(count <= len(found), "devices", here, "use fewer, or all")
        remedy = f"must divide them or be a multiple of them, such as {fits[-1]}"
        require(count in fits, "devices", f"is {count} for {lanes} lanes", remedy)
    shape = (min(count, lanes), max(count // lanes, 1))
    return Mesh(np.array(found[:count]).reshape(shape), (AXIS, ROWS)) if count > 1 else None


def as_one_lane(config: TrainConfig, mesh: Mesh | None) -> Mesh | None:
    """All devices of a run on `mesh` for what is made once for all lanes; one where nobody asked for more."""
    return None if mesh is None or config.devices == "auto" else Mesh(mesh.devices.reshape(1, -1), mesh.axis_names)


def sharing(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """A block whose generator's batches and rows the devices of `mesh` share (`cfdg_jax.core.spread`)."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def devices_of(mesh: Mesh | None) -> tuple[int, int, int]:
    """Devices of a run, those of one lane, and how many memories all have: those of a CPU share one."""
    if mesh is None:
        return 1, 1, 1
    return mesh.size, mesh.devices.shape[1], 1 if mesh.devices.flat[0].platform == "cpu" else mesh.size


def told(config: TrainConfig, mesh: Mesh | None) -> str:
    """On how many devices the lanes of a run train, for people; empty where nobody asks: on one, as ever."""
    lanes, found = len(config.lanes), len(jax.local_devices())
    devices, of_one_lane, _ = devices_of(mesh)
    fewer = config.devices == "all" and devices < found
    if devices == 1 and not fewer:
        return ""
    share = f"{of_one_lane} for each" if of_one_lane > 1 else f"{lanes // devices} on each"
    rest = f"; of {found}, which {lanes} lanes do not share evenly" if fewer else ""
    return f"{lanes} lane{'s' if lanes > 1 else ''} on {devices}, {share}{rest}"


def specs(tree: Any, copied: bool = False) -> Any:
    """How each array of `tree` lies: split by lanes where it has an axis, but for what serves all lanes."""

    def spec(part: Any) -> Any:
        if isinstance(part, StratifierState):
            return StratifierState(specs(part.shared, True), specs(part.own))
        return PartitionSpec() if copied or np.ndim(part) == 0 else PartitionSpec(AXIS)

    return jax.tree.map(spec, tree, is_leaf=lambda part: isinstance(part, StratifierState))


def shardings(mesh: Mesh, tree: Any, copied: bool = False) -> Any:
    """`specs` on the devices of `mesh`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, copied), is_leaf=_is_spec)


def placed(mesh: Mesh | None, tree: Any, copied: bool = False) -> Any:
    """`tree` where a run on `mesh` wants it."""
    return tree if mesh is None else jax.device_put(tree, shardings(mesh, tree, copied))


def allocated(mesh: Mesh | None, make: Callable[[], Any]) -> Any:
    """``make()``, made where it belongs: no device ever holds all of it."""
    if mesh is None:
        return make()
    return jax.jit(make, out_shardings=shardings(mesh, jax.eval_shape(make)))()


def has_memory_of_its_own() -> bool:
    """Whether the device's memory is not the host's, and the host's can be pinned for its copies."""
    device = jax.local_devices()[0]
    return device.platform != "cpu" and "pinned_host" in {memory.kind for memory in device.addressable_memories()}


def for_host(array: jax.Array) -> jax.Array:
    """A result of a compiled function that the host asks for next: its program copies it, into pinned memory."""
    return jax.device_put(array, jax.memory.Space.Host) if has_memory_of_its_own() else array


def on_each(mesh: Mesh, fn: Callable[[dict[str, Any]], Any], arrays: dict[str, Any]) -> Any:
    """``fn(arrays)`` on each device with its own lanes of the named `arrays`."""
    into = {name: specs(array, name in COPIED) for name, array in arrays.items()}
    out = specs(jax.eval_shape(fn, arrays))
    whole = lambda arrays: jax.lax.with_sharding_constraint(fn(arrays), PartitionSpec())
    return jax.shard_map(whole, mesh=mesh, in_specs=(into,), out_specs=out, axis_names={AXIS}, check_vma=False)(arrays)


def _is_spec(part: Any) -> bool:
    return isinstance(part, PartitionSpec)


def part_of_cluster() -> str:
    """``INDEX/COUNT`` of this process among those that a scheduler started, as `jax.distributed` finds them.

    It knows Slurm, Open MPI, Kubernetes and TPU pods. Processes meet for that alone and part at once: seeds exchange
    nothing, and processes that stay connected end when one is lost.

    Raises:
      UserError: if there is no cluster, or not all of its processes come.
    """
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        known = "start it under Slurm, Open MPI, Kubernetes or on a TPU pod, or write INDEX/COUNT"
        raise UserError("--share", f"is auto, and jax.distributed found no cluster ({error})", known) from None
    part = f"{global_state.process_id}/{global_state.num_processes}"
    jax.distributed.shutdown()
    global_state.process_id, global_state.num_processes = 0, 1  # or the devices of the others would be waited for
    return part
