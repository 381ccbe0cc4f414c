# TaskFlow. Needs Python 3.11 or newer, make and pip; everything else goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help venv demo up test test-machines check lint type verify features proto schema reference lock bench docker clean FORCE
SHELL := /bin/sh
BIN := .venv/bin
PY := $(BIN)/python
TEST_PROCESSES ?= 3
STAMP := .venv/.taskflow-stamp

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## set up .venv (every other target does it when needed)

# A Python that is named may be another than .venv's, so then it is looked at.
$(STAMP): requirements.lock pyproject.toml sdk/pyproject.toml tools/venv.py $(if $(PYTHON),FORCE)
	@PYTHON="$(PYTHON)" BUILD="$(BUILD)" sh tools/venv.sh

demo: $(STAMP) ## start a whole cluster, run the example shop on it, show what happened, stop
	@$(PY) -m services.cluster.demo $(ARGS)

up: $(STAMP) ## start a whole cluster and stay, until Ctrl-C; the data stay in .taskflow
	@$(BIN)/taskflow up $(ARGS)

test: $(STAMP) ## run every test (ARGS="tests/store -k partition" for some)
	@$(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(if $(ARGS),$(ARGS),tests)

test-machines: $(STAMP) ## set up whole clones and let them work, with each Python that is here; takes minutes
	@TASKFLOW_TEST_MACHINES=1 $(PY) -m pytest $(if $(ARGS),$(ARGS),tests/system/test_bare_machines.py)

check: lint type test verify ## what CI runs

lint: $(STAMP) ## ruff over the Python, buf over the protos
	@$(BIN)/ruff check .
	@$(BIN)/buf lint

type: $(STAMP) ## mypy, strict
	@$(BIN)/mypy

verify: $(STAMP) ## is what is derived up to date: generated code, schema dump, reference pages, lock, feature table
	@$(PY) -m tools.verify

features: $(STAMP) ## what works, with the tests behind each row; WRITE=1 puts it into README.md
	@$(PY) -m tools.features $(if $(WRITE),--write)

proto: $(STAMP) ## generate the SDK's Python from proto/
	@$(PY) -m tools.proto

schema: $(STAMP) ## rewrite data/schema.sql from the migrations
	@$(PY) -m tools.schema

reference: $(STAMP) ## rewrite the derived parts of docs/reference: settings, command line, metrics
	@$(PY) -m tools.reference

lock: $(STAMP) ## rewrite requirements.lock from the pyprojects (ARGS=--upgrade for newer versions)
	@$(PY) -m tools.lock $(ARGS)

bench: $(STAMP) ## measure, against a cluster started for it
	@$(PY) -m benchmarks $(ARGS)

docker: ## build the images of the services; needs a Docker engine
	@for name in scheduler coordinator queue worker gateway; do docker build --target $$name --tag taskflow-$$name . || exit 1; done

clean: ## remove .venv and what tools left; not your data
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
