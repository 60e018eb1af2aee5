# `make` lists all targets; `.venv/bin/samebits --help` lists all other commands. Needs python3 (3.11 to 3.13), make and git.
PYTHON ?= python3
SEED ?= 56
SEEDS ?= 1..20
OVERRIDES ?=
RUNS ?=
A ?= last~1
RUN ?= last
SPLIT ?= validation
B ?= last
TESTS ?=
DEST ?=
ENGINE ?=
BASE_IMAGE ?=
VENV_PYTHON := .venv/bin/python
SAMEBITS := .venv/bin/samebits
PYTEST = $(VENV_PYTHON) -m pytest -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder
IMAGE = PYTHONPATH=src $(PYTHON) -m samebits image
BUILD = --engine='$(ENGINE)' --base='$(BASE_IMAGE)'

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev train test test-all lint verify predict explain study report image docker-train docker-test new clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done
	@echo '  everything else: $(SAMEBITS) --help'

setup: ## create .venv from requirements.lock
	@$(PYTHON) scripts/setup_env.py

setup-dev: ## create .venv with the test and lint tools too
	@$(PYTHON) scripts/setup_env.py --dev

train: setup ## train one run: make train SEED=56 [OVERRIDES="training.epochs=3"]
	@$(SAMEBITS) train 'seed.root=$(SEED)' $(OVERRIDES)

test: setup-dev ## run the fast tests: make test [TESTS="-k seeds"]
	@$(PYTEST) -m 'not full' $(TESTS)

test-all: setup-dev ## run all tests
	@$(PYTEST) $(TESTS)

lint: setup-dev ## check style, types and layers
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && PYTHONPATH=src .venv/bin/lint-imports

verify: setup ## train the same run twice under different conditions and compare: make verify [RUNS=3]
	@$(SAMEBITS) verify --runs '$(or $(RUNS),2)' 'seed.root=$(SEED)' $(OVERRIDES)

predict: setup ## write a run's predictions: make predict [RUN=last SPLIT=validation]
	@$(SAMEBITS) predict '$(RUN)' --split '$(SPLIT)'

explain: setup ## show why two runs differ: make explain [A=last~1 B=last]
	@$(SAMEBITS) explain '$(A)' '$(B)'

study: setup ## train many seeds and summarize them: make study SEEDS=1..20
	@$(SAMEBITS) study --seeds '$(SEEDS)' $(OVERRIDES)

report: setup ## write an HTML page that shows and compares runs: make report [RUNS="last last~1"]
	@$(SAMEBITS) report $(RUNS)

image: ## build the container image with docker, podman or buildah: make image [ENGINE=podman]
	@$(IMAGE) build $(BUILD)

docker-train: ## train in a container without network and with a read-only root: make docker-train SEED=56
	@$(IMAGE) train $(BUILD) 'seed.root=$(SEED)' $(OVERRIDES)

docker-test: ## run fast tests in a container: make docker-test [TESTS="tests/core -k seeds"]
	@$(IMAGE) test $(BUILD) $(if $(TESTS),--tests='$(subst ','\'',$(TESTS))')

new: setup-dev ## create your own project from this one: make new DEST=../my-study
	@$(SAMEBITS) new '$(or $(DEST),$(error DEST expected, as in make new DEST=../my-study))'

clean: setup ## list caches with their size; .venv/bin/samebits clean --yes removes them
	@$(SAMEBITS) clean
