# `make demo` and `make test` are the two commands; both set up .venv first, from python3, make and git alone.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
RUN := RAY_ADDRESS=local $(BIN)/python

.PHONY: setup lock demo picture check fix test faults fuzz gpu clean

setup: .venv/ready

# uv installs exactly the locked versions, from whichever index this machine's pip is set up for, and compiles
# them: 40 s once, against 6 s at each start of torch where Python may not keep what it compiled itself.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[^ ]*' requirements.lock)"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	.ci/system.sh
	touch $@

# Newest versions of everything: names and versions alone, good for Python 3.11 and 3.12.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --group dev --no-annotate --no-header \
		pyproject.toml --output-file requirements.lock

# Four sequences: three to train and validate on, the fourth held out and scored, all in this machine's own
# processes; six epochs, which on the held-out frames end within 0.002 mIoU of the recipe's eight. The same command
# resumes. What README.md shows of it: docs/demo.png, by `make picture`.
demo: setup
	$(RUN) jobs/simulate.py demo/data --sequences 3
	$(RUN) jobs/simulate.py demo/heldout --sequences 1 --first-sequence 3
	$(RUN) jobs/train.py interferogram-small --data demo/data --out demo/run --workers 0 --epochs 6
	$(RUN) jobs/score.py demo/heldout --model demo/run --out demo/scores --workers 0
	$(RUN) jobs/report.py demo/scores --figures 2

picture: demo
	$(BIN)/python -m tests.picture

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Three files at a time, each test on one core: half of the tests' time is waiting for processes to start. Tests that
# share a Ray (tests/conftest.py) are one of the three.
test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder

# The long kills, minutes each; two tests at a time, as most are more than one process; who is done early takes over
# half of what the other has left. Their waits end late: an hour of them on a machine that others use as well is to
# tell of defects, not of its load. What trains on a GPU trains on a CPU here, so that its tests follow the code.
faults: setup
	OMP_NUM_THREADS=1 PATIENCE=5 GPU_STAND_IN=cpu $(BIN)/pytest -m long -n 2 --dist worksteal --timeout 3000

# A hundred thousand damaged and invented inputs at every reader, half an hour on 2 cores; exit code 1: a find.
# FUZZ="--docs docs/explanation/security.md" puts the table there, --seed N makes other inputs.
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --inputs 100000 --finds fuzz-finds $(FUZZ)

# What wants a GPU: its tests, then what training costs on it, into a table named after it.
GPU = $(shell nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr 'A-Z ' 'a-z-')
gpu: setup
	$(BIN)/pytest -m gpu
	set -o pipefail; $(BIN)/python -m bench.training --device cuda | tee bench/results/training-$(GPU).txt
	set -o pipefail; $(BIN)/python -m bench.models | tee bench/results/models-$(GPU).txt

clean:
	rm -rf demo .pytest_cache .ruff_cache .hypothesis
