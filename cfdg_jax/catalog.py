"""What there is to choose and to set, read from the source: methods, config fields, types, defaults, meanings.

Importing the configs takes seconds, since a method's file holds its formulas too and JAX with them. Help, completion
and the refusal of a mistyped name cannot wait for that. So this module parses the files and runs none of them: what it
says is what is written there, comments included, and nothing has to be generated or kept in step.
`tests/test_catalog.py` compares it with the imported registries.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import pathlib
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cfdg_jax.errors import UserError, nearest, require
from cfdg_jax.values import COMMON

PACKAGE = pathlib.Path(__file__).parent
LISTS = {"agent": "agents", "augment": "augmenters", "mix": "mixers", "stratify": "stratifiers"}
"""What ``cfdg-jax list`` calls the methods of each choice."""


class Node(NamedTuple):
    """An expression or definition, and the module (``agents.iql``) whose names it uses."""

    module: str
    tree: ast.AST


class Field(NamedTuple):
    """A field of a config.

    Attributes:
      path: As in ``--agent.expectile``.
      annotation: Its type, for `cfdg_jax.values.coerce`.
      kind: The same in words: as it is written, or the values of a literal.
      default: Source text of the class's default.
      meaning: The comment beside it, or that of the class it is inherited from.
      about: Docstring of the class that declares it.
      place: File and line of its default.
    """

    path: str
    annotation: Any
    kind: str
    default: str
    meaning: str
    about: str
    place: str


class Method(NamedTuple):
    """A registered method: its name, its line in a list, its config class, the releases it has variants for.

    `sources` are what the docstring of its class refers to, or that of its file.
    """

    name: str
    about: str
    config: Node
    variants: tuple[str, ...]
    sources: list[str]


# -- reading source --------------------------------------------------------------------------------------------------


@functools.cache
def _source(module: str) -> tuple[dict[str, ast.AST], list[str]]:
    """What a module defines at its top level, by name, its docstring included, and its lines."""
    text = PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    found: dict[str, ast.AST] = {"__doc__": ast.Constant(ast.get_docstring(tree) or "")}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {target.id: node.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
        elif isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
    return found, text.splitlines()


def _find(module: str, name: str) -> Node:
    """Where `name` of a module is defined, imports followed; a module that was imported is an `ast.Module`."""
    tree = _source(module)[0][name]
    if not isinstance(tree, ast.ImportFrom):
        return _follow(Node(module, tree))
    home = str(tree.module).removeprefix("cfdg_jax").strip(".")
    inner = next(alias.name for alias in tree.names if (alias.asname or alias.name) == name)
    if (PACKAGE.joinpath(*home.split("."), f"{inner}.py")).is_file():
        return Node(f"{home}.{inner}".strip("."), ast.Module([], []))
    return _find(home, inner)


def _follow(node: Node) -> Node:
    """The definition that a name or ``module.name`` stands for; any other expression is itself."""
    if isinstance(node.tree, ast.Name):
        return _find(node.module, node.tree.id)
    if isinstance(node.tree, ast.Attribute) and isinstance(node.tree.value, ast.Name):
        return _find(_find(node.module, node.tree.value.id).module, node.tree.attr)
    return node


def _items(node: Node) -> Iterator[tuple[str, Node]]:
    """The entries of a dict display with texts as keys."""
    assert isinstance(node.tree, ast.Dict), ast.dump(node.tree)
    for key, value in zip(node.tree.keys, node.tree.values, strict=True):
        yield ast.literal_eval(key), _follow(Node(node.module, value))  # type: ignore[arg-type]


class _Names(dict):
    """The names that an annotation of a module may use, found as they are asked for."""

    def __init__(self, module: str):
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        tree = _source(self.module)[0][name]
        if isinstance(tree, ast.ImportFrom) and not str(tree.module).startswith("cfdg_jax"):
            return getattr(importlib.import_module(str(tree.module)), name)  # typing alone is used so
        found = _find(self.module, name)
        return Any if isinstance(found.tree, ast.ClassDef) else _evaluate(found)


def _evaluate(node: Node) -> Any:
    code = compile(ast.Expression(node.tree), node.module, "eval")  # type: ignore[arg-type]
    return eval(code, {}, _Names(node.module))


# -- methods and fields ----------------------------------------------------------------------------------------------


@functools.cache
def methods(choice: str) -> dict[str, Method]:
    """The registered methods of ``agent``, ``augment``, ``mix`` or ``stratify``, in their order."""
    registry = dict(_items(_find("config", "REGISTRIES")))[choice]
    return {name: _method(name, node) for name, node in _items(registry)}


def _method(name: str, entry: Node) -> Method:
    assert isinstance(entry.tree, ast.Call)
    words = {word.arg: word.value for word in entry.tree.keywords}
    variants = _items(_follow(Node(entry.module, words["variants"]))) if "variants" in words else ()
    config = _follow(Node(entry.module, entry.tree.args[0]))
    said = ast.get_docstring(config.tree), ast.literal_eval(_source(config.module)[0]["__doc__"])  # type: ignore[arg-type]
    own = next(filter(None, (sources(text or "") for text in said)), [])
    return Method(name, ast.literal_eval(words["about"]), config, tuple(key for key, _ in variants), own)


def fields_of(config: Node, prefix: str = "") -> dict[str, Field]:
    """The fields of a config class by dotted path, inherited ones first and nested configs in their place."""
    found: dict[str, Field] = {}
    assert isinstance(config.tree, ast.ClassDef)
    for base in config.tree.bases:
        found |= fields_of(_follow(Node(config.module, base)), prefix)
    for item in config.tree.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        path, kind = prefix + item.target.id, ast.unparse(item.annotation)
        if kind.endswith("Config"):
            found |= fields_of(_find(config.module, kind), path + ".")
        elif not kind.startswith("ClassVar"):
            field, inherited = _field(config, item, path), found.get(path)
            # a default of its own changes no meaning
            found[path] = field._replace(meaning=inherited.meaning) if inherited and not field.meaning else field
    return found


def _field(config: Node, item: ast.AnnAssign, path: str) -> Field:
    annotation = _evaluate(Node(config.module, item.annotation))
    literal = typing.get_origin(annotation) is typing.Literal
    return Field(
        path=path,
        annotation=annotation,
        kind=" or ".join(map(str, typing.get_args(annotation))) if literal else ast.unparse(item.annotation),
        default=_default(item.value),
        meaning=_comment(_source(config.module)[1], item),
        about=ast.get_docstring(config.tree) or "",  # type: ignore[arg-type]
        place=f"{PACKAGE.name}/{config.module.replace('.', '/')}.py:{item.lineno}",
    )


def _default(value: ast.expr | None) -> str:
    """Source of a field's default; of ``field(default_factory=F)`` the call ``F()``."""
    words = {word.arg: word.value for word in value.keywords} if isinstance(value, ast.Call) else {}
    if "default_factory" in words:
        return f"{ast.unparse(words['default_factory'])}()"
    return "" if value is None else ast.unparse(value)


