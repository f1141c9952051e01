# Everything from nothing: `make demo` maps a synthetic event, `make test` runs the tests.
# CI=1 adds the slow lane (real servers, several processes).
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# --no-deps: the requirement files are complete and hashed, so nothing else may be fetched.
INSTALL := $(PIP) install --quiet --no-deps --require-hashes

.PHONY: demo test faults docs check clean
demo: .venv/core
	rm -rf demo
	$(BIN)/coseis demo demo

test: check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# Everything that is broken on purpose, and the table of it in docs/reliability.md.
faults: .venv/dev
	rm -f faults.jsonl
	CI=1 COSEIS_FAULT_LOG=faults.jsonl $(BIN)/python -m pytest -m faults $(PYTEST_ARGS)
	$(BIN)/python tests/fault_log.py faults.jsonl docs/reliability.md

# The reference of the Python interface, from its docstrings: build/reference/index.html.
docs: .venv/dev
	$(BIN)/python docs/reference.py build/reference

check: .venv/dev
	$(BIN)/ruff format --check src tests benchmarks deploy docs notebooks
	$(BIN)/ruff check src tests benchmarks deploy docs notebooks
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/core: requirements/core.txt pyproject.toml
	$(MAKE) .venv/bin/python
	$(INSTALL) -r requirements/core.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.venv/dev: requirements/dev.txt requirements/deploy.txt .venv/core
	$(INSTALL) -r requirements/dev.txt
	$(INSTALL) -r requirements/deploy.txt
	touch $@

# Checks deploy/ (290 MB, a minute): the tests that need it say so where it is absent.
.venv/checkov: requirements/checkov.txt .venv/bin/python
	$(BIN)/python -m venv $@
	$@/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes -r requirements/checkov.txt
	touch $@

.venv/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 14) and f"coseis needs Python 3.11 to 3.13; {v[0]}.{v[1]} found: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
