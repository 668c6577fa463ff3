"""The public names, and that naming the package loads nothing heavy."""

import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import cfdg_jax


def test_every_public_name_is_there_and_documented():
    assert sorted(cfdg_jax.__all__) == sorted(cfdg_jax._HOMES) == sorted(dir(cfdg_jax))
    assert all(getattr(cfdg_jax, name).__doc__ for name in cfdg_jax.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = cfdg_jax.trian


def test_importing_the_package_loads_neither_jax_nor_mujoco():
    code = "import sys, cfdg_jax; assert not {'jax', 'mujoco', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_semantic_and_the_same_everywhere():
    root = pathlib.Path(__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert f"\nversion: {project['version']}\n" in (root / "CITATION.cff").read_text()
    changelog = (root / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{project['version']}]" in changelog
