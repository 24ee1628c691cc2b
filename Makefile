# The commands a person types; `make help` lists them.
# 3.11 to 3.13 first: not every pinned package has a wheel for a newer one.
PYTHON ?= $(firstword $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && command -v $$p && break; done) python3)
BIN := .venv/bin
CORES ?= all
export OMP_NUM_THREADS ?= 1
SHELL := /bin/bash

.DEFAULT_GOAL := demo
.PHONY: help setup demo test test-all test-real lint format bench models lock pull schema

help:            ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST)

setup:           ## create .venv with the pinned packages, if needed
	@$(PYTHON) tools/bootstrap.py

demo: setup      ## build the demo study offline and print where its report is (plain `make` does this)
	@$(BIN)/snakemake --cores $(CORES) results/studies/demo/report.html
	@echo "report: $(CURDIR)/results/studies/demo/report.html"

lint: setup      ## check format, lint, types
	@$(BIN)/ruff format --check src scripts tests benchmarks tools
	@$(BIN)/ruff check src scripts tests benchmarks tools
	@$(BIN)/snakefmt --check --compact-diff Snakefile rules 2>&1 | tail -n 5; exit $${PIPESTATUS[0]}
	@$(BIN)/mypy

format: setup    ## format everything
	@$(BIN)/ruff format src scripts tests benchmarks tools
	@$(BIN)/ruff check --fix src scripts tests benchmarks tools
	@$(BIN)/snakefmt Snakefile rules

test: lint       ## lint, then the tests that take minutes, the demo end to end among them
	@$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not real" tests/unit
	@$(BIN)/pytest -m "not slow and not real" tests/rules tests/workflow

test-real: setup ## the tests on real data in REAL_DATA_DIR
	@$(BIN)/pytest -m "real and not slow"

test-all: lint   ## everything, also what is slow or needs real data
	@$(BIN)/pytest

bench: setup     ## time and memory of the demo study, of acquisition and labels beside their peers
	@$(BIN)/python -m benchmarks

models: setup    ## every network: parameters, multiply-adds at 256 x 256 px, images per second here
	@$(BIN)/python -m benchmarks.models

pull: setup      ## fetch results with DVC and tell snakemake that they are up to date
	@$(BIN)/dvc pull
	@$(BIN)/snakemake --cores 1 --touch --forceall --quiet all

schema: setup    ## write config/schema.json from the models
	@$(BIN)/python tools/schema.py

lock: setup      ## write requirements.lock from what is installed
	@$(BIN)/python tools/lock.py
