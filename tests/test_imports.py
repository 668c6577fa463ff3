"""The folder rule: who may import whom, where third-party packages may appear, and how long files and functions get."""

import ast
import graphlib
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cfdg_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = ("errors", "types", "core")
NAMES = ("axis", "errors", "values", "catalog", "tasks", "data.names")
"""What says which names there are, without JAX."""
METHODS = (*BASE, "methods", "diffusion", "values")
ROOMS = ("agents", "augment", "mix", "stratify")
CONFIG = ("config", "fields", "presets")
BELOW_TRAINING = ("axis", *METHODS, *ROOMS, *CONFIG, "data", "envs")
ABOVE_TRAINING = (*BELOW_TRAINING, "training", "report")
JOBS = ("bench", "demo", "dryrun", "explain", "forecast", "grid", "process", "sweep", "upsample")
MAY_IMPORT = {
    "errors": (),
    "axis": ("errors",),
    "values": ("axis", "errors"),
    "catalog": ("errors", "values"),
    "tasks": (),
    "gym_ids": (),
    "types": ("errors",),
    "methods": ("errors", "types"),
    "core": ("errors", "types"),
    "envs": (*BASE, "tasks"),
    "data": (*BASE, "envs"),
    "diffusion": BASE,
    **dict.fromkeys(ROOMS, METHODS),
    "config": (*METHODS, *ROOMS, "axis", "data", "catalog"),
    "fields": (*METHODS, "config", "catalog", "values"),
    "presets": (*METHODS, "config", "fields", "data"),
    "training": BELOW_TRAINING,
    "report": ("axis", "errors", "types", "training.lock"),
    "upsample": (*BELOW_TRAINING, "training"),
    "bench": (*BELOW_TRAINING, "training"),
    "grid": (*ABOVE_TRAINING, "process"),
    "sweep": (*ABOVE_TRAINING, "grid"),
    "forecast": BELOW_TRAINING,
    "demo": (*ABOVE_TRAINING, "sweep"),
    "explain": (*CONFIG, "catalog", "errors", "values"),
    "dryrun": (*ABOVE_TRAINING, "forecast"),
    "process": ("core", "data"),
    "commands": (
        *ABOVE_TRAINING,
        *NAMES,
        "bench",
        "demo",
        "dryrun",
        "explain",
        "forecast",
        "grid",
        "process",
        "sweep",
        "upsample",
    ),
    "cli": ("commands", "errors", "training.progress"),
    "__main__": ("cli",),
    "__init__": (*ABOVE_TRAINING, "gym_ids"),
}
"""Modules and folders each part may import beside itself; a folder stands for everything in it."""

ONLY_IN = {
    "gymnasium": ("envs",),
    "mujoco": ("envs",),
    "gymnasium_robotics": ("envs",),
    "h5py": ("data.hdf5",),
    "flax": ("core.networks", "diffusion"),
    "wandb": ("training.logging",),
    "tensorboardX": ("training.logging",),
    "minari": ("data.minari",),
    "ray": ("grid",),
    "pyarrow": ("data.lerobot",),
    "matplotlib": ("report",),
    "sklearn": ("report",),
}
NEVER = {"torch", "distrax", "tensorflow", "tensorflow_probability", "gym", "d4rl", "mujoco_py", "rliable"}
IMPORT_NAMES = {
    "gymnasium-robotics": "gymnasium_robotics",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
    "pillow": "PIL",
    "orbax-checkpoint": "orbax",
}
MEDIAN_FILE, MAX_FILE, MAX_FUNCTION = 150, 350, 60


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def import_names(requirements):
    """Top-level modules of requirements such as ``minari[hdf5]>=0.5``."""
    names = [re.match(r"[\w.-]+", requirement).group() for requirement in requirements]
    return {IMPORT_NAMES.get(name.lower(), name) for name in names}


OPTIONAL = import_names(
    r
    for extra in ("minari", "lerobot", "tensorboard", "wandb", "likelihood", "adroit", "video", "ray")
    for r in project()["optional-dependencies"][extra]
)


def module_of(path):
    """``training.logging`` for ``cfdg_jax/training/logging.py``; a folder's ``__init__`` is the folder."""
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(tree):
    """``(module, at module level)`` of every import of a parsed file, imported names included for packages."""
    inside = {node for function in ast.walk(tree) if is_function(function) for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node not in inside) for alias in node.names)


