# aigq: everything from a fresh clone with Python >= 3.11 and make.
#   make demo   the main job on an example log     make test   lint, types, tests     make docs   generated pages

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q -c constraints.txt
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test test-slow lint audit docs clean

demo: $(VENV)/.demo
	$(BIN)/aigq demo

test: lint
	$(BIN)/pytest

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow --timeout 3600

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

audit: $(VENV)/.dev
	$(BIN)/python tools/audit.py $(AIGQ_AUDIT)

docs: $(VENV)/.dev
	$(BIN)/python tools/gen_docs.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \"aigq needs Python 3.11 or later: make PYTHON=python3.11\")"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(INPUTS) | $(VENV)/bin/python
	$(PIP) -e ".[demo]"
	touch $@

$(VENV)/.dev: $(INPUTS) | $(VENV)/bin/python
	$(PIP) -e ".[demo,dev]"
	touch $@ $(VENV)/.demo
