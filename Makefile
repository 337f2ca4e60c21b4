# From a fresh clone, `make run` or `make test` needs only python3 (3.11 or newer) and make.
# In dependency order: a package comes after those it depends on.
PACKAGES := flask-aio-core flask-aio-ws flask-aio-gunicorn
TESTS ?= $(PACKAGES:%=packages/%/tests) integration-tests

# More processes than processors: most of the tests' time is spent waiting.
JOBS ?= 4

PYTHON ?= python3
# A pyenv shim such as python3.12 runs only when told which version it stands for: hence the second try.
probe := -c 'import sys; assert sys.version_info >= (3, 11); print(sys.executable, "%d.%d" % sys.version_info[:2])' 2>/dev/null
FOUND := $(shell $(PYTHON) $(probe) || PYENV_VERSION=$(PYTHON:python%=%) $(PYTHON) $(probe))

# One environment per interpreter version, so that PYTHON=python3.12 leaves the usual one alone.
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(lastword $(FOUND)))
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH := .venv-bench
EXTENSIONS := .venv-extensions

.PHONY: help venv run test test-extensions isolated autobahn lint types format build lock docs bench bench-quick
.PHONY: bench-databases clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(INSTALLED) ## Create or update the development environment
$(INSTALLED): pyproject.toml $(PACKAGES:%=packages/%/pyproject.toml)
	$(if $(FOUND),,$(error flask-aio needs Python 3.11 or newer; PYTHON=$(PYTHON) is not one))
	$(firstword $(FOUND)) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'  # the first that knows --group
	$(BIN)/pip install --quiet --group dev $(PACKAGES:%=--editable packages/%)
	@touch $@

run: $(INSTALLED) ## Start the demo on http://127.0.0.1:5000, or the port named by PORT
	$(BIN)/python examples/demo/app.py

test: $(INSTALLED) ## Run every package's tests and the integration tests (TESTS=path, ARGS='-k name')
	$(BIN)/pytest -n $(JOBS) --dist loadfile $(TESTS) $(ARGS)

test-extensions: $(EXTENSIONS)/.installed ## Run Flask's extensions on both servers, and write the table in docs/extensions.md
	$(EXTENSIONS)/bin/pytest -n $(JOBS) --dist loadfile integration-tests/extensions $(ARGS)

isolated: build ## Run each package's tests with only its wheel and its dependencies installed
	set -e; for p in $(PACKAGES); do $(BIN)/python -m venv --clear .venv-isolated; \
	  $(BIN)/pip --python .venv-isolated install --quiet --find-links dist --group test $$p; \
	  .venv-isolated/bin/pytest -n $(JOBS) --dist loadfile packages/$$p/tests $(ARGS); done

lint: $(INSTALLED) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## Check the types; in the tests, annotations are optional
	$(BIN)/mypy $(PACKAGES:%=packages/%/src)
	set -e; for t in $(TESTS); do MYPYPATH=$$t $(BIN)/mypy --explicit-package-bases \
	  --allow-untyped-defs --allow-incomplete-defs --allow-untyped-calls --allow-untyped-decorators $$t; done

format: $(INSTALLED) ## Format the code and apply the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(INSTALLED) ## Build the sdist and wheel of every package into dist/
	set -e; for p in $(PACKAGES); do $(BIN)/python -m build --no-isolation --outdir dist packages/$$p; done

lock: $(INSTALLED) ## Bring poetry.lock up to date and check the metadata with Poetry
	$(BIN)/python -m venv .venv-poetry
	$(BIN)/pip --python .venv-poetry install --quiet 'poetry>=2.2'
	.venv-poetry/bin/poetry lock
	set -e; for d in . $(PACKAGES:%=packages/%); do .venv-poetry/bin/poetry check --strict --directory $$d; done

autobahn: $(INSTALLED) ## Run the Autobahn conformance suite (CASES='7.*' for a part; needs python2.7)
	$(BIN)/python conformance/run.py $(CASES)

docs: $(INSTALLED) ## Build the documentation into docs/_build
	$(BIN)/sphinx-build -W --keep-going docs docs/_build

bench: $(BENCH)/.installed ## Measure everything, in about an hour, and write benchmarks/RESULTS.md
	$(BENCH)/bin/python -m benchmarks $(ARGS)

bench-quick: $(BENCH)/.installed ## Measure what the goals need, in less than three minutes
	$(BENCH)/bin/python -m benchmarks --quick

bench-databases: $(BENCH)/.installed ## Measure SQLAlchemy on PostgreSQL, and write benchmarks/DATABASES.md
	$(BENCH)/bin/python -m benchmarks.databases $(ARGS)

# The peers' dependencies must not change what the tests see.
$(BENCH)/.installed: $(INSTALLED)
	$(BIN)/python -m venv $(BENCH)
	$(BIN)/pip --python $(BENCH) install --quiet --group bench $(PACKAGES:%=--editable packages/%)
	@touch $@

# Nor must the extensions' dependencies. Their current releases are what is tested.
$(EXTENSIONS)/.installed: $(INSTALLED)
	$(BIN)/python -m venv $(EXTENSIONS)
	$(BIN)/pip --python $(EXTENSIONS) install --quiet --upgrade --group extensions \
	  $(PACKAGES:%=--editable packages/%)
	@touch $@

clean: ## Remove the environments and everything built or cached
	rm -rf .venv .venv-* dist docs/_build .*_cache .coverage* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
