"""Notebooks are tried with light compilation, as the tests are; `make notebooks` keeps outputs and compiles in full."""

import importlib.metadata
import os


def pytest_configure(config):
    light = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    if not config.getoption("overwrite", False) and importlib.metadata.version("jaxlib").startswith("0.10."):
        os.environ.setdefault("XLA_FLAGS", light)  # kernels inherit it; see tests/conftest.py
