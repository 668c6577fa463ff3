"""The files of ``data/`` stand on each other in one order, whatever is imported inside functions."""

import ast
import graphlib
import pathlib

import cfdg_jax

FOLDER = pathlib.Path(cfdg_jax.__file__).parent / "data"


def imported(path):
    """Files of the folder that `path` imports, at any level."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "cfdg_jax.data":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("cfdg_jax.data."):
            yield node.module.split(".")[2]


def test_no_circle():
    graph = {path.stem: set(imported(path)) for path in FOLDER.glob("*.py")}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    for lower, upper in (("dataset", "hdf5"), ("hdf5", "d4rl"), ("hdf5", "minari"), ("hdf5", "local")):
        assert order.index(lower) < order.index(upper) < order.index("load")
    assert not graph["dataset"] & {"hdf5", "d4rl", "minari", "local", "load"}
    assert "load" not in graph["hdf5"] | graph["d4rl"] | graph["minari"] | graph["local"]
