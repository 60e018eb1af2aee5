# `make` alone lists what there is. Needs python3 (3.11 to 3.13), make and git.
PYTHON ?= python3
SEED ?= 56
OVERRIDES ?=
RUN ?= last
TESTS ?=
VENV_PYTHON := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup train seeds comet test lint format lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: ## build .venv from requirements.lock, once
	@$(PYTHON) scripts/setup_env.py

train: setup ## train one run: make train SEED=56 [OVERRIDES="training.epochs=3"]
	@$(VENV_PYTHON) scripts/train.py 'seed.root=$(SEED)' $(OVERRIDES)

seeds: setup ## print every seed point: make seeds SEED=56
	@$(VENV_PYTHON) scripts/seeds.py 'seed.root=$(SEED)' $(OVERRIDES)

comet: setup ## tell Comet a run again from its folder: make comet RUN=last
	@$(VENV_PYTHON) scripts/comet.py '$(RUN)' </dev/null

test: setup ## set up and run the tests: make test [TESTS="-k seeds"]
	@$(VENV_PYTHON) -m pytest $(TESTS)

lint: setup ## check style, types and layers
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && PYTHONPATH=src .venv/bin/lint-imports

format: setup ## rewrite the code in the project's style
	@.venv/bin/ruff check --fix-only . && .venv/bin/ruff format .

lock: setup ## write requirements.lock anew from pyproject.toml, with hashes and no index address
	@$(VENV_PYTHON) scripts/lock.py

clean: setup ## say what the caches take; remove them with CONFIRM=yes (runs are never touched)
	@$(VENV_PYTHON) scripts/clean.py $(if $(CONFIRM),--yes)
