# Everything a developer or a CI machine runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# Extra words for pip, e.g. PIP_ARGS="--extra-index-url ..." for another build of torch.
PIP_ARGS ?=

# The first interpreter that has pinned wheels (3.11 to 3.13) and can make virtual environments.
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13; do \
	"$$python" -c "$(SUITABLE)" 2>/dev/null && echo "$$python" && break; done)

# An environment that was installed for another folder (a moved or copied clone) is installed again.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help venv demo compare real replicate bench bench-packages gpu conf test attack fuzz test-fast lint types format check clean house families mutants

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1: \2/p' Makefile

venv: $(STAMP) ## create .venv with everything tested together (again only when the pins change)

# Safe to interrupt at any point: an environment without a working pip, or made for another folder, is made
# anew; a package whose installation was cut off has no RECORD, is forgotten and installed again; others stay.
$(STAMP): setup.py constraints.txt $(wildcard nemo_pi/kernels/csrc/*)
	@if [ -z "$(PYTHON)" ]; then \
		echo "No Python 3.11, 3.12 or 3.13 with venv found; give one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; fi
	@if ! grep -qsF " $(CURDIR)/$(VENV)" $(VENV)/pyvenv.cfg || ! $(PY) -m pip --version >/dev/null 2>&1; then \
		rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV); fi
	@for info in $(VENV)/lib/python3*/site-packages/*.dist-info; do \
		if [ -d "$$info" ] && [ ! -f "$$info/RECORD" ]; then rm -rf "$$info"; fi; done
	@rm -rf $(STAMP) $(VENV)/lib/python3*/site-packages/~*
	$(PY) -m pip install --disable-pip-version-check --no-input -q $(PIP_ARGS) \
		-c constraints.txt "$(TORCH)" -e ".[dev,eval]"
	@echo "$(CURDIR)" > $(STAMP)

demo: $(STAMP) ## extend the bundled model from 512 to 4,096 tokens and show the proof (about 10 minutes)
	$(PY) examples/demo.py

compare: $(STAMP) ## the demo beside direct fine-tuning, NTK-aware and YaRN (about 30 minutes)
	$(PY) examples/demo.py --compare

# TIMES=4 trains and measures four times as much.
TIMES ?= 1

real: $(STAMP) ## SmolLM2-135M from 8,192 to 32,768 tokens by PI and YaRN (3 hours; in stages that go on)
	$(PY) examples/real.py --times $(TIMES) --results results/real$(if $(filter-out 1,$(TIMES)),-$(TIMES)-times)

# STEPS=800 trains each method four times as long.
STEPS ?= 200

replicate: $(STAMP) ## the papers' headline results in small, row by row; writes docs/replicate.md (about an hour)
	$(PY) examples/replicate.py --steps $(STEPS) --results results/replicate-$(STEPS) --page docs/replicate.md

# Peers that nemo_pi does not need; litgpt's lightning must not replace the environment's.
bench-packages: $(STAMP) ## install what the benchmarks compare with
	$(PY) -m pip install --disable-pip-version-check --no-input -q $(PIP_ARGS) -c constraints.txt -e ".[bench]"
	$(PY) -m pip install --disable-pip-version-check --no-input -q $(PIP_ARGS) --no-deps --upgrade \
		--target .bench/litgpt -r benchmarks/litgpt-packages.txt

bench: $(STAMP) ## rotary kernels, loss, memory, growth, training steps, context parallelism and a profile beside other libraries (about 45 minutes)
	$(PY) -m benchmarks

# One worker takes tests/integration (they start ranks of their own), the other the unit tests.
test: $(STAMP) ## all tests that this machine can run; skipped ones are printed with their reason
	$(PY) -m pytest tests -n 2 --dist loadscope --no-loadscope-reorder

attack: $(STAMP) ## kill, fill, flip, hang and start runs twice; figures into docs/reliability.md (about 4 minutes on two idle cores)
	rm -f .attack.jsonl
	NEMO_PI_ATTACK=1 NEMO_PI_ATTACK_RECORD="$(CURDIR)/.attack.jsonl" $(PY) -m pytest tests/reliability
	$(PY) -m tests.reliability.figures .attack.jsonl docs/reliability.md
	rm -f .attack.jsonl

MINUTES ?= 60

fuzz: $(STAMP) ## files and words made at random, for MINUTES (60); writes docs/fuzzing.md
	nice -n 19 $(PY) -m tests.reliability.fuzz --minutes $(MINUTES)

test-fast: $(STAMP) ## unit tests only, without the slow ones
	$(PY) -m pytest tests/unit -n 2 --dist loadscope --no-loadscope-reorder -m "not slow"

lint: $(STAMP) ## ruff, and shellcheck and hadolint where they are installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@if command -v shellcheck >/dev/null; then shellcheck .ci/run examples/slurm/*.sbatch; \
		else echo "shellcheck is not installed: shell scripts not checked"; fi
	@if [ -x $(VENV)/bin/hadolint ]; then $(VENV)/bin/hadolint Dockerfile; \
		else echo "hadolint is not installed: Dockerfile not checked"; fi

types: $(STAMP) ## mypy
	$(PY) -m mypy

gpu: $(STAMP) ## a GPU's first minutes: what runs, parity with the CPU, speed, memory (about 8 minutes on an H100)
	$(PY) -m benchmarks.gpu

conf: $(STAMP) ## write conf/model/base.yaml from the schema
	$(PY) -m tools.base_yaml

families: $(STAMP) ## run every family's checks and training layouts; write the table of docs/families.md (about 4 minutes on two idle cores)
	$(PY) -m tools.families_table --write

house: $(STAMP) ## measure files, functions, imports and recipes; write them into docs/design.md
	$(PY) tools/house.py --write

# cosmic-ray's operators alone: what else it needs is for running mutants its own way.
mutants: $(STAMP) ## plant 100 random faults and see whether the unit tests notice (about an hour)
	$(PY) -m pip install --disable-pip-version-check --no-input -q $(PIP_ARGS) --no-deps --upgrade \
		--target .bench/mutants cosmic-ray==8.7.0 parso==0.8.7
	PYTHONPATH=.bench/mutants nice -n 10 $(PY) -W ignore -m tools.mutants

format: $(STAMP) ## rewrite the sources in the house format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

check: lint types test ## everything that CI runs

clean: ## remove the environment, caches and build leftovers; results/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
