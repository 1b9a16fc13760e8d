# facereel from a fresh clone: needs Python 3.11 to 3.13 and make, nothing else.

# Takes the first Python that fits; PYTHON=/path/to/python chooses another.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= demo
TABLES := $(basename $(notdir $(wildcard configs/table/[a-z]*.yaml)))

.DEFAULT_GOAL := help
.PHONY: help setup demo reproduce test test-web docs audit lint format clean

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(READY) ## Make the virtual environment .venv with the extras cpu, demo, heif, pretrained, web and dev.

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "facereel needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing facereel with the extras cpu, demo, heif, pretrained, web and dev into $(VENV); PyTorch is large, this takes minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,demo,heif,pretrained,web,dev]'
	@touch $@

demo: $(READY) ## Train on real faces (ORL), evaluate, and write demo/report.html: 3 to 9 minutes on 2 cores.
	$(BIN)/facereel demo --out $(OUT)

reproduce: $(READY) ## Make all tables at smoke scale, on ORL, in tables/; can be stopped and called again.
	@status=0; for table in $(TABLES); do $(BIN)/facereel reproduce table=$$table scale=smoke out=tables || status=$$?; done; exit $$status

test: $(READY) ## Run all tests (needs nothing but this checkout; uses ../shared where it is).
	@echo "extras installed: cpu, demo, heif, pretrained, web, dev; those of the search page in a browser are left to make test-web; those on real faces are skipped without ../shared"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

test-web: $(READY) ## Drive the search page in a real browser (needs Chromium: CHROMIUM=/path/to/chromium).
	$(BIN)/python -m pytest tests_web

docs: $(VENV)/.docs ## Build the documentation into site/ (open site/index.html); a dead link is an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

audit: $(VENV)/.audit ## Ask which installed packages have known weaknesses; says so if nobody answers.
	@$(BIN)/python scripts/audit.py || test $$? -eq 3

$(VENV)/.audit: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[audit]'
	@touch $@

lint: $(READY) ## Check style, formatting and types, and the Dockerfile.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: $(READY) ## Mend style and formatting.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the environment and what tests and builds leave.
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
