# `make` alone lists what there is. Needs python3 (3.11 to 3.13), make and git.
PYTHON ?= python3
SEED ?= 56
OVERRIDES ?=
RUN ?= last
RUNS ?= 2
A ?= last~1
B ?= last
EXPERIMENTS ?=
CPUS ?=
KEEP ?=
FULL ?=
KILLS ?= 20
KILL_SEED ?=
REAL ?=
ONLY ?=
OUT ?= report.html
REPEATS ?= 3
PICTURE ?=
SEEDS ?=
VS ?=
BAGS ?= 10
LAUNCHER ?=
JOBS ?=
TESTS ?=
DEST ?=
NAME ?=
ENGINE ?=
IMAGE ?= samebits
BASE_IMAGE ?=
VARIANT ?= cpu
MOUNTS ?= .
USER_ID ?=
NETWORK ?= none
DO ?= make help
XDIST := -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder
VENV_PYTHON := .venv/bin/python
CONTAINER = $(PYTHON) scripts/container.py --engine='$(ENGINE)' --tag='$(IMAGE)' --base='$(BASE_IMAGE)' --variant='$(VARIANT)'
INSIDE = $(CONTAINER) --mounts='$(MOUNTS)' --user='$(USER_ID)' --network='$(NETWORK)'

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev train resume seeds comet verify explain report watch rounds golden golden-update audit doctor new torture prune portability zoo bench bench-growth bench-many roofline study variance bagging test test-all lint format lock image image-verify docker-train docker-test docker-run clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

setup: ## build .venv from requirements.lock, once
	@$(PYTHON) scripts/setup_env.py

setup-dev: ## the same, and add the test and lint tools of requirements-dev.lock
	@$(PYTHON) scripts/setup_env.py --dev

train: setup ## train one run: make train SEED=56 [OVERRIDES="training.epochs=3"]; every fold: OVERRIDES=training=kfold
	@$(VENV_PYTHON) scripts/train.py 'seed.root=$(SEED)' $(if $(CONFIRM),confirm=true) $(OVERRIDES)

resume: setup ## go on with a run that was stopped, with its own configuration: make resume RUN=last
	@$(VENV_PYTHON) scripts/resume.py '$(RUN)'

seeds: setup ## print every seed point: make seeds SEED=56
	@$(VENV_PYTHON) scripts/seeds.py 'seed.root=$(SEED)' $(OVERRIDES)

comet: setup ## tell Comet a run again from its folder: make comet RUN=last
	@$(VENV_PYTHON) scripts/comet.py '$(RUN)' </dev/null

verify: setup ## train the same inputs RUNS times under hostile conditions and compare; QUICK=1: 300 steps
	@$(VENV_PYTHON) scripts/verify.py $(RUNS) 'seed.root=$(SEED)' $(if $(QUICK),training.epochs=1 training.steps_per_epoch=300) $(OVERRIDES)

explain: setup ## say why two runs differ: make explain A=last~1 B=last
	@$(VENV_PYTHON) scripts/explain.py '$(A)' '$(B)'

report: setup ## write runs as one HTML page: make report [RUNS="last last~1"] [OUT=report.html]
	@$(VENV_PYTHON) scripts/report.py '--out=$(OUT)' $(if $(filter command line environment,$(origin RUNS)),$(RUNS))

watch: setup ## show the trainings that run now, live
	@$(VENV_PYTHON) scripts/watch.py

rounds: setup ## reproduce the article's rounds, from nothing seeded to everything pinned (8 runs)
	@$(VENV_PYTHON) scripts/rounds.py 'seed.root=$(SEED)' $(OVERRIDES)

torture: setup ## kill trainings at random moments, go on with them, and compare: make torture KILLS=20 [KILL_SEED=7]
	@$(VENV_PYTHON) scripts/torture.py --kills=$(KILLS) --kill-seed=$(KILL_SEED) 'seed.root=$(SEED)' $(if $(REAL),,experiment=smoke training.epochs=4) $(OVERRIDES)

golden: setup ## recompute the golden digests and compare: make golden [EXPERIMENTS=smoke]
	@$(VENV_PYTHON) scripts/golden.py $(EXPERIMENTS)

golden-update: setup ## write the golden digests anew, and show what changed
	@$(VENV_PYTHON) scripts/golden.py --update $(EXPERIMENTS)

audit: setup ## change every seed point alone and show what moves
	@$(VENV_PYTHON) scripts/audit.py $(OVERRIDES)

portability: setup ## train 20 steps on this CPU and on emulated ones and compare; FULL=1: whole runs; CPUS=Haswell,EPYC
	@$(VENV_PYTHON) scripts/portability.py $(if $(FULL),--full) --cpus='$(CPUS)' 'seed.root=$(SEED)' tracker=none $(OVERRIDES)

study: setup ## train many seeds and summarize: make study SEEDS=1..20 [VS="model.dropout_rate=0.5"] [LAUNCHER=joblib] [JOBS=2]
	@$(VENV_PYTHON) scripts/study.py --seeds='$(or $(SEEDS),1..20)' --versus='$(VS)' --launcher='$(LAUNCHER)' --jobs='$(JOBS)' $(OVERRIDES)

