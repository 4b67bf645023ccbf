# Two commands on a fresh machine: `make demo` runs the embedded default, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv

.PHONY: help demo test lint install

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(VENV)/.installed  ## a virtual environment with lume-run and what its tests need

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lume-run needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install  ## the embedded default: train, unlearn, evaluate in minutes, no download
	$(VENV)/bin/lume-run

test: install lint  ## linters, types and all tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --dist loadfile --no-loadscope-reorder --numprocesses \
		$$($(VENV)/bin/python -c 'import os; print(min(8, 1 + os.cpu_count()))')  # one more: many tests wait for others

lint: install  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