def is_function(node):
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def within(module, places):
    return any(module == place or module.startswith(place + ".") for place in places)


def violations(module, tree):
    """What is wrong with the imports of one module, in words."""
    part = module.split(".")[0]
    declared = import_names(project()["dependencies"]) | OPTIONAL | set(sys.stdlib_module_names) | {"cfdg_jax"}
    for name, at_module_level in imports(tree):
        top, _, rest = name.partition(".")
        if top == "cfdg_jax" and not within(rest, (part, *MAY_IMPORT[part])):
            yield f"{module} may not import {name}"
        if top in ONLY_IN and not within(module, ONLY_IN[top]):
            yield f"{module} may not import {top}: only {', '.join(ONLY_IN[top])}"
        if top not in declared:
            yield f"{module} imports {top}, which pyproject.toml does not declare"
        if top in OPTIONAL and at_module_level:
            yield f"{module} imports the optional {top} at module level"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_one_way(path):
    assert list(violations(module_of(path), ast.parse(path.read_text()))) == []


def test_nothing_unmaintained_is_required():
    """The old stack cannot be installed any more; what is needed of it is read from files or written here."""
    extras = (requirement for extra in project()["optional-dependencies"].values() for requirement in extra)
    assert not NEVER & import_names([*project()["dependencies"], *extras])


def test_no_file_imports_itself_by_way_of_others():
    """Imports inside functions count: they are how a circle is hidden."""
    known = {f"cfdg_jax.{module_of(path)}".rstrip(".") for path in FILES}
    imported = {}
    for path in FILES:
        found = set()
        for name, _ in imports(ast.parse(path.read_text())):
            found |= {part for part in (name, name.rpartition(".")[0]) if part in known}
        imported[f"cfdg_jax.{module_of(path)}"] = found
    order = graphlib.TopologicalSorter(imported)
    order.prepare()  # raises CycleError


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    functions = [node for node in ast.walk(ast.parse(text)) if is_function(node)]
    long = [f"{node.name}: {node.end_lineno - node.lineno + 1}" for node in functions]
    assert [name for name in long if int(name.rsplit(" ", 1)[1]) > MAX_FUNCTION] == []
    assert len(text.splitlines()) <= MAX_FILE


def test_half_of_the_files_are_read_in_a_few_minutes():
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES if path.name != "__init__.py")
    assert lengths[len(lengths) // 2] <= MEDIAN_FILE


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("core.losses", "from cfdg_jax.data import returns", "core.losses may not import cfdg_jax.data.returns"),
        ("agents.iql", "from cfdg_jax.augment.cfdg import cfdg", "may not import cfdg_jax.augment.cfdg.cfdg"),
        ("agents.iql", "from cfdg_jax.mix import oorb", "may not import cfdg_jax.mix.oorb"),
        ("mix.oorb", "from cfdg_jax.data import returns", "may not import cfdg_jax.data.returns"),
        (
            "report.build",
            "def f():\n    from cfdg_jax.training.run import load_run",
            "may not import cfdg_jax.training",
        ),
        ("envs.toy", "import cfdg_jax.data", "envs.toy may not import cfdg_jax.data"),
        ("training.online", "import mujoco", "training.online may not import mujoco"),
        ("agents.iql", "from flax import linen", "agents.iql may not import flax"),
        ("training.logging", "import wandb", "training.logging imports the optional wandb at module level"),
        ("core.optim", "import distrax", "core.optim imports distrax"),
        ("core.optim", "if True:\n    import pandas", "core.optim imports pandas"),
    ],
)
def test_each_violation_is_seen(module, source, complaint):
    assert any(complaint in found for found in violations(module, ast.parse(source)))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("agents.iql", "from cfdg_jax.core.ring import sample\nfrom cfdg_jax.diffusion import edm"),
        ("training.logging", "def f():\n    import wandb"),
        ("core.networks", "import flax.linen as nn"),
        ("report.plots", "from cfdg_jax.report import stats\nfrom cfdg_jax.errors import require"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert list(violations(module, ast.parse(source))) == []


def test_relative_imports_are_refused():
    with pytest.raises(AssertionError, match="relative import"):
        list(violations("core.optim", ast.parse("from . import losses")))