variance: setup ## say how much of the spread each source of randomness carries: make variance SEEDS=1..10
	@$(VENV_PYTHON) scripts/variance.py --seeds='$(or $(SEEDS),1..10)' --launcher='$(LAUNCHER)' --jobs='$(JOBS)' 'seed.root=$(SEED)' $(OVERRIDES)

bagging: setup ## train on BAGS bootstrap samples and average the models: make bagging BAGS=10 [LAUNCHER=joblib] [JOBS=2]
	@$(VENV_PYTHON) scripts/bagging.py --bags='$(BAGS)' --launcher='$(LAUNCHER)' --jobs='$(JOBS)' 'seed.root=$(SEED)' $(OVERRIDES)

zoo: setup ## measure which pieces of Keras are portable and write docs/zoo.md (half an hour); ONLY=name, CPUS=…: not written
	@PYTHONPATH=src:tools $(VENV_PYTHON) -m zoo $(if $(ONLY),--only='$(ONLY)') $(if $(ONLY)$(CPUS),,--write) $(CPUS)

bench: setup ## reproducible training against plain Keras, as ratios (half an hour): make bench [REPEATS=3] [PICTURE=…]
	@PYTHONPATH=src:tools $(VENV_PYTHON) -m benchmarks.speed --repeats=$(REPEATS) $(if $(PICTURE),--out='$(PICTURE)')

bench-growth: setup ## how time and memory grow with reviews, sequence length and vocabulary (ten minutes): make bench-growth [PICTURE=…]
	@PYTHONPATH=src:tools $(VENV_PYTHON) -m benchmarks.growth $(if $(PICTURE),--out='$(PICTURE)')

roofline: setup ## what bounds a step: operations and bytes counted, against this machine's rates: make roofline [PICTURE=…]
	@PYTHONPATH=src:tools $(VENV_PYTHON) -m benchmarks.roofline $(if $(PICTURE),--out='$(PICTURE)') $(OVERRIDES)

bench-many: setup ## what 10,000 finished runs cost the summary of a study and the report: make bench-many [PICTURE=…]
	@PYTHONPATH=src:tools $(VENV_PYTHON) -m benchmarks.many_runs $(if $(PICTURE),--out='$(PICTURE)')

test: setup-dev ## set up and run the tests, but for those that take long: make test [TESTS="-k seeds"]
	@$(VENV_PYTHON) -m pytest $(XDIST) -m 'not full' $(TESTS)

test-all: setup-dev ## run every test: faults, emulators, Slurm, containers, browser, the README's commands
	@$(VENV_PYTHON) -m pytest $(XDIST) $(TESTS)

lint: setup-dev ## check style, types and layers
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && PYTHONPATH=src .venv/bin/lint-imports

format: setup-dev ## rewrite the code in the project's style
	@.venv/bin/ruff check --fix-only . && .venv/bin/ruff format .

lock: setup-dev ## write both locks anew from pyproject.toml, with hashes and no index address
	@$(VENV_PYTHON) tools/lock.py

doctor: setup ## list what weakens the promise in this copy: moving tags, loose versions, randomness, goldens
	@$(VENV_PYTHON) scripts/doctor.py

new: setup-dev ## make a project of your own from this one: make new DEST=../my-study [NAME=my-study]
	@$(VENV_PYTHON) -m copier copy --vcs-ref="$$(git rev-parse HEAD 2>/dev/null)" $(if $(NAME),--defaults --data='name=$(NAME)') '$(CURDIR)' '$(or $(DEST),$(error DEST expected, as in make new DEST=../my-study))'

image: ## build the container image, by docker, podman or buildah: make image [ENGINE=podman] [VARIANT=gpu]
	@$(CONTAINER) build

image-verify: ## build the image twice, without cache, and compare every file
	@$(CONTAINER) verify

docker-train: ## train in the container, without network and on a read-only root: make docker-train SEED=56
	@$(INSIDE) run .venv/bin/python scripts/train.py 'seed.root=$(SEED)' $(if $(CONFIRM),confirm=true) $(OVERRIDES)

docker-test: ## run the tests in the container: make docker-test [TESTS="-k seeds"]
	@$(INSIDE) --target=test run make test 'TESTS=-p no:cacheprovider $(subst ','\'',$(TESTS))'

docker-run: ## run any command in the container: make docker-run DO="make golden EXPERIMENTS=smoke"
	@$(INSIDE) run $(DO)

prune: setup ## say what stopped, doubled and left-over runs take: make prune KEEP=1; remove it with CONFIRM=yes
	@$(VENV_PYTHON) scripts/prune.py $(if $(KEEP),--keep='$(KEEP)') $(if $(CONFIRM),--yes)

clean: setup ## say what the caches take; remove them with CONFIRM=yes (runs are never touched)
	@$(VENV_PYTHON) scripts/clean.py $(if $(CONFIRM),--yes)