def _comment(lines: list[str], item: ast.AnnAssign) -> str:
    """The comment beside a field, and the comments alone on the lines below, which continue it."""
    assert item.end_lineno is not None and item.end_col_offset is not None
    said = [lines[item.end_lineno - 1].encode()[item.end_col_offset :].decode()]
    for line in lines[item.end_lineno :]:
        if not line.lstrip().startswith("#"):
            break
        said.append(line)
    return " ".join(each.partition("#")[2].strip() for each in said)


@functools.cache
def run_fields() -> dict[str, Field]:
    """The fields of a run that are no method's, by dotted path; the four choices are left out."""
    found = fields_of(_find("config", "TrainConfig"))
    return {path: field for path, field in found.items() if path not in LISTS}


@functools.cache
def least() -> dict[str, int]:
    """The smallest values of the run's whole numbers, by dotted path."""
    return ast.literal_eval(_find("config", "MINIMA").tree)


@functools.cache
def method_fields(choice: str, name: str) -> dict[str, Field]:
    """The fields of a method by dotted path."""
    return fields_of(methods(choice)[name].config, choice + ".")


@functools.cache
def ranges(choice: str, name: str) -> dict[str, str]:
    """Names in `cfdg_jax.values.RANGES` of a method's fields, by dotted path, as its config has them checked."""
    found = {leaf: kind for kind, leaves in _checked(methods(choice)[name].config) for leaf in leaves}
    found |= COMMON if choice == "agent" else {}
    return {path: found[leaf] for path in method_fields(choice, name) if (leaf := path.partition(".")[2]) in found}


