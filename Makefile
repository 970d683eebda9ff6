# `make demo` shows a tuning run, `make test` checks the project. Needs python3 (3.11 to 3.13) with venv.
PYTHON ?= python3
VENV   ?= .venv
# What is tested; empty: the newest that pyproject.toml allows.
CONSTRAINTS ?= -c constraints.txt
EXTRAS := test,lint,examples,pandas,optuna,cmaes,qmc,bohb,pb2,hyperopt,bayesopt,nevergrad,report,docs

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input --retries 5 --timeout 60
PYTEST := $(BIN)/python -m pytest -q
CODE   := $(wildcard tune_core flows examples benchmarks tests)

.PHONY: help install demo test test-unit test-flows test-flows-all test-acceptance test-differential test-chaos test-newest test-one docs lint types format bench bench-search clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

install: $(STAMP) ## create .venv and install all that is tested
	@:

# The stamp is written last, so an install that was cut short is done again.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); prefect-tune needs Python 3.11 to 3.13: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "install: $(VENV) with $$($(PYTHON) -V) and prefect-tune[$(EXTRAS)] (some minutes the first time)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "no venv could be made; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PIP) install --upgrade pip
	@$(PIP) install --prefer-binary $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@

demo: install ## tune a digit classifier on an S3 server of its own
	@$(BIN)/python examples/digits.py $(DEMO_ARGS)

test: lint types test-unit test-flows test-acceptance ## everything that CI runs

# Lint and types first, since they are quick. The tiers are separate runs: the unit tier forbids sockets
# and sleeping, the flows tier keeps one Ray and one Prefect server for its whole session.
test-unit: install ## unit, contract and simulated tests, import ranks among them
	@echo "test: $(wildcard tests/unit tests/contracts tests/simulated)"
	@$(PYTEST) -n auto -m "not slow" $(wildcard tests/unit tests/contracts tests/simulated)
	@echo "test: the examples in docstrings"
	@$(PYTEST) -n auto --doctest-modules tune_core

test-flows: install ## the flow on a real Prefect server and Ray
	@echo "test: tests/flows, but for the slow ones"
	@$(PYTEST) -m "not slow" tests/flows

test-flows-all: install ## every test on real servers, and the slow ones without
	@echo "test: tests/flows, and what is slow in tests/simulated and tests/acceptance"
	@$(PYTEST) tests/flows
	@$(PYTEST) -m slow tests/simulated tests/acceptance

test-acceptance: install ## examples and command line as a user runs them
	@echo "test: tests/acceptance, but for the slow ones"
	@$(PYTEST) -m "not slow" tests/acceptance

test-differential: install ## compare with what Ray Tune did, script by script (not part of `make test`)
	@echo "test: tests/differential"
	@$(PYTEST) tests/differential

test-chaos: install ## kill workers, flows and servers (not part of `make test`)
	@echo "test: tests/chaos"
	@$(PYTEST) tests/chaos

test-newest: ## unit and flows tests on the newest Prefect, Ray and others that are allowed, in .venv-newest
	@rm -f .venv-newest/.installed
	@$(MAKE) --no-print-directory VENV=.venv-newest CONSTRAINTS=--upgrade install
	@.venv-newest/bin/python -m pip list 2>/dev/null | grep -E '^(prefect|prefect-ray|ray|fsspec|s3fs|optuna) '
	@$(MAKE) --no-print-directory VENV=.venv-newest CONSTRAINTS=--upgrade test-unit test-flows

test-one: install ## one test or file, with what it prints: make test-one T="tests/flows/test_ad_hoc.py -k ctrl_c"
	@test -n "$(T)" || { echo 'make test-one T=<file, file::test, or file -k words>' >&2; exit 2; }
	@$(PYTEST) -s -p no:randomly $(T)

docs: install ## the documentation as a site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: install ## ruff: rules and format
	@echo "lint: $(CODE)"
	@$(BIN)/ruff check --quiet $(CODE)
	@$(BIN)/ruff format --quiet --check $(CODE) || { echo "run: make format" >&2; exit 1; }

types: install ## mypy
	@echo "types: mypy"
	@$(BIN)/mypy --no-error-summary $(wildcard tune_core flows examples tests/typing)

format: install ## let ruff mend what it can
	@$(BIN)/ruff check --quiet --fix $(CODE) || true
	@$(BIN)/ruff format --quiet $(CODE)

bench: install ## compare with Ray Tune
	@echo "bench: installing ray[tune]"
	@$(PIP) install -c constraints.txt -e '.[bench]'
	@set -e; for script in $(sort $(wildcard benchmarks/[a-z]*.py)); do \
	  echo "bench: $$script"; $(BIN)/python $$script $(BENCH_ARGS); done

bench-search: install ## compare what is chosen with the peers, and write docs/search-quality.md (half an hour)
	@echo "bench-search: installing ray[tune], syne-tune and tables"
	@$(PIP) install -c constraints.txt -e '.[bench,bench-search]'
	@$(BIN)/python -m benchmarks.search $(BENCH_ARGS)

clean: ## remove the environment, caches, builds and what the demo left
	@rm -rf $(VENV) .demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
