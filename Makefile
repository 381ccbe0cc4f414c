# TaskFlow. Needs Python 3.11 or newer, make and pip; everything else goes into .venv.
.DEFAULT_GOAL := help
.PHONY: help venv demo up test check lint type verify features proto schema reference lock bench docker clean
SHELL := /bin/sh
BIN := .venv/bin
PY := $(BIN)/python
TEST_PROCESSES ?= 3
STAMP := .venv/.taskflow-stamp

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## set up .venv (every other target does it when needed)

$(STAMP): requirements.lock pyproject.toml sdk/pyproject.toml tools/venv.py
	@PYTHON="$(PYTHON)" sh tools/venv.sh

demo: $(STAMP) ## start a whole cluster, run the example shop on it, show what happened, stop
	@$(PY) -m services.cluster.demo $(ARGS)

up: $(STAMP) ## start a whole cluster and stay, until Ctrl-C; the data stay in .taskflow
	@$(BIN)/taskflow up $(ARGS)

test: $(STAMP) ## run every test (ARGS="tests/store -k partition" for some)
	@$(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile $(if $(ARGS),$(ARGS),tests)

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

docker: ## build the images of the four services; needs a Docker engine
	@for name in scheduler coordinator queue worker; do docker build --target $$name --tag taskflow-$$name . || exit 1; done

clean: ## remove .venv and what tools left; not your data
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
