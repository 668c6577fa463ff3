"""What an optimised program runs, read from its text: kernels by kind, each loop's as often as it turns.

Small networks on an accelerator are bound by launches, and kernels are their measure on a machine without one. XLA's
text lists computations; those a launch runs stand in the entry, in bodies of loops, in branches and in calls.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cfdg_jax.errors import require

KINDS = ("fusions", "products", "copies", "custom calls", "others")
PRODUCT_FUSIONS = "product fusions"
"""Those of the fusions that hold a matrix product."""
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "add-dependency"}
"""Instructions that launch nothing."""
HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
CALLED = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TURNS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"')
PRODUCT_CALL = re.compile(r'custom_call_target="[^"]*(gemm|matmul|dot|conv)[^"]*"', re.IGNORECASE)


class Instruction(NamedTuple):
    """One line of a computation.

    Attributes:
      opcode: XLA's.
      called: Computations by the attribute that names them.
      branches: Computations of a conditional.
      turns: Of a loop, None if unknown.
      line: The text.
    """

    opcode: str
    called: dict[str, str]
    branches: tuple[str, ...]
    turns: int | None
    line: str


class Text(NamedTuple):
    """A program: its computations by name, and the name of the one that is entered."""

    computations: dict[str, list[Instruction]]
    entry: str


def parse(text: str) -> Text:
    """The program of ``compiled.as_text()``."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = HEADER.match(line)
        if header:
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            current.append(_instruction(line))
    require(entry in computations, "program", "has no entry", "must be the text of an optimised XLA program")
    return Text(computations, entry)


def _instruction(line: str) -> Instruction:
    right = line.split(" = ", 1)[1]
    opcode, turns, branches = OPCODE.search(" " + right), TURNS.search(right), BRANCHES.search(right)
    require(opcode is not None, "program", f"has the line {line.strip()[:60]!r}", "must name an operation")
    assert opcode is not None
    called = dict(CALLED.findall(right))
    names = [name.strip().lstrip("%") for name in branches[1].split(",")] if branches else []
    names += [called[key] for key in ("true_computation", "false_computation") if key in called]
    return Instruction(opcode[1], called, tuple(names), int(turns[1]) if turns else None, right)


def launched(text: Text, computation: str | None = None) -> Iterator[Instruction]:
    """What one run of a computation launches, the entry's by default; of a conditional its dearest branch."""
    for instruction in text.computations[computation or text.entry]:
        yield from _launched_by(text, instruction)


def _launched_by(text: Text, it: Instruction) -> Iterator[Instruction]:
    if it.opcode in FREE or it.opcode.endswith("-done"):
        return
    if it.opcode == "while":
        require(it.turns is not None, "while", "turns unknown times", "count it by hand")
        inside = [*launched(text, it.called["body"]), *launched(text, it.called["condition"])]
        yield from inside * (it.turns or 0)
    elif it.opcode == "conditional":
        yield from max((list(launched(text, branch)) for branch in it.branches), key=len)
    elif it.opcode == "call" or it.opcode == "async-start":
        yield from launched(text, it.called.get("to_apply") or it.called["calls"])
    else:
        yield it


def kernels(text: Text, instructions: Iterable[Instruction] | None = None) -> Counter[str]:
    """Kernels by kind of what is launched, by the entry if nothing else is given."""
    total: Counter[str] = Counter()
    for it in launched(text) if instructions is None else instructions:
        total[_kind(it)] += 1
        total[PRODUCT_FUSIONS] += it.opcode == "fusion" and holds_product(text, it)
    return +total


def _kind(it: Instruction) -> str:
    if is_product(it):
        return "products"
    names = {"fusion": "fusions", "copy": "copies", "copy-start": "copies", "custom-call": "custom calls"}
    return names.get(it.opcode, "others")


def is_product(it: Instruction) -> bool:
    """Whether it is a matrix product or a call of one."""
    return it.opcode in ("dot", "convolution") or (it.opcode == "custom-call" and bool(PRODUCT_CALL.search(it.line)))


def parts(text: Text, it: Instruction) -> list[Instruction]:
    """What a kernel computes: a fusion's instructions, or the one."""
    return text.computations[it.called["calls"]] if it.opcode == "fusion" else [it]


def holds_product(text: Text, it: Instruction) -> bool:
    """Whether a kernel computes a matrix product."""
    return any(is_product(part) for part in parts(text, it))


def launches(counts: Counter[str]) -> int:
    """All kernels of a count."""
    return sum(counts[kind] for kind in KINDS)


def turn(text: Text, turns: int) -> list[Instruction]:
    """What one turn of the loop that turns `turns` times launches, of several the one with most: a scan's step.

    Raises:
      UserError: if there is none; XLA unrolls the shortest.
    """
    loops = [it for lines in text.computations.values() for it in lines if it.opcode == "while" and it.turns == turns]
    require(bool(loops), "program", f"has no loop of {turns} turns", "scan more steps in a call")
    found = [[*launched(text, it.called["body"]), *launched(text, it.called["condition"])] for it in loops]
    return max(found, key=len)