CHECKS = ("check_ranges", "check_fields")
"""What checks ranges: of any method, and of an agent."""


def _checked(config: Node) -> Iterator[tuple[str, tuple[str, ...]]]:
    """``(range, fields)`` of every call in `CHECKS` within a config class and those it inherits from."""
    assert isinstance(config.tree, ast.ClassDef)
    for base in config.tree.bases:
        yield from _checked(_follow(Node(config.module, base)))
    for node in ast.walk(config.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CHECKS:
            yield from ((str(word.arg), ast.literal_eval(word.value)) for word in node.keywords)


def owners(path: str) -> dict[str, Field]:
    """Methods that have the field `path`, by name."""
    choice = path.partition(".")[0]
    found = {name: method_fields(choice, name).get(path) for name in (methods(choice) if choice in LISTS else ())}
    return {name: field for name, field in found.items() if field is not None}


def fields(chosen: Mapping[str, str | None]) -> dict[str, Field]:
    """The fields that a run may have, by dotted path: those of all methods where a choice is left open."""
    found = dict(run_fields())
    for choice in LISTS:
        named = chosen.get(choice)
        for name in methods(choice) if named is None else (named,):
            found = method_fields(choice, name) | found
    return found


# -- what to say of a wrong name -------------------------------------------------------------------------------------


def require_method(choice: str, name: str, registries: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Refuses a name that is registered for no method of this choice.

    Args:
      choice: ``agent``, ``augment``, ``mix`` or ``stratify``.
      name: Of the method.
      registries: Methods by choice and name; by default those that the source registers.
    """
    known = {each: methods(each) for each in LISTS} if registries is None else registries
    elsewhere = [other for other in LISTS if other != choice and name in known[other]]
    near = lambda: nearest(name, known[choice], f"cfdg-jax list {LISTS[choice]}")
    remedy = f"it is chosen by --{elsewhere[0]} {name}" if elsewhere else near
    require(name in known[choice], choice, f"'{name}' is unknown", remedy)


def instead(path: str, known: Iterable[str]) -> str:
    """What a user may have meant by a field that a run does not have: one of another method, or a similar one."""
    room, dot, _ = path.partition(".")
    owning = owners(path)
    if owning:
        return f"it belongs to --{room} {' or '.join(owning)}"
    siblings = [each for each in known if each.startswith(room + ".")] if dot else []
    listing = f"cfdg-jax train --explain {room if siblings else 'fields'}"
    flags = [*known, *LISTS, "preset", "out", "resume"]
    variants = f"; releases are chosen by --{room}.variant" if f"{room}.variant" in siblings else ""
    return nearest(path, dict.fromkeys(siblings or flags), listing) + variants


def select(path: str, chosen: Mapping[str, str | None]) -> list[Field]:
    """The field of that path; those below it, for such as ``agent`` or ``online``; all, for ``fields``.

    Raises:
      UserError: if no run has such a field.
    """
    path, known = path.removeprefix("--").replace("-", "_"), fields(chosen)
    below = [field for name, field in known.items() if path == "fields" or name.startswith(path + ".")]
    if below:
        return sorted(below, key=lambda field: field.path)
    found = known.get(path) or next(iter(owners(path).values()), None)
    if found is None:
        raise UserError(path, "is no config field", instead(path, known))
    return [found]


def listed(rows: Iterable[Field]) -> str:
    """A line for each field: its path, the default of its class, what it means."""
    lines = [(field.path, field.default, field.meaning) for field in rows]
    width = max(len(path) for path, *_ in lines)
    return "\n".join(f"{path:<{width}}  {default:<12}  {meaning}".rstrip() for path, default, meaning in lines)


def sources(text: str) -> list[str]:
    """Sections of the documents and papers that a text refers to."""
    return re.findall(r"docs/\w+\.md(?:#[\w-]+)?|arXiv \d{4}\.\d{5}", text)
