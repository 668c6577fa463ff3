"""Kernels of an update by what they are for, read from what they compute and from the name of what they are made of.

A fusion has the name of its last instruction, and names hold the scopes ``adam``, ``average``, ``unpack`` and ``join``
of the package's own code.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from cfdg_jax.bench import hlo

NAME = re.compile(r'op_name="([^"]*)"')
SCOPES = {"adam": "Adam", "average": "averages", "unpack": "slices of packed vectors", "join": "joined gradients"}
MOVES = {"slice", "dynamic-slice", "concatenate", "transpose", "copy", "broadcast", "reshape"}
RANDOM = {"xor", "shift-right-logical", "rng-bit-generator"}
KINDS = (
    "products", "sums over rows", "elementwise", "Adam", "bias corrections", "averages", "joined gradients",
    "slices of packed vectors", "metrics", "inputs put together", "random numbers", "copies", "loop",
)  # fmt: skip
"""Of the table, in its order.

Adam: moments and parameters. Bias corrections: Adam's, with its counts. Metrics: rows written behind the scan. Inputs
put together: rows of a minibatch, states beside actions or beside next states. Loop: its counter and condition.
"""


def by_kind(text: hlo.Text, instructions: Iterable[hlo.Instruction]) -> dict[str, int]:
    """How many of the kernels are of each of `KINDS`."""
    found = Counter(_kind(text, it) for it in instructions)
    return {kind: found[kind] for kind in KINDS}


def _kind(text: hlo.Text, it: hlo.Instruction) -> str:
    parts = [part for part in hlo.parts(text, it) if part.opcode not in hlo.FREE]
    opcodes, integers = {part.opcode for part in parts}, it.line.startswith(("s32[", "pred["))
    name = NAME.search(it.line)
    scope = next((scope for scope in SCOPES if name and re.search(rf"\b{scope}\b", name[1])), None)
    if it.opcode in ("copy", "copy-start"):
        return "copies"
    if hlo.holds_product(text, it):
        return "products"
    if opcodes & RANDOM:
        return "random numbers"
    if scope is not None:
        return "bias corrections" if scope == "adam" and ("power" in opcodes or integers) else SCOPES[scope]
    if "dynamic-update-slice" in opcodes:
        return "metrics"
    if integers:
        return "loop"
    if opcodes & {"reduce", "reduce-window"} and _over_rows(it, name):
        return "sums over rows"
    return "inputs put together" if opcodes <= MOVES else "elementwise"


def _over_rows(it: hlo.Instruction, name: re.Match[str] | None) -> bool:
    """Gradients of biases, and means, which have the axis of seeds alone; halves of a sum that is split are unnamed."""
    return name is None or bool(re.search(r"transpose\(.*reduce_sum", name[1]) or re.match(r"f32\[\d*\]", it.line))


def table(results: dict[str, dict[str, int]]) -> str:
    """Counts as Markdown, a column for each step."""
    lines = ["| kind | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for kind in KINDS:
        if any(counts[kind] for counts in results.values()):
            lines.append(f"| {kind} | " + " | ".join(str(counts[kind]) for counts in results.values()) + " |")
    return "\n".join([*lines, "| all | " + " | ".join(str(sum(counts.values())) for counts in results.values()) + " |"])
