# Two commands on a fresh machine: `make demo` runs the embedded default, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv
# Where it is set, each of the some hundred processes that tests start compiles all that it imports: 26 s instead of 9.
unexport PYTHONDONTWRITEBYTECODE
# One thread a process, and one process more than there are cores: many tests wait for others.
PROCESSES = $$($(VENV)/bin/python -c 'import os; print(min(8, 1 + os.cpu_count()))')
PYTEST = OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --dist loadfile --no-loadscope-reorder --numprocesses $(PROCESSES)

.PHONY: help demo test suite quick hostile lint install

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(VENV)/.installed  ## a virtual environment with lume-run and what its tests need

# --no-compile: Python compiles the modules that are imported, when they are; all of them would take a minute longer.
$(VENV)/.installed: pyproject.toml constraints.txt setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lume-run needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install  ## the embedded default: train, unlearn, evaluate in minutes, no download
	$(VENV)/bin/lume-run

test: install  ## linters, types and all tests
	$(MAKE) --no-print-directory --jobs=2 lint suite

suite: install
	$(PYTEST)

quick: install  ## the tests of a moment each: no commands, ranks, SLURM, browser, no round through all methods or scores
	$(PYTEST) -m "not slow"

hostile: install  ## 1,700 bad inputs for the real command, counted by what became of them (half an hour)
	$(VENV)/bin/python tests/hostile/main.py

lint: install  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
