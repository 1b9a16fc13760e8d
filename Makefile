# Build and test facereel from a fresh clone. Needs only Python 3.11 to 3.13 and make.

# Uses the first Python of a supported version; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# An environment of its own for the Milvus server of the tests.
MILVUS := .venv-milvus
OUT ?= demo
# The demonstration of the search, and its port: 0 chooses a free one.
SEARCH_OUT ?= demo-search
PORT ?= 0
PYTEST := $(BIN)/python -m pytest
# One process per processor, but at most 4: each needs gigabytes of memory.
PARALLEL := --numprocesses=auto --maxprocesses=4 --dist=worksteal
# Line coverage in percent: the measured value minus a margin.
FLOOR := 90
TABLES := $(basename $(notdir $(wildcard configs/table/[a-z]*.yaml)))

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-search reproduce test test-fast test-web test-milvus test-gpu test-examples coverage docs audit lint format clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: $(READY) ## Create the virtual environment .venv with the extras cpu, demo, heif, pretrained, web and dev.

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "facereel needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing facereel with the extras cpu, demo, heif, pretrained, web and dev into $(VENV); this takes minutes, since PyTorch is large"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,demo,heif,pretrained,web,dev]'
	@touch $@

demo: $(READY) ## Train on real faces (ORL), evaluate, and write demo/report.html: 3 to 9 minutes on 2 cores.
	$(BIN)/facereel demo --out $(OUT)

demo-search: $(READY) ## Draw films of people, index them in demo-search/, and open the search page: a minute on 2 cores.
	$(BIN)/python scripts/tools/demo_search.py --out $(SEARCH_OUT) --port $(PORT)

reproduce: $(READY) ## Make all tables at smoke scale, on ORL, in tables/; continues if stopped and repeated.
	@status=0; for table in $(TABLES); do $(BIN)/facereel reproduce table=$$table scale=smoke out=tables || status=$$?; done; exit $$status

test: $(READY) ## Run all tests except those in a browser. Tests on real faces need ../shared and are skipped without it.
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) -m "not web and not examples and not milvus"

test-fast: $(READY) ## Run the fast tests: not the slow ones, and none in a browser or on a GPU.
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) -m "not slow and not web and not gpu and not examples and not milvus"

test-web: $(READY) ## Test the search page in a real browser (needs Chromium: CHROMIUM=/path/to/chromium).
	$(PYTEST) -m web tests/web

test-milvus: $(READY) $(MILVUS)/.ready ## Test codes in Milvus on a server, which this installs into .venv-milvus (Linux on x86-64, and macOS).
	OMP_NUM_THREADS=1 $(PYTEST) -m milvus tests/unit/retrieval/backends

# The package holds the server's program.
$(MILVUS)/.ready: Makefile
	$(PYTHON) -m venv $(MILVUS)
	$(MILVUS)/bin/python -m pip install --quiet --disable-pip-version-check milvus==2.3.5
	@touch $@

test-gpu: $(READY) ## Run the tests of the GPU on one: operators, gradients, training. Each is skipped if there is none.
	$(PYTEST) -m gpu tests/integration/test_gpu.py

test-examples: $(READY) ## Execute the notebooks and scripts in examples/: up to 10 minutes on 2 cores.
	$(PYTEST) -m examples --durations=0 tests/integration/test_examples.py

coverage: $(READY) ## Run the tests of make test, and list the lines that they do not run.
	OMP_NUM_THREADS=1 $(PYTEST) $(PARALLEL) -m "not web and not examples and not milvus" --cov --cov-report=term-missing:skip-covered --cov-fail-under=$(FLOOR)

docs: $(VENV)/.docs ## Build the documentation in site/ (open site/index.html); broken links are errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

audit: $(VENV)/.audit ## Check the installed packages for known vulnerabilities; reports if the service is unavailable.
	@$(BIN)/python scripts/tools/audit.py || test $$? -eq 3

$(VENV)/.audit: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[audit]'
	@touch $@

lint: $(READY) ## Check style, format, types, imports, spelling, the Dockerfile and the workflows.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell *.md configs docker docs examples scripts src tests
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/zizmor --offline --quiet .github

format: $(READY) ## Fix style and format.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the environment and the output of tests and builds.
	rm -rf $(VENV) $(MILVUS) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
