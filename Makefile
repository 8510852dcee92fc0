# One command each; every target sets up what it needs.
#   make demo    rank, compare and draw on synthetic people, without torch
#   make test    everything the continuous integration checks
#   make check   the same without the tests: format, lint, types, layers
#   make fast    the tests alone, without the slow ones
#   make docs    the documentation as a site, in site/
#   make test-browser   the service's page in headless Chromium, which must be installed

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .venv-demo

.PHONY: demo test docs test-browser check fast format clean

demo: $(DEMO)/.done
	$(DEMO)/bin/passreid demo --output demo

test: check
	$(BIN)/python -m pytest

fast: $(VENV)/.done
	$(BIN)/python -m pytest -m "not slow"

docs: $(VENV)/.done
	$(BIN)/mkdocs build

test-browser: $(VENV)/.done
	$(BIN)/python -m pytest tests/browser

check: $(VENV)/.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(DEMO)/.done: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet .
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) demo build dist
