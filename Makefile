# make serve, on a fresh Debian or Ubuntu with Python >= 3.11 and a C++ compiler, does everything.
#
# Variables given to make are settings of the service: `make serve PORT=9000 ENGINE__THREADS=4` is
# SMOLSERVE_PORT=9000 SMOLSERVE_ENGINE__THREADS=4. PYTHON is the Python that .venv is made with.
# SCENARIO, USERS, DURATION and URL are of `make loadtest`, MINUTES of `make soak`.

PYTHON ?= python3
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

LOADTEST := SCENARIO USERS DURATION URL
SETTINGS := $(foreach v,$(filter-out PYTHON UPGRADE MINUTES $(LOADTEST) SMOLSERVE_%,$(.VARIABLES)),\
	$(if $(filter command,$(firstword $(origin $v))),$v))
$(foreach v,$(SETTINGS),$(eval export SMOLSERVE_$v := $$($v)))

SETUP = command -v $(PYTHON) >/dev/null || \
	{ echo "setup: no $(PYTHON) on PATH; install one with: sudo apt install python3 python3-venv" >&2; exit 1; }; \
	$(PYTHON) -m deploy.setup
BIN := .venv/bin
UV = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.PHONY: help serve test lint audit format bench loadtest soak lock setup setup-dev clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: setup ## set up what is missing, then serve on 127.0.0.1:8000
	@exec $(BIN)/smolserve serve

test: setup-dev ## set up what is missing, then run every test
	@exec $(BIN)/pytest

lint: setup-dev ## the linters, the type checker and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive service deploy

audit: setup-dev ## ask whether holes are known in the locked packages; needs a network
	@$(BIN)/python -m deploy.audit

format: setup-dev ## format the code
	$(BIN)/ruff format
	$(BIN)/ruff check --fix-only

bench: setup-dev ## measure the service against the raw decode loop
	$(BIN)/python -m loadtests.bench

loadtest: setup-dev ## load a server: SCENARIO=steady USERS=8 DURATION=30 URL=...; without URL, ours
	@$(BIN)/python -m loadtests.run $(foreach v,$(LOADTEST),\
		$(if $($v),--$(shell echo $v | tr A-Z a-z) '$($v)'))

MINUTES ?= 60
soak: setup-dev ## mixed load with faults for MINUTES (60); a picture in soak.png
	$(BIN)/python -m loadtests.soak --minutes $(MINUTES)

lock: setup-dev ## resolve the dependencies anew; UPGRADE=1 takes newer versions
	$(UV) $(if $(UPGRADE),--upgrade) --no-emit-package llama-cpp-python \
		pyproject.toml deploy/setup/editable.in -o requirements.txt
	$(UV) $(if $(UPGRADE),--upgrade) --no-emit-package llama-cpp-python --extra dev -c requirements.txt \
		pyproject.toml deploy/setup/editable.in -o requirements-dev.txt
	$(UV) $(if $(UPGRADE),--upgrade) deploy/setup/build.in -o requirements-build.txt
	$(UV) $(if $(UPGRADE),--upgrade) tests/compat/requirements.in -o requirements-compat.txt
	$(UV) --no-deps --no-binary llama-cpp-python deploy/setup/llama.in -o requirements-llama.txt

setup: ## everything that `serve` needs, without serving
	@$(SETUP)

setup-dev:
	@$(SETUP) --dev

clean: ## remove the environments and caches; models and the built wheel stay
	rm -rf .venv .venv-compat .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
