# The ways in: `make demo` on a bare machine, `make test` before every commit. Needs GNU make and Python 3.11 or later.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint format bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/make \1	\2/p' Makefile

# What a user needs, and what a developer needs; each is skipped while pyproject.toml and constraints.txt are unchanged.
$(VENV)/core.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Tessella needs Python 3.11 or later; say which: make PYTHON=python3.12 ...' >&2; exit 2; }
	@test -x $(BIN)/python || { echo 'making $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo 'installing Tessella into $(VENV); torch is large, this takes a minute or two'
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/core.stamp
	@echo 'installing what the tests need into $(VENV)'
	@$(PIP) -c constraints.txt -e '.[dev]'
	@$(PIP) -c constraints.txt --no-deps trackio  # it asks for an older Pillow than ours, for pictures, which we never log
	@touch $@

setup: $(VENV)/dev.stamp  ## .venv with everything that the tests need

demo: $(VENV)/core.stamp  ## train on the bundled pictures, evaluate, predict
	$(BIN)/tessella demo

test: setup  ## the quick tests
	$(BIN)/python -m pytest -n $(WORKERS) -m 'not slow'

slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: setup  ## style, then strict types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: setup  ## put the code into the form that `make lint` asks for
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: setup  ## the list of measured claims, and the command of each
	$(BIN)/python bench/run.py

clean:  ## remove what make made; runs/ stays
	rm -rf $(VENV) build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
