# Two commands: `make run` serves the demo model, `make test` runs the tests. Needs Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test conformance bench check format chaos clean
.DEFAULT_GOAL := run

.venv/.run: requirements.txt
	@test -d .venv || $(PYTHON) -m venv .venv
	@echo "installing requirements.txt (the first time takes a minute or more)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.test: .venv/.run requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

run: .venv/.run
	@exec $(BIN)/python -m common.process.start

# Two at a time, a file in one process: much of a test's time is waiting.
test: .venv/.test
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# Real clients from PyPI and npm against the real service; ARGS="openai litellm" runs only these.
conformance: .venv/.test
	@$(BIN)/python -m tests.conformance $(ARGS)

# Throughput and latency, ours and others': ARGS="--peer 'name=command'", see docs/benchmarks.md.
bench: .venv/.test
	@$(BIN)/python -m bench.suite $(ARGS)

check: .venv/.test
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_house.py

format: .venv/.test
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

SECONDS ?= 600

chaos: .venv/.test
	@$(BIN)/python -m bench.chaos --seconds $(SECONDS)

clean:
	rm -rf .venv .venv-conformance tests/conformance/*/node_modules .data
