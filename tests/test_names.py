"""Methods own their values: outside a method's own file and its registry no code names it."""

import ast
import functools
import pathlib
import re

import pytest

from cfdg_jax.config import REGISTRIES

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cfdg_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
ORDINARY = {"none", "uniform", "balanced"}
"""Names that are words of other things too; as texts of their own they count, in sentences and identifiers not."""
NAMES = sorted({name for entries in REGISTRIES.values() for name in entries} - {"none"})


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@functools.cache
def homes(name):
    """Modules that may name a method: those its config and factory are defined in."""
    found = set()
    for entries in REGISTRIES.values():
        if name in entries:
            found |= {entries[name].config.__module__, entries[name].factory.__module__}
    return found


def owned_by(module):
    return {name for name in NAMES if module in homes(name)}


def companions_of(module):
    """Methods that those of this file go with by default."""
    agents = [entry.config for entry in REGISTRIES["agent"].values()]
    entries = [entries[name] for entries in REGISTRIES.values() for name in entries if module in homes(name)]
    return {other for entry in entries for agent in agents for other in entry.companions(agent).values()}


def docstrings(tree):
    """Constants that stand alone: docstrings of modules, classes, functions and names."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def texts(tree):
    skip = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip:
            yield node.lineno, node.value


def identifiers(tree):
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield getattr(node, "lineno", 0), value


def imported(tree):
    """``(line, dotted name)`` of everything imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def allowed(module):
    """What a file may name: its own methods, what they go with, their releases; a registry what is in its room."""
    room = module.split(".")[1]
    if module.endswith(".registry"):
        return {name for name in NAMES if any(home.startswith(f"cfdg_jax.{room}.") for home in homes(name))}
    own = owned_by(module)
    releases = {
        variant
        for entries in REGISTRIES.values()
        for name in own & entries.keys()
        for variant in entries[name].variants
    }
    return own | companions_of(module) | releases


def naming(module, tree):
    """``line: what`` of every method that the file names and may not."""
    free = allowed(module)
    for line, text in texts(tree):
        about = re.sub(r"cfdg[-_]jax", "", text.lower())
        for name in NAMES:
            word = rf"(?<!\w){re.escape(name)}(?!\w)"
            spoken = re.search(rf"--\w+ {word}" if name in ORDINARY else word, about)
            if name not in free and (text == name or spoken):
                yield f"line {line}: {text!r} names {name}"
    room = module.split(".")[1]
    for line, target in imported(tree):
        for name in NAMES:
            others = {home for home in homes(name) if not home.startswith(f"cfdg_jax.{room}.")}
            if name not in free and any(f"{target}.".startswith(f"{home}.") for home in others):
                yield f"line {line}: import of {target} names {name}"
    for line, identifier in identifiers(tree):
        for name in NAMES:
            same_room = any(home.startswith(f"cfdg_jax.{room}.") for home in homes(name))  # agents build on each other
            if name in ORDINARY or name in free or same_room:
                continue
            if f"_{name}_" in f"_{identifier.lower()}_" or identifier.lower() == f"{name.replace('_', '')}config":
                yield f"line {line}: {identifier} names {name}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_no_method_is_named_outside_its_own_file_and_registry(path):
    assert list(naming(module_of(path), ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cfdg_jax.presets", "values = {} if agent == 'iql' else 1"),
        ("cfdg_jax.config", "help = 'for cfdg, edis and others'"),
        ("cfdg_jax.training.run", "if rule == 'uniform': pass"),
        ("cfdg_jax.bench", "AGENTS[agent].pex"),
        ("cfdg_jax.cli", "from cfdg_jax.stratify import stratdiff"),
        ("cfdg_jax.training.run", "import cfdg_jax.agents.iql as anything"),
        ("cfdg_jax.training.run", "from cfdg_jax.agents.iql import update_once"),
        ("cfdg_jax.training.run", "from cfdg_jax.mix import uniform"),
        ("cfdg_jax.training.run", "def _iql_special(): pass"),
        ("cfdg_jax.training.run", "is_stratdiff = True"),
        ("cfdg_jax.report.build", "label = 'IQL-EDIS'"),
        ("cfdg_jax.mix.base", "remedy = 'use --mix uniform'"),
        ("cfdg_jax.agents.iql", "x = 'rlpd'"),
        ("cfdg_jax.mix.oorb", "x = 'by_source'"),
    ],
)
def test_each_naming_is_seen(module, source):
    assert list(naming(module, ast.parse(source)))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cfdg_jax.agents.iql", "x = 'iql'"),
        ("cfdg_jax.agents.pex", "from cfdg_jax.agents import iql"),
        ("cfdg_jax.core.optim", "jax.random.uniform(key)"),
        ("cfdg_jax.cli", "prog = 'cfdg-jax train'"),
        ("cfdg_jax.training.run", "'''IQL's words in a docstring.'''"),
    ],
)
def test_what_names_none_passes(module, source):
    assert list(naming(module, ast.parse(source))) == []
