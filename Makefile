# `make` alone lists the targets. A target that has nothing to do costs nothing.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
# The interpreter that .venv is made with: make install PYTHON=/opt/python3.13/bin/python3
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)) python3)
# Further arguments for pytest: make test ARGS='-k ledger'; the last one counts, so -n0 takes one process.
ARGS ?=
# Bytecode is kept, whatever the environment says: to compile what tests import anew takes seconds
# for each process. `make clean` removes it.
export PYTHONDONTWRITEBYTECODE :=

# constraints.txt pins every version that was tested together; `make lock` renews it.
# uv reads no pip.conf: where it finds no index, pip does the work.
PACKAGES = $(UV) pip install --quiet --python $(PY) --constraints constraints.txt $(1) \
	|| { $(PY) -m pip install --quiet --upgrade 'pip>=25.1' \
	&& $(PY) -m pip install --quiet --constraint constraints.txt $(1); }

.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/.installed ## Make .venv with the program in it (Python >= 3.11; PYTHON=… names one).

.PHONY: run
run: $(VENV)/.installed ## Run the main job on its embedded defaults: 40 messages, written in batches; no server.
	@$(PY) -m producers.tasks --count 40
	@$(PY) -m aggregator.consume --until-empty --size 20 --log-format console

.PHONY: run-push
run-push: $(VENV)/.installed ## Run a push campaign on this machine: 100,000 made-up users, simulated gateways (needs tarantool).
	@$(PY) -m producers.campaigns demo $(ARGS)

# Two processes, each with servers of its own (about 1 GB): tests with servers mostly wait.
.PHONY: test
test: $(VENV)/.tested ## Run all tests, with real servers; on Debian as root these are installed first (NO_INSTALL=1: not).
ifndef NO_INSTALL
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then $(MAKE) --no-print-directory servers; fi
endif
	$(PY) -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(ARGS)

# Each further process costs some 3 s of imports, so two to four of them; ARGS=-n0 takes none.
.PHONY: unit
unit: $(VENV)/.tested ## Run the tests that need no server, on up to four cores.
	$(PY) -m pytest -q -m 'not integration' --hypothesis-profile=quick --ignore=tests/integration \
		--numprocesses=auto --maxprocesses=4 --dist=worksteal $(ARGS)

.PHONY: lint
lint: $(VENV)/.linted ## Check style, format and types.
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy -p tests.servers -p docs.pictures
	$(VENV)/bin/mypy tests/typing
	$(VENV)/bin/basedpyright
	@told=$$($(VENV)/bin/towncrier build --draft --version next 2>&1) || { echo "$$told"; exit 1; } >&2

# pyenv's interpreters are on no PATH but for the chosen one
VERSIONS ?= 3.11 3.12 3.13 3.14
FIND = PATH="$$(printf '%s:' $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(1)*/bin)$$PATH" \
	$(UV) python find --system --no-project --no-python-downloads $(1) 2>/dev/null

.PHONY: versions
versions: $(VENV)/.made ## Run the unit tests on each supported Python of this machine, each in its own environment.
	@for version in $(VERSIONS); do \
		if python=$$($(call FIND,$$version)); then \
			$(MAKE) --no-print-directory unit VENV=$(VENV)/$$version PYTHON=$$python || failed+=" $$version"; \
		else missing+=" $$version"; fi; \
	done; \
	[ -z "$${missing:-}" ] || echo "not on this machine, so not tried:$$missing"; \
	[ -z "$${failed:-}" ] || { echo "failed on:$$failed"; exit 1; } >&2

.PHONY: dist
dist: $(VENV)/.tested ## Build the wheel and the sdist into dist/.
	rm -rf dist
	$(PY) -m hatchling build -d dist

.PHONY: faults
faults: $(VENV)/.tested ## Break everything that can break, 20 kills a point, and write docs/reliability.md (under an hour).
	$(PY) -m tests.faults --kills 20 --write docs/reliability.md $(ARGS)

