# One command each; every target sets up what it needs.
#   make demo    rank, compare and draw on synthetic people, without torch
#   make test    everything the continuous integration checks
#   make check   the same without the tests: format, lint, types, layers
#   make fast    the tests alone, without the slow ones
#   make docs    the documentation as a site, in site/
#   make test-lowest    the tests on the oldest versions that pyproject.toml allows (torch as it comes)
#   make test-browser   the service's page in headless Chromium, which must be installed

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .venv-demo
LOWEST := .venv-lowest

.PHONY: demo test test-lowest docs test-browser check fast format clean

demo: $(DEMO)/.done
	$(DEMO)/bin/passreid demo --output demo

test: check
	$(BIN)/python -m pytest

fast: $(VENV)/.done
	$(BIN)/python -m pytest -m "not slow"

docs: $(VENV)/.done
	$(BIN)/mkdocs build

test-lowest: $(VENV)/.done
	$(BIN)/uv venv --quiet --clear $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST) torch torchvision timm tomli-w
	$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct '.[serve]'
	$(BIN)/uv pip install --quiet --python $(LOWEST) pytest pytest-randomly pytest-socket \
		pytest-timeout hypothesis
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning tests/gallery tests/server \
		tests/ranking tests/images tests/data

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
	rm -rf $(VENV) $(DEMO) $(LOWEST) site demo build dist
