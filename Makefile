# `make demo` and `make test` are all that a newcomer needs: Python 3.11 and make.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help demo test check lint acceptance mutants bench clean

help:           ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Tallystick needs Python 3.11; found no '$(PYTHON)'. Install it or run: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt 'torch==2.13.0' -e . --group dev
	@touch $@

demo: $(STAMP)  ## three roles train one credit model on columns that never meet, in front of you (one to three minutes)
	$(BIN)/tallystick demo

test: $(STAMP)  ## every test that needs Python and make alone
	$(BIN)/python -m pytest -q -n $(WORKERS) -m "not acceptance"

lint: $(STAMP)  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## lint and test

acceptance: $(STAMP)  ## everything else: processes, benchmarks with their bounds, the demo (about 40 minutes)
	$(BIN)/python -m pytest -q -m acceptance
	$(MAKE) mutants

mutants: $(STAMP)  ## break the security code on purpose, one line at a time: a named test must fail
	$(BIN)/python -m tests.mutants.run

bench: $(STAMP) ## the published figures, with tables and plots in out/bench
	mkdir -p out/bench
	$(BIN)/tallystick bench sealed-sum --json out/bench/sealed-sum.json
	$(BIN)/tallystick bench round --json out/bench/round.json
	$(BIN)/tallystick bench alignment --json out/bench/alignment.json --plot out/bench/alignment.svg
	$(BIN)/tallystick bench vertical --json out/bench/vertical.json --plot out/bench/vertical.svg
	$(BIN)/tallystick bench scoring --json out/bench/scoring.json
	$(BIN)/tallystick bench decisions --json out/bench/decisions.json

clean:          ## remove the environment and everything that was made
	rm -rf $(VENV) build dist out runs .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
