# Everything runs in .venv, which each target sets up for itself; nothing is installed twice.
#   make demo     the main job on embedded data, end to end: runs/demo/report.html
#   make test     the tests
# Needs Python 3.11 or later, git and make. `make demo PYTHON=/path/to/python3.12` picks another Python.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(wildcard forgetmi models data_adapters tests benchmarks examples)

.PHONY: help install demo test lint bench clean

help:
	@sed -n 's/^#   //p' Makefile; echo "make install | lint | bench | clean"

install: $(VENV)/.ready-dev

# A venv without pip (an interrupted set-up) is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed: make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-demo: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install --quiet -c constraints.txt -e '.[cxr]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) install --quiet -c constraints.txt -e '.[cxr,dev]'
	@touch $(VENV)/.ready-demo $@

demo: $(VENV)/.ready-demo
	$(BIN)/forgetmi demo

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n auto --dist loadfile

# mypy sees the package as it installs: three source folders, one import name. Scripts have their folder on the path.
lint: $(VENV)/.ready-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	rm -rf build/lib build/typed
	$(PIP) install --quiet --no-deps --no-build-isolation --target build/typed .
	MYPYPATH=build/typed $(BIN)/mypy -p forgetmi
	MYPYPATH=build/typed:benchmarks:examples $(BIN)/mypy --explicit-package-bases benchmarks examples

# `make bench BENCH=--quick` tries each for some minutes, or seconds.
bench: $(VENV)/.ready-dev
	@for script in $(wildcard benchmarks/*.py); do echo "== $$script"; $(BIN)/python $$script $(BENCH) || exit 1; done

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
