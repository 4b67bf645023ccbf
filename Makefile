# Two commands on a fresh machine: `make demo` runs the embedded default, `make test` the tests.
PYTHON ?= python3
VENV ?= .venv

.PHONY: demo test lint install

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lume-run needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(VENV)/bin/lume-run

test: install lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --dist loadfile --no-loadscope-reorder --numprocesses \
		$$($(VENV)/bin/python -c 'import os; print(min(8, 1 + os.cpu_count()))')  # one more: many tests wait for others

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
