# make demo   train on handwritten digits and compare state widths
# make test   run every test
# make test-mcu  the generated C on emulated microcontrollers
# make parity compare with SpikingJelly and snnTorch, which it installs beside the project
# make bench  time the engines against the memory floor and other simulators
# Everything runs in .venv, which the first command makes.

PYTHON ?= python3
VENV := .venv
# of the peers: the project itself needs neither
PEERS := .parity
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo test test-mcu mcu-tools parity bench check wheel clean

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

# an Arm compiler and an emulator; neither is installed from here
test-mcu: mcu-tools $(READY)
	$(BIN)/python -m pytest tests/deploy/test_board.py $(TESTS)

mcu-tools:
	@missing=; for tool in arm-none-eabi-gcc qemu-system-arm; do \
		command -v $$tool >/dev/null && continue; \
		case $$tool in arm-*) package=gcc-arm-none-eabi;; *) package=$$tool;; esac; \
		echo "$$tool is missing: apt-get install --no-install-recommends $$package"; missing=1; \
	done; test -z "$$missing"

$(PEERS)/.ready: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(PEERS) \
		spikingjelly==2.0.0 snntorch==1.0.0 'loguru>=0.7,<1'
	@touch $@

parity: $(PEERS)/.ready
	PYTHONPATH=$(PEERS) $(BIN)/python -m pytest tests/parity $(TESTS)

bench: $(READY)
	$(BIN)/snnsim bench $(BENCH)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

wheel: $(READY)
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
