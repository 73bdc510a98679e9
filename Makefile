# `make demo` and `make test` are the two commands; both set up .venv first, from python3 and git alone.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: setup lock demo check fix test faults clean

setup: .venv/ready

# uv installs exactly the locked versions, from whichever index this machine's pip is set up for.
.venv/ready: requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements.lock
	$(BIN)/python .ci/system.py
	touch $@

# New versions of everything: names and versions alone, for Python 3.11 and 3.12.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --group dev --no-annotate --no-header \
		pyproject.toml --output-file requirements.lock

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-timing 2>&1 | tail -n 4; exit $${PIPESTATUS[0]}
	$(BIN)/pyright

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: check
	$(BIN)/pytest

faults: setup
	$(BIN)/pytest -m long

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache .hypothesis
