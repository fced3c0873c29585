# Daily life. `make` alone prints the verbs. Every verb makes the virtual environment first, once.
#
#   PYTHON=/path/to/python3.12 make venv    another interpreter
#   ARGS="…" make train                     arguments of the verbs that take some

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
# Four processes, also on two cores, because many tests wait. A file stays in one process, with what it shares; files
# run in the order of tests/conftest.py.
PARALLEL ?= -n 4 --dist loadfile --no-loadscope-reorder
PYTHON ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help: ## Print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: venv
venv: $(STAMP) ## Make .venv and install everything, pinned (again when the pins change)

# The stamp is newer than the pins it was made from, so this runs again only when they change. A candidate must be able
# to make environments (ensurepip), which Debian packs apart.
$(STAMP): pyproject.toml constraints.txt client/pyproject.toml
	@if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c '' 2>/dev/null; then \
		found=; \
		for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
			if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
			then found=$$candidate; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "cytosynth needs Python 3.11, 3.12 or 3.13 with the venv module; tried: $(or $(PYTHON),python3.11 python3.12 python3.13 python3)." >&2; \
			echo "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make venv PYTHON=/path/to/python3.11" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$found"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@# Before the client had a distribution of its own, `cytosynth` was the service: its removal takes the command with it.
	@$(BIN)/python -m pip uninstall --quiet --yes cytosynth 2>/dev/null || true
	@echo "Installing the pinned packages; the first time this takes a minute or two"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ./client --editable '.[all,dev]'
	@touch $@

.PHONY: demo
demo: $(STAMP) ## Start a service, ask it for a cell of each model, read the files back: out/demo
	@rm -rf out/demo
	$(BIN)/cytosynth demo --out out/demo $(ARGS)
	$(BIN)/python -m model verify out/demo/*

.PHONY: serve
serve: $(STAMP) ## Broker, worker and web on this machine; Ctrl-C ends all three
	$(BIN)/cytosynth serve $(ARGS)

.PHONY: test
test: $(STAMP) ## The test suite without what takes minutes
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# Only files that hold such a test: each process reads all it is given.
.PHONY: test-slow
test-slow: $(STAMP) ## The tests that take minutes
	$(BIN)/python -m pytest -m slow $(PARALLEL) $(ARGS) $$(grep -rlF mark.slow tests --include='test_*.py')

.PHONY: check
check: $(STAMP) ## Lint, format, types, import contracts and the rules of the house
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest tests/test_house.py tests/test_locks.py
	@$(MAKE) --no-print-directory audit

.PHONY: audit
audit: $(STAMP) ## Ask whether anything in the images is known to be vulnerable; says why where it cannot
	@if ! $(BIN)/python -m pip_audit --version >/dev/null 2>&1; then \
		echo "audit skipped: pip-audit is not installed ($(BIN)/pip install pip-audit)"; exit 0; \
	fi; \
	for lock in locks/app.txt locks/worker.txt; do \
		said=$$(timeout 120 $(BIN)/python -m pip_audit --require-hashes --disable-pip --progress-spinner off \
			--requirement $$lock 2>&1) && code=0 || code=$$?; \
		if [ $$code -eq 0 ]; then echo "audit of $$lock: nothing is known"; \
		elif grep -q '^Found [0-9]* known vulnerabilit' <<<"$$said"; then echo "$$said"; exit 1; \
		else echo "audit of $$lock skipped: $$(tail -n 1 <<<"$$said" | cut -c1-200)"; fi; \
	done

.PHONY: format
format: $(STAMP) ## Put the code in order: imports, layout, what can be fixed by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: $(STAMP) ## Speed and exactness of the engine beside the dense path, in minutes; prints tables, writes out/bench
	$(BIN)/python -m benchmarks.engine $(ARGS)

.PHONY: bench-full
bench-full: $(STAMP) ## The same with every dense evaluation run to its end, in half an hour
	$(BIN)/python -m benchmarks.engine --full $(ARGS)

.PHONY: arms
arms: $(STAMP) ## The released method beside ours, at equal weights and training time, in about two hours: out/arms
	$(BIN)/python -m benchmarks.arms $(ARGS)

.PHONY: chaos
chaos: $(STAMP) ## Kill, freeze and flush a service that does jobs of every kind; nothing may be lost: out/chaos
	$(BIN)/python -m benchmarks.chaos --jobs 300 --faults 300 --seed 0 --out out/chaos $(ARGS)

.PHONY: soak
soak: $(STAMP) ## A service under steady work for 30 minutes; what grows? out/soak
	$(BIN)/python -m benchmarks.chaos --soak 30 --out out/soak $(ARGS)

.PHONY: load
load: $(STAMP) ## 500 clients at once on a service whose workers are busy: out/load
	$(BIN)/python -m benchmarks.load $(ARGS)

.PHONY: containers
containers: $(STAMP) ## Build both images and break a running stack of them, with docker or podman: out/containers
	$(BIN)/python -m benchmarks.containers $(ARGS)

.PHONY: train
train: $(STAMP) ## Train a model: ARGS="--help" tells how
	$(BIN)/python -m model train $(ARGS)

.PHONY: evaluate
evaluate: $(STAMP) ## Evaluate a model against its reference shapes: ARGS="--help" tells how
	$(BIN)/python -m model evaluate $(ARGS)

.PHONY: example-upload
example-upload: $(STAMP) ## Make the upload of the API examples again, after the shipped model celegans has changed
	$(BIN)/python tests/example_upload.py

.PHONY: up
up: .env ## Start the containers; workers scale with ARGS="--scale worker=4"
	docker compose up --build --detach --wait $(ARGS)

.PHONY: down
down: ## Stop the containers; their volumes stay
	docker compose down $(ARGS)

.env:
	@echo "copy .env.example to .env and set REDIS_PASSWORD there" >&2; exit 1

.PHONY: constraints
constraints: $(STAMP) ## Pin what .venv holds now, after an upgrade there
	@{ sed -n '/^#/p' constraints.txt; \
	   $(BIN)/python -m pip freeze --all --exclude-editable | sed -e 's/+[a-z0-9.]*$$//' | grep -vE '^pip=='; } > constraints.new
	@mv constraints.new constraints.txt
	@touch $(STAMP)
	@echo "Now \`make locks\`: the images install by hash"

# torch and what belongs to it stay out: each platform and each index has builds of its own under the same version.
.PHONY: locks
locks: ## Write the hashes of everything in the images to locks/, after `make constraints`; needs uv and a registry
	@for image in app worker; do \
		{ sed -n '/^#/p' locks/$$image.txt; \
		  uv pip compile --quiet pyproject.toml --extra $$image --constraint constraints.txt --universal \
			--python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-package torch \
			| awk '/^[a-z]/ { out = /^(nvidia-|cuda-|triton=)/ } !out'; } > locks/$$image.new; \
		mv locks/$$image.new locks/$$image.txt; \
	done

.PHONY: clean
clean: ## Remove what was made here: .venv, caches, out/ (var/, with its jobs, stays)
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find app worker model client tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
