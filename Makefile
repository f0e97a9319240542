# make demo   train on handwritten digits and compare state widths
# make test   run every test
# make bench  time the engines against the memory floor and other simulators
# Everything runs in .venv, which the first command makes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test bench check wheel clean

help:
	@sed -n 's/^# make/make/p' Makefile

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "snnsim needs Python 3.10 or newer, $(PYTHON) is $$($(PYTHON) --version); name another with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(READY)

demo: $(READY)
	$(BIN)/snnsim demo $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(TESTS)

bench: $(READY)
	$(BIN)/snnsim bench $(BENCH)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

wheel: $(READY)
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
