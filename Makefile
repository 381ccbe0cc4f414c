# TaskFlow. Needs Python 3.11 or newer, make and pip; everything else goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help venv demo up test test-long check lint type verify features proto faces schema reference lock bench docker clean FORCE
SHELL := /bin/sh
BIN := .venv/bin
PY := $(BIN)/python
TEST_PROCESSES ?= 6
PYTEST = $(PY) -m pytest -n $(TEST_PROCESSES) --no-loadscope-reorder
# Compiled modules and rewritten tests are kept, whatever the environment says: each process would make them again.
export PYTHONDONTWRITEBYTECODE :=
STAMP := .venv/.taskflow-stamp

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## set up .venv (every other target does it when needed)

# A Python that is named may be another than .venv's, so then it is looked at.
$(STAMP): requirements.lock pyproject.toml sdk/pyproject.toml tools/venv.py $(if $(PYTHON),FORCE)
	@PYTHON="$(PYTHON)" BUILD="$(BUILD)" sh tools/venv.sh

demo: $(STAMP) ## start a whole cluster, run the example shop on it, show what happened, stop
	@$(PY) -m examples.demo $(ARGS)

up: $(STAMP) ## start a whole cluster and stay, until Ctrl-C; the data stay in .taskflow
	@$(BIN)/taskflow up $(ARGS)

test: $(STAMP) ## every row of the feature table proven (ARGS="tests/store -k partition" for some tests)
	@$(PYTEST) $(if $(ARGS),$(ARGS),tests)

test-long: $(STAMP) ## the long forms: larger sizes, more seeds, whole clones with each Python that is here
	@TASKFLOW_TEST_LONG=1 $(PYTEST) $(if $(ARGS),$(ARGS),tests)

check: lint type test verify ## what to run before a push; CI runs the long tier too

lint: $(STAMP) ## ruff over the Python, buf over the protos, a word list over docs and messages
	@$(BIN)/ruff check .
	@$(BIN)/buf lint
	@$(PY) -m tools.prose

type: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

verify: $(STAMP) ## is what is derived up to date: generated code, schema dump, reference pages, lock, feature table
	@$(PY) -m tools.verify

features: $(STAMP) ## what works, with the tests behind each row; WRITE=1 puts it into docs
	@$(PY) -m tools.features $(if $(WRITE),--write)

proto: $(STAMP) ## generate the SDK's Python from proto/
	@$(PY) -m tools.proto

faces: $(STAMP) ## rewrite the sync classes of the SDK from the async ones
	@$(PY) -m tools.faces

schema: $(STAMP) ## rewrite data/schema.sql from the migrations
	@$(PY) -m tools.schema

reference: $(STAMP) ## rewrite the derived parts of docs/reference: settings, command line, metrics, SDK
	@$(PY) -m tools.reference

lock: $(STAMP) ## rewrite requirements.lock from the pyprojects (ARGS=--upgrade for newer versions)
	@$(PY) -m tools.lock $(ARGS)

bench: $(STAMP) ## measure, against a cluster started for it
	@$(PY) -m benchmarks $(ARGS)

docker: ## build the images of the services; needs a Docker engine (ARGS goes to docker build)
	@for name in scheduler coordinator queue worker gateway; do docker build $(ARGS) --target $$name --tag taskflow-$$name . || exit 1; done

clean: ## remove .venv and what tools left; not your data
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
