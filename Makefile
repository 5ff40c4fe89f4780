# `make demo` and `make test` work as the first command in a fresh clone or an unpacked zip.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
TORCH ?= pinned
# not by abspath, which takes a space in the path of the clone for two paths
BIN := $(VENV)/bin
export PATH := $(if $(filter /%,$(VENV)),,$(CURDIR)/)$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/src:$(CURDIR)
include src/idc/core/quiet.env
export $(shell sed -n 's/^\([A-Z_]*\)=.*/\1/p' src/idc/core/quiet.env)

ifeq ($(TORCH),system)
VENV_FLAGS := --system-site-packages
CONSTRAINTS := -c constraints.txt
else
CONSTRAINTS := -c constraints.txt -c constraints-torch.txt
endif

.PHONY: help setup demo test test-all check docs hooks coverage pipeline repro plan up down doctor ui bench-ingest bench-dvc bench-leakage bench-gpu bench-train bench-batches bench-predict bench-baselines bench-context bench-bootstrap bench-coverage bench-explain experiments cross-validation benchmark-val sweep

help:  ## list every target
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.installed: pyproject.toml constraints.txt constraints-torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(CONSTRAINTS) -e '.[dev]'
	touch $@

.dvc/config.local: | $(VENV)/.installed
	@# without git (an unpacked zip) DVC must be told so; git's own word is not asked, since it
	@# refuses a clone of another user
	@if [ -e .git ]; then touch $@; \
	else $(BIN)/dvc config --local core.no_scm true; fi

setup: $(VENV)/.installed .dvc/config.local  ## make the environment, nothing else

demo: setup  ## the whole pipeline on a synthetic archive, some 3 minutes
	$(BIN)/python -m idc demo

# one worker runs a file, so that what its tests share is made once
PYTEST = $(BIN)/python -m pytest -q -n 2 --dist loadgroup --no-loadscope-reorder

test: setup  ## the tests of every part, without the slow ones, some 3 to 5 minutes
	$(PYTEST) -m "not slow"

test-all: test  ## all tests: whole pipelines, servers that are killed, make demo
	@# in a run of their own: what Prefect leaves in a process disturbs the processes forked there
	$(PYTEST) -m slow

docs: setup  ## build the documentation into site/, strict and without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open $(CURDIR)/site/index.html"

check: setup docs  ## format, lint, types, import contracts, spelling, schemas, documentation; no network
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/pre-commit validate-config
	$(BIN)/hadolint deploy/Dockerfile

hooks: setup  ## look at each commit before it is made (.pre-commit-config.yaml)
	$(BIN)/pre-commit install

coverage: setup  ## lines and branches of src that the tests reach, at least 90 %; slow tests left out
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered --cov-report=xml

pipeline: setup  ## run the Prefect flow in place
	$(BIN)/python -m idc pipeline

repro: setup  ## the same by DVC alone
	$(BIN)/python -m idc check
	$(BIN)/dvc repro

plan: setup  ## what `make repro` would run, and why
	$(BIN)/python -m idc plan

up: setup  ## start Prefect server, worker and MLflow's UI on this machine, and deploy the flows
	$(BIN)/python -m idc up

down: setup  ## end what `make up` started
	$(BIN)/python -m idc down

doctor: setup  ## say what is missing, with the command that fixes it
	$(BIN)/python -m idc doctor

experiments: setup  ## the screen of configs/screen.yaml by cross-validation: which changes improve on the base
	$(BIN)/python -m idc screen

cross-validation: setup  ## fusion against members, trees and texture dictionary: five folds of cases, by params.yaml
	$(BIN)/python -m idc cross-validate packaged96 --config configs/cross_validation.yaml

benchmark-val: setup  ## the published validation cases, by params.yaml (configs/benchmark_val.yaml)
	$(BIN)/python -m idc sweep configs/benchmark_val.yaml

sweep: setup  ## run the grid of configs/sweep.yaml, one MLflow run per point
	$(BIN)/python -m idc sweep

ui: setup  ## look at the runs in MLflow, on http://127.0.0.1:5000
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlruns/mlflow.db}"

.PHONY: fuzz sbom
sbom: setup  ## sbom.json: every installed package with its version and licence, as CycloneDX
	$(PYTHON) -m venv .idc/sbom
	.idc/sbom/bin/python -m pip install --quiet 'cyclonedx-bom>=7,<8'
	.idc/sbom/bin/cyclonedx-py environment $(BIN)/python --output-reproducible --of JSON -o sbom.json

# the zip reader in parts: libFuzzer's own tables grow by 200 bytes a run
fuzz: setup  ## inputs that nobody should write: RUNS of the readers (10 million), CASES of the files (100,000); 2 hours
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	runs=$(or $(RUNS),10000000); \
	$(BIN)/python -m tests.fuzz.coverage_guided image --runs $$((runs * 4 / 10)) && \
	for part in 1 2 3 4 5 6; do \
		$(BIN)/python -m tests.fuzz.coverage_guided zip --runs $$((runs / 10)) || exit; done && \
	$(BIN)/python -m tests.fuzz.coverage_guided archive --runs $$((runs / 200))
	IDC_FUZZ_CASES=$(or $(CASES),100000) $(BIN)/python -m pytest -q --timeout=0 tests/fuzz

