# Two commands do everything on a fresh machine: `make study` and `make test`.
# They need CPython >= 3.11 with pip and venv, and make.

PYTHON ?= python3
STUDY ?= quickstart
# float32 or bfloat16, in the place of the study's own; the study then has a name and results of its own.
PRECISION ?=
NAME := $(STUDY)$(if $(PRECISION),_$(PRECISION))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A process a core, and a file of tests stays in one of them, since its tests share what they look at.
PYTEST := $(BIN)/python -m pytest -n $(shell nproc 2>/dev/null || echo 2) --dist loadfile --no-loadscope-reorder
SNAKEMAKE := $(BIN)/python rules/after_a_kill.py $(BIN)/snakemake --cores all --config study=$(STUDY) $(if $(PRECISION),precision=$(PRECISION))
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: study test test-all test-whole test-faults test-cluster slowest-tests mutation coverage licences lint bench bench-quick package setup lock clean help

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

study: $(READY) ## train a study and write its report (STUDY=quickstart, PRECISION=the study's own)
	@$(SNAKEMAKE)
	@test results/$(NAME)/workflow.html -nt results/$(NAME)/report.html || \
	  $(SNAKEMAKE) --report results/$(NAME)/workflow.html

test: $(READY) lint ## linters and all tests but the longest, some minutes
	@$(PYTEST) -m "not whole and not cluster"

test-all: test test-whole ## linters and all tests but those on a SLURM

test-whole: $(READY) ## what test-all has beside test
	@$(PYTEST) -m "whole and not cluster"

test-faults: $(READY) ## kills, full disks and bad input to every command, and how many were survived
	@$(PYTEST) tests/faults

test-cluster: $(READY) ## studies on a real SLURM of one node, started for it (root on Debian)
	@MUFREE_TEST_CLUSTER=1 $(BIN)/python -m pytest tests/cluster --durations=0

slowest-tests: $(READY) ## run all tests and write the ten slowest into docs/testing.md
	@$(PYTEST) -m "not cluster" --junitxml=results/tests.xml
	@$(BIN)/python benchmarks/slowest_tests.py results/tests.xml docs/testing.md

mutation: $(READY) ## change the code at random and write into docs/testing.md what the tests notice (SAMPLE=25 a module)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mutation.py $(if $(SAMPLE),--sample $(SAMPLE))

coverage: $(READY) ## run the unit tests and write into docs/testing.md what they leave out
	@rm -f results/coverage*
	@mkdir -p results
	@$(BIN)/coverage run -m pytest tests/unit -m "not whole"
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage json -q -o results/coverage.json
	@$(BIN)/python benchmarks/coverage_table.py results/coverage.json docs/testing.md

licences: $(READY) ## write those of the locked packages into docs/licences.md
	@$(BIN)/python benchmarks/licences.py envs/requirements.lock docs/licences.md

lint: $(READY) ## linters alone
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/snakefmt --check Snakefile rules
	@$(BIN)/snakemake --lint

bench: $(READY) ## runs per core-hour against a plain loop (an hour or two; results/bench)
	@$(BIN)/python benchmarks/bench.py

bench-quick: $(READY) ## whether the benchmark works (a minute or two)
	@$(BIN)/python benchmarks/bench.py --quick --out results/bench-quick

package: $(READY) ## sdist and wheel, checked (dist)
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation
	@$(BIN)/twine check --strict dist/*

setup: $(READY) ## make .venv from envs/requirements.lock

# Needs uv, which nothing else does. Versions stay where the ranges of pyproject.toml allow it, unless UPGRADE=--upgrade.
# conda makes its environment anew when the file of it changes, so that has the lock's digest.
lock: ## write envs/requirements.lock from pyproject.toml (UPGRADE=--upgrade for the newest versions)
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
	  --custom-compile-command "make lock" $(UPGRADE) --output-file envs/requirements.lock
	@sed -i -E "s/[0-9a-f]{64}/$$(sha256sum < envs/requirements.lock | cut -c-64)/" envs/mufree.yaml

# Installed anew only when the lock or the package's metadata change.
$(READY): envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mufree needs Python 3.11 or later; set PYTHON=...")'
	@echo "Setting up $(VENV): this downloads PyTorch once and takes some minutes."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@bash envs/mufree.post-deploy.sh
	@touch $@

clean: ## remove what studies and tests made, but not .venv
	rm -rf results dist .snakemake .pytest_cache .mypy_cache .ruff_cache
