# Everything a person or CI does here, each in one word. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

BIN := .venv/bin
STAMP := .venv/.installed
TIMED := .ci/timed
INVENTORY := inventories/generated/lab.yaml
PYTEST := $(BIN)/pytest -q

.PHONY: help venv host bundle lab-up lab-down cluster cluster-begins check test test-unit test-lab bench lint format clean

help: ## Show this list
	@echo "make TARGET, where TARGET is one of:"
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | sort | awk -F'|' '{printf "  %-10s %s\n", $$1, $$2}'

venv: $(STAMP) ## Make .venv with freehold and its development tools

$(STAMP): pyproject.toml constraints.txt
	@pick() { for python in $${PYTHON:-python3.13 python3.12 python3.11 python3 /usr/bin/python3}; do \
	    if "$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$$python"; return; fi; done; }; \
	python=$$(pick); \
	[ -n "$$python" ] || { vagrant/prepare-host --packages; python=$$(pick); }; \
	[ -n "$$python" ] || { echo "make venv: freehold needs Python 3.11 or newer with venv; found only" \
	    "$$(python3 --version 2>&1 || true). Install python3.11 and python3.11-venv, or set PYTHON=/path/to/python" >&2; exit 1; }; \
	$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || "$$python" -m venv --clear .venv; \
	$(TIMED) "python packages into .venv" $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

host: ## Install what the lab and the bundle need on this host (asks apt, says why)
	@$(TIMED) "prepare this host" vagrant/prepare-host

bundle: venv ## Build the release bundle (resumes, does nothing when it is there)
	@vagrant/prepare-host --packages
	@$(TIMED) "release bundle" $(BIN)/freehold bundle build

lab-up: venv ## Start the lab's machines (cp1, w1, w2) and write their inventory
	@$(TIMED) "lab machines" vagrant/lab up

lab-down: ## Remove the lab's machines, disks and network, those of the tests too
	@vagrant/lab destroy
	@FREEHOLD_LAB=freehold-test vagrant/lab destroy

# The machines come up behind the bundle's progress bar: the bundle takes minutes, they take seconds.
cluster: export FREEHOLD_TIMES := build/cluster-times
cluster: cluster-begins venv ## From nothing to a running cluster in the lab
	@$(TIMED) "packages of this host" vagrant/prepare-host --packages
	@$(TIMED) "lab machines" vagrant/lab up >build/lab-up.log 2>&1 </dev/null & lab=$$!; \
	echo "the lab's machines start meanwhile: build/lab-up.log" >&2; \
	built=0; $(TIMED) "release bundle" $(BIN)/freehold bundle build || built=$$?; \
	if ! wait $$lab; then tail -n 30 build/lab-up.log >&2; exit 1; fi; \
	tail -n 6 build/lab-up.log >&2; exit $$built
	@$(TIMED) "install Kubernetes" $(BIN)/freehold apply --yes --inventory $(INVENTORY)
	@vagrant/show-cluster --times build/cluster-times

cluster-begins:
	@mkdir -p build
	@: >build/cluster-times

check: lint test ## All that must pass: lint, then every test

test: test-unit test-lab ## Run every test: unit, plan, contract, then integration and end-to-end on the lab

test-unit: venv ## Run the tests that need no machine
	@$(TIMED) "unit, plan and contract tests" $(PYTEST) -n auto -m "not lab and not bundle" tests
	@$(TIMED) "the same of what runs on machines, with their oldest Python" tests/check-oldest-python

test-lab: bundle ## Run the tests on lab machines (a lab of their own, which stays up)
	@$(TIMED) "integration and end-to-end tests" $(PYTEST) -n 2 --dist loadscope -m "lab or bundle" --durations=25 tests

bench: bundle ## Measure on lab machines of their own, beside what others took (RUNS=3)
	@$(BIN)/python -m bench --runs $(or $(RUNS),3)

lint: venv ## Check style, types and who may import whom
	@$(TIMED) "ruff check" $(BIN)/ruff check .
	@$(TIMED) "ruff format" $(BIN)/ruff format --check .
	@$(TIMED) "mypy" $(BIN)/mypy
	@$(TIMED) "import contracts" $(BIN)/lint-imports
	@$(TIMED) "oldest Python of machines" tests/check-oldest-python --minimum-only

format: venv ## Rewrite the sources in the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove caches and build results (not the lab, not the bundle store)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