.PHONY: faults-full
faults-full: $(VENV)/.tested ## The same with 100 kills a point, every broker, type of queue and input (hours).
	$(PY) -m tests.faults --kills 100 --full --write docs/reliability.md $(ARGS)

# How long `make soak` breaks things: make soak MINUTES=60 ARGS='--seed 7'
MINUTES ?= 10

.PHONY: soak
soak: $(VENV)/.tested ## Faults drawn at random for MINUTES=10; the seed that it prints draws the same again.
	$(PY) -m tests.faults --soak $(MINUTES) $(ARGS)

.PHONY: bench
bench: $(VENV)/.benched ## Measure beside every peer and write docs/benchmarks.md (about an hour; Go and Maven build the peers).
	$(PY) -m benchmarks.compare $(ARGS)
	$(PY) -m benchmarks.compare --target elasticsearch $(ARGS)
	$(PY) -m benchmarks.report benchmarks/build/null.json benchmarks/build/elasticsearch.json --write docs

.PHONY: bench-quick
bench-quick: $(VENV)/.tested ## Measure ours, Go and plain kombu in two minutes (benchmarks/build/quick.json).
	$(PY) -m benchmarks.compare --quick $(ARGS)

# pip-audit and Atheris are no part of what is locked: each run takes the newest.
.PHONY: audit
audit: $(VENV)/.tested ## Look up known vulnerabilities of all pinned packages; says so where the advisories are out of reach.
	@$(call PACKAGES,--group audit)
	@$(PY) -m tests.audit

# Atheris has wheels for Linux and few versions of Python; CI has Hypothesis for the same targets.
SECONDS ?= 60
.PHONY: fuzz
fuzz: $(VENV)/.tested ## Feed wire, messages and answers with mutated bytes, SECONDS=60 for each target (Atheris).
	@$(call PACKAGES,--group fuzz)
	$(PY) -m tests.fuzz $(SECONDS)

# Material says what comes after MkDocs 1 at each build; the group `docs` stays below 2.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs

.PHONY: docs
docs: $(VENV)/.documented ## Build the documentation into site/, strictly: a broken link or a page left out fails.
	@$(MKDOCS) build --quiet
	@echo "site/index.html"

.PHONY: docs-serve
docs-serve: $(VENV)/.documented ## Show the documentation at http://127.0.0.1:8000 while it is written.
	$(MKDOCS) serve

.PHONY: pictures
pictures: $(VENV)/.made ## Draw docs/pictures anew, after a timeline of docs/completion.md or a drawing was changed.
	$(PY) -m docs.pictures

.PHONY: servers
servers: ## Install the servers that the tests use: says what, and leaves alone what is there.
	@tests/servers/install.sh

.PHONY: lock
lock: $(VENV)/.made ## Renew constraints.txt: the newest versions that fit pyproject.toml, for every supported Python.
	$(UV) pip compile --quiet --universal --upgrade --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --all-extras --group test --group lint --group bootstrap --group bench --group docs pyproject.toml \
		--output-file constraints.txt

.PHONY: clean
clean: ## Remove .venv and everything else that was made here.
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist tests/servers/{elasticsearch,opensearch}/target \
		tests/faults/build benchmarks/build benchmarks/peers/*/target
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not there)."; \
		echo "Install one, or name it: make install PYTHON=/path/to/python3"; exit 2; } >&2
	@echo "$(VENV): $$($(PYTHON) -V) and the packages of constraints.txt"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) makes no environments: on Debian, apt-get install python3-venv"; exit 2; } >&2
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv || \
		echo "no uv to be had: pip installs the packages, more slowly"
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@$(call PACKAGES,--editable '.[all]')
	@touch $@

$(VENV)/.tested: $(VENV)/.installed
	@$(call PACKAGES,--group test)
	@touch $@

$(VENV)/.documented: $(VENV)/.installed
	@$(call PACKAGES,--group docs)
	@touch $@

$(VENV)/.benched: $(VENV)/.tested
	@$(call PACKAGES,--group bench)
	@touch $@

$(VENV)/.linted: $(VENV)/.tested
	@$(call PACKAGES,--group lint)
	@touch $@
