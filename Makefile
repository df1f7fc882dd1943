# Each target does all the set-up it needs; a second call reuses it.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Modules of the guard that are mutated; `make mutate-guard MUTATED=core` takes one.
MUTATED ?= budget coherence config core decision excess health outlook returning

# One thread a library: on a small machine more of them stall each other.
export OMP_NUM_THREADS  ?= 1
export OMP_WAIT_POLICY  ?= passive

.PHONY: help install demo test coverage-guard mutate-guard lint types contracts wheel tests test-slow soak bench clean

help: ## Show what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "memrl-ctrl needs Python 3.11 or newer; this is $$($(PYTHON) -V). Try: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP) ## Make the virtual environment .venv with everything in it

demo: $(STAMP) ## The main job: train, export, deploy over ZeroMQ, record, replay, score
	$(BIN)/memrl-ctrl demo

test: lint types contracts wheel tests ## Everything that must hold before a change lands

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports --no-cache

wheel: $(STAMP)
	@rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --quiet --no-isolation --outdir build/wheel .
	$(BIN)/check-wheel-contents build/wheel/*.whl

tests: $(STAMP)
	$(BIN)/pytest -m "not slow" -n 2 --hypothesis-profile=ci

coverage-guard: $(STAMP) ## Branch coverage of the guard by its own tests; below 100 % fails
	$(BIN)/coverage run --branch --source=memrl_deploy.guard --data-file=build/coverage-guard -m pytest -q tests/unit/test_guard*.py
	$(BIN)/coverage report --data-file=build/coverage-guard --show-missing --fail-under=100

mutate-guard: $(STAMP) ## Mutation testing of the guard; a survivor that docs/guard-mutants.md does not explain fails
	$(BIN)/python tests/tools/mutate_guard.py $(MUTATED)

test-slow: mutate-guard ## Tests of minutes: learning, long attacks, mutants of the guard
	$(BIN)/pytest -m slow

SOAK_CYCLES ?= 1000000
soak: $(STAMP) ## A million twin cycles with faults; goes on where it stopped (SOAK_CYCLES=N for fewer)
	$(BIN)/memrl-ctrl soak --cycles $(SOAK_CYCLES) --out build/soak

bench: $(STAMP) ## Benchmarks, results as JSON under build/bench
	@mkdir -p build/bench
	$(BIN)/memrl-ctrl bench kernel --json build/bench/kernel.json

clean: ## Remove what was built, the virtual environment too
	rm -rf build dist $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
