# `make demo` and `make test` need Python 3.11 or newer and a C compiler; they install the rest.
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -ec
BIN := .venv/bin
STAMP := .venv/.installed
# The banks' environment: Flower's pins conflict with ours.
FEDERATED := .venv-federated
FEDERATED_STAMP := $(FEDERATED)/.installed
# Where torch's CPU build comes from; empty, or out of reach: PyPI's, with gigabytes of CUDA on Linux.
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
REACHABLE_TORCH_INDEX = $$([ -z "$(TORCH_INDEX_URL)" ] || ! curl -fsIo /dev/null --max-time 5 \
    "$(TORCH_INDEX_URL)/torch/" || echo "$(TORCH_INDEX_URL)")
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-e2e test-cluster test-questions test-compose test-security test-federated federated \
    federated-setup spark-setup test-spark check bench architecture kubernetes picture page-setup lock down wipe

help:  ## Show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@[ -t 1 ] && terminal=1 || terminal=0; \
	sh infra/install_locked.sh $(BIN)/pip requirements.lock "$(REACHABLE_TORCH_INDEX)" 2>&1 \
	    | awk -v terminal=$$terminal -v of=$$(grep -c '^[A-Za-z0-9].*==' requirements.lock) \
	        -f infra/local/pip-progress.awk
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

$(FEDERATED_STAMP): requirements-federated.lock
	test -x $(FEDERATED)/bin/python || $(PYTHON) -m venv $(FEDERATED)
	sh infra/install_locked.sh $(FEDERATED)/bin/pip requirements-federated.lock \
	    "$(REACHABLE_TORCH_INDEX)" > /dev/null
	@touch $(FEDERATED_STAMP)

federated-setup: $(FEDERATED_STAMP)  ## Create .venv-federated with Flower, for the banks

federated: setup federated-setup  ## Train one model over four banks that share no row; minutes
	$(BIN)/whiteboard federate fraud

# PySpark is 490 MB, and needs Java 17: neither is part of `make setup`.
spark-setup: setup  ## Install PySpark, and Java 17 where there is none, for `backfill --engine spark`
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-spark.lock
	infra/tools.sh java

test-spark: spark-setup  ## The backfill on Spark: against the embedded one, killed, on a standalone master
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "e2e or not e2e" tests/unit/fraud/test_spark.py \
	    tests/integration/features/test_spark.py

test-federated: setup federated-setup  ## The banks' code, in the banks' environment
	$(FEDERATED)/bin/python -m pytest -q -p no:cacheprovider -o addopts= -o filterwarnings=ignore \
	    --confcutdir tests/federated tests/federated

setup: $(STAMP)  ## Create .venv and install the pinned requirements

demo: setup  ## Run fraud detection and visual inspection end to end and print a run report for each
	$(BIN)/whiteboard demo

test: check  ## Lint, types, import contracts, tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not e2e and not slow" -n 2 --dist loadfile

test-slow: setup  ## Workers and engines that are killed, models that are trained; minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "slow and not e2e" -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@promtool=$$(command -v $(BIN)/promtool promtool | head -n 1 || true); \
	if [ -n "$$promtool" ]; then $$promtool check rules infra/prometheus/alerts.yml; \
	else echo "no promtool here, alert rules are not checked: infra/tools.sh brings it"; fi

test-e2e: setup federated-setup  ## The whole stack, killed and mended; minutes
	$(BIN)/pytest -m e2e tests/e2e/test_beside_the_scorer.py tests/e2e/test_demo.py tests/e2e/test_deploy.py \
	    tests/e2e/test_drill.py tests/e2e/test_evaluate.py \
	    tests/e2e/test_federated.py tests/e2e/test_mutated_files.py tests/e2e/test_page.py \
	    tests/e2e/test_schemathesis.py tests/unit/cv_inspection/test_vision_candidates.py

test-questions: setup  ## Every command of docs/questions.md on a stack; half an hour
	$(BIN)/pytest -m e2e tests/e2e/test_questions.py

test-cluster: setup  ## Clusters of the engines on loopback, nodes killed under traffic; minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m e2e tests/e2e/test_cluster.py

# Tests of the page, and its picture, need Playwright, Debian's chromium, and axe-core from npm.
page-setup: setup  ## Install Playwright and axe-core, for the page's tests
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements-page.lock
	npm install --silent --no-audit --no-fund --prefix .venv axe-core@4.14.1

test-compose: setup  ## Docker Compose: build, up, kill each container, down, up; minutes
	$(BIN)/pytest -m e2e tests/e2e/test_compose.py tests/e2e/test_compose_federated.py

test-security: setup  ## Attacks that must fail, from a fresh `up`; minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "e2e or not e2e" tests/security

bench: setup  ## Micro-benchmarks: kernel, simulator, reader
	$(BIN)/pytest benchmarks --benchmark-only

architecture: setup  ## Write docs/architecture.md and the diagrams from the code
	$(BIN)/python -m docs.draw_architecture
	$(BIN)/python -m docs.draw_diagram

kubernetes: setup  ## Write the manifests in infra/kubernetes from the designs
	$(BIN)/python -m infra.kubernetes.generate

picture: page-setup  ## Record a minute of the running stack: docs/recording.html and images/page.png
	$(BIN)/python -m docs.draw_page

# torch's CUDA libraries stay out of the lock: its CPU build has none, and pip finds them for others.
lock: setup  ## Add what pyproject.toml asks for to the locks, with hashes; pins that are there stay
	$(BIN)/pip install --quiet uv
	@for name in "requirements pyproject.toml --extra=dev" "requirements-federated requirements-federated.in" \
	        "requirements-serve requirements-serve.in --constraint=requirements.lock" \
	        "requirements-spark requirements-spark.in --constraint=requirements.lock" \
	        "requirements-page requirements-page.in --constraint=requirements.lock"; do \
	    set -- $$name; lock=$$1.lock; shift; cp $$lock $$lock.new; \
	    $(BIN)/uv pip compile --quiet "$$@" --universal --python-version 3.11 --no-emit-index-url \
	        --no-annotate --no-header --generate-hashes --output-file $$lock.new; \
	    awk '/^[A-Za-z0-9]/ { is_cuda = /^(nvidia-|cuda-|triton)/ } !is_cuda' $$lock.new > $$lock; \
	    rm $$lock.new; \
	done

down: setup  ## Stop the stack
	$(BIN)/whiteboard down

wipe: down  ## Stop the stack and delete its data
	rm -rf .whiteboard
