# On a fresh machine with Python 3.11 (or newer), git and make: `make demo` or `make test`; `make help` lists the rest.
# Everything is installed into $(VENV) at the first call, in the versions of constraints.txt.

VENV ?= .venv
# Flags added to every `pip install`, for instance --index-url.
PIP_FLAGS ?=
DEMO_FLAGS ?= --seeds 0 --steps 1200 --evaluations 4 --out demo

find_python = for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done
PYTHON ?= $(shell $(find_python))
BIN := $(VENV)/bin
SCHEMA = $(BIN)/check-jsonschema --quiet --builtin-schema
INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt $(PIP_FLAGS)

# Two files of tests at once, each on one thread: threads of two processes on two cores wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint format types hooks docs bench gpu dist release publish address clean

help: ## This list.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.train ## Trains four couplings on real digits and writes a report, within a few minutes on two cores.
	$(BIN)/immiscible compare flow --data digits --couplings independent,knn:4,assignment,assignment@0.5 $(DEMO_FLAGS)

test: $(VENV)/.dev ## All tests but the slow ones.
	$(PYTEST) -m "not slow"

slow: $(VENV)/.dev ## The slow tests.
	$(PYTEST) -m slow --durations=12

lint: $(VENV)/.dev ## Checks style, formatting, and the files that hosted machines read.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/zizmor --offline --persona pedantic --no-progress --quiet .github
	$(SCHEMA) vendor.github-workflows .github/workflows/*.yml
	$(SCHEMA) custom.github-workflows-require-timeout .github/workflows/*.yml
	$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(SCHEMA) vendor.citation-file-format CITATION.cff

format: $(VENV)/.dev ## Fixes what `make lint` reports, where a machine can.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## Checks the types of the package.
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

hooks: $(VENV)/.dev ## Makes git run `make lint` before each commit, and `make types` before each push.
	$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

docs: $(VENV)/.dev ## Builds the documentation into docs/_build/html; every warning is an error.
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --builder html docs docs/_build/html

bench: $(VENV)/.dev ## Runs every benchmark, on an otherwise idle machine.
	for script in benchmarks/[a-z]*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done

# The wheel is built from the sdist, in an environment of its own that has what pyproject.toml asks for.
gpu: $(VENV)/.train ## Measures couplings and runs on an accelerator, into benchmarks/gpu.csv.
	$(BIN)/python benchmarks/gpu.py

dist: $(VENV)/.dev ## Builds the sdist and the wheel into dist/, checks both, and tries them in a fresh environment.
	rm -rf dist
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_dist.py dist -- --constraint constraints.txt $(PIP_FLAGS)

release: $(VENV)/.dev ## Dates, checks, commits and tags VERSION=x.y.z; DRY_RUN=1 only shows how.
	@$(BIN)/python tools/release.py $(if $(DRY_RUN),--dry-run) -- "$(VERSION)"

publish: address dist ## Uploads what `make dist` built and checked to the package index; for maintainers.
	$(BIN)/python -m twine upload dist/*

address: ## Checks that the project names its public address, which README needs on the index.
	@grep -q '^Repository = ' pyproject.toml || { \
		echo "make: first give Repository in [project.urls] of pyproject.toml: README's pictures need it" >&2; exit 1; }

clean: ## Removes what the other targets made, except runs and reports.
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone, in the one version of constraints.txt: what follows then finds it and fetches no other.
$(VENV)/.torch: constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "make: Python 3.11 or newer is needed, and none was found: set PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into $(VENV), once, which takes a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	@touch $@

$(VENV)/.train: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable ".[train]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable ".[train,policy,dev]"
	@touch $@