bench-ingest: setup  ## ingest against reading and decoding alone, and against a plain loop
	$(BIN)/python -m benchmarks.ingest $(if $(ARCHIVE),--archive $(ARCHIVE)) $(if $(PATCHES),--patches $(PATCHES))

bench-dvc: setup  ## `dvc status` of one zip against 277,524 single files
	$(BIN)/python -m benchmarks.dvc_noop $(if $(ARCHIVE),--archive $(ARCHIVE))

bench-leakage: setup  ## by how much a split by patch inflates metrics, on ARCHIVE="one.zip two.zip"
	$(BIN)/python -m benchmarks.leakage $(ARCHIVE)

bench-gpu: setup  ## a GPU in at most 8 minutes: training, scoring and batches against their peers
	$(BIN)/python -m benchmarks.gpu $(if $(CPU),--cpu) $(if $(QUICK),--quick)

bench-train: setup  ## training speed against a plain loop, and timm's script at TIMM_TRAIN
	$(BIN)/python -m benchmarks.train $(if $(TIMM_TRAIN),--timm-train $(TIMM_TRAIN)) $(if $(SIZE_PX),--size-px $(SIZE_PX)) $(if $(PATCHES),--patches $(PATCHES)) $(if $(BATCH_SIZE),--batch-size $(BATCH_SIZE)) $(if $(BANDWIDTH),--bandwidth-tb-s $(BANDWIDTH))

bench-batches: setup  ## the input pipeline alone against what the device can train on
	$(BIN)/python -m benchmarks.batches $(if $(PIXELS),--pixels $(PIXELS)) $(if $(SIZE_PX),--size-px $(SIZE_PX))

bench-predict: setup  ## scoring patches against plain eager torch, on the device at hand
	$(BIN)/python -m benchmarks.predict $(if $(SIZE_PX),--size-px $(SIZE_PX)) $(if $(PATCHES),--patches $(PATCHES)) $(if $(BATCH_SIZE),--batch-size $(BATCH_SIZE)) $(if $(THREADS),--threads $(THREADS)) $(if $(PRECISION),--precision $(PRECISION))

bench-baselines: setup  ## trees, a patch dictionary and a plain CNN on the project's splits
	$(BIN)/python -m benchmarks.baselines $(or $(PATCHES_FOLDER),data/patches) --splits $(or $(SPLITS),data/splits.csv) $(if $(MODELS),--models $(MODELS)) $(if $(OUT),--out $(OUT))

bench-context: setup  ## ways to average scores over patches around, on SCORES=FILE of a cross-validation
	$(BIN)/python -m benchmarks.context $(or $(SCORES),docs/scores/texture32.parquet) $(if $(CASES),--cases $(CASES)) $(if $(ROUNDS),--rounds $(ROUNDS))

bench-bootstrap: setup  ## all metrics with intervals against a plain loop over scikit-learn
	$(BIN)/python -m benchmarks.bootstrap $(if $(PATCHES),--patches $(PATCHES)) $(if $(REPLICATES),--replicates $(REPLICATES))

bench-coverage: setup  ## how often the 95 % intervals hold the truth, on simulated cases
	$(BIN)/python -m benchmarks.coverage $(if $(DRAWS),--draws $(DRAWS)) $(if $(REPLICATES),--replicates $(REPLICATES))

bench-explain: setup  ## which attribution method to believe: all of them where the answer is known
	$(BIN)/python -m benchmarks.explain $(if $(METHODS),--methods $(METHODS)) $(if $(SIZE_PX),--size-px $(SIZE_PX)) $(if $(THREADS),--threads $(THREADS))

.PHONY: bench-overhead bench-promotion soak torture
bench-overhead: setup  ## what Prefect, DVC and MLflow cost over calling the ten stages
	$(BIN)/python -m benchmarks.overhead $(if $(ROUNDS),--rounds $(ROUNDS))

bench-promotion: setup  ## how often the promotion rule is right, on simulated gates
	$(BIN)/python -m benchmarks.promotion $(if $(DRAWS),--draws $(DRAWS)) $(if $(REPLICATES),--replicates $(REPLICATES))

soak: setup  ## years of scheduled retrainings, tiny, on services of its own: what grows, as a plot
	$(BIN)/python -m benchmarks.soak $(if $(NOTHING_NEW),--nothing-new $(NOTHING_NEW)) $(if $(NEW_DATA),--new-data $(NEW_DATA)) $(if $(MINUTES),--minutes $(MINUTES))

torture: setup  ## kill -9, full disk, locked or lost store, two at once: then one repro, held against an undisturbed run; TORTURE="--kill 60 --full 10"
	$(BIN)/python -m tests.torture $(or $(TORTURE),--kill 60 --full 10 --locked 10 --away 5 --two 5)
