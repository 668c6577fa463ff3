# Every target sets up what it needs: a virtual environment with the pinned packages of requirements.txt and this project.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
NOTEBOOKS = $(wildcard notebooks/*.ipynb)
INSTALLED := $(VENV)/.installed
TRY = venv/bin/cfdg-jax --version && \
	venv/bin/cfdg-jax train --dataset local:toy-dense-medium-v0 --preset smoke --quiet --out run >/dev/null
# Its shims, which may be on the path, run the chosen version alone.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: help demo test lint types lock bench notebooks docs dist clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

demo: $(INSTALLED)  ## the main job on the embedded default dataset, ending in a report
	$(BIN)/cfdg-jax demo

test: $(INSTALLED)  ## all tests but the slow ones, and the notebooks
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=20
ifneq ($(NOTEBOOKS),)
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=900 -n $(WORKERS) $(NOTEBOOKS)
endif

lint: $(INSTALLED)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## mypy
	$(BIN)/mypy

bench: $(INSTALLED)  ## throughput on this machine, beside its matrix-product rate
	$(BIN)/cfdg-jax bench

notebooks: $(INSTALLED)  ## run the notebooks and keep their outputs
	$(BIN)/python -m pytest --nbmake --overwrite --nbmake-timeout=1800 $(NOTEBOOKS)

docs: $(INSTALLED)  ## the documentation site, in docs/_build/index.html; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build

dist: $(INSTALLED)  ## wheel and sdist in dist/, checked, then installed and tried on every supported Python that is here
	rm -rf dist build
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	@for version in 3.11 3.12 3.13; do \
		path=$$(printf %s: $(PYENV)/$$version.*/bin)$$PATH; \
		python=$$(PATH=$$path $(BIN)/uv python find --system $$version) || \
			{ echo "Python $$version: not tried, uv finds none that runs (its reason is above)"; continue; }; \
		for file in dist/*.whl dist/*.tar.gz; do \
			try=$$(mktemp -d) && $(BIN)/uv venv --quiet --python $$python $$try/venv && \
			$(BIN)/uv pip install --quiet --python $$try/venv/bin/python $$file && \
			(cd $$try && $(TRY)) && echo "Python $$version: $$file works" && rm -rf $$try || exit 1; \
		done; \
	done

lock: $(BIN)/python  ## pin every dependency anew for Python 3.11 to 3.13
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --upgrade --quiet \
		--custom-compile-command "make lock" --output-file requirements.txt

clean:  ## remove the environment and caches; runs and datasets stay
	rm -rf $(VENV) build dist docs/_build docs/_generated *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .jax_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first interpreter that runs, is of a supported version and can make virtual environments; PYTHON=... overrides.
$(BIN)/python:
	@for python in "$(PYTHON)" python3 python3.13 python3.12 python3.11; do \
		if [ -n "$$python" ] && "$$python" -c '$(SUITABLE)' 2>/dev/null; then \
			echo "creating $(VENV) with $$("$$python" --version)"; \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "error: no Python 3.11, 3.12 or 3.13 with the venv module was found; install one (on Debian and Ubuntu:" \
		"apt install python3 python3-venv) or name one with make PYTHON=/path/to/python" >&2; exit 1

$(INSTALLED): requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps -e .
	@touch $@
