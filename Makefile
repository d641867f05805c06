# make demo    train on the small model that comes with sdtune; needs nothing but Python 3.11 or newer
# make test    every test: the fast ones first, then the slow ones
# Other goals: lint types wheel clean. Each prepares .venv when it has to.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
EXTRAS ?= dev,bnb,optim
# One thread per worker: two workers with a thread each beat one worker with two. Bytecode is kept, whatever the shell
# says: the slow tests need not compile again what the fast ones did.
TEST_ENV := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
RUN_PYTEST := $(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS)

# The first Python that is new enough and can make a virtual environment; `make PYTHON=... demo` chooses another.
NEEDS := import sys, venv, ensurepip; raise SystemExit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c '$(NEEDS)' >/dev/null 2>&1 && { echo $$python; break; }; done)

.PHONY: demo test test-fast test-slow lint types wheel clean

demo: $(STAMP)
	$(BIN)/sdtune demo --overwrite

test: test-fast test-slow

test-fast: $(STAMP)
	$(RUN_PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(RUN_PYTEST) -m slow --dist loadgroup --no-loadscope-reorder --durations=5

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

# torch comes first and alone: with it in place nothing later asks for a build with CUDA packages.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: sdtune needs Python 3.11 or newer with venv and pip" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@
