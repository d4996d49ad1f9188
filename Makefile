# Everything starts here. Needs Python 3.11 or newer with pip; nothing else.
#   make demo                                   see a stream being cut, unguarded and guarded
#   make demo ENGINE=http://localhost:11434 MODEL=llama3      the same against your own engine
#   make chat, make django-chat                 a chat page with a receipt under each answer
#   make pipeline                               a LangChain pipeline, with metrics and receipts
#   make test                                   run the tests

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
PIP    := $(PY) -m pip --disable-pip-version-check --no-input --quiet
JOBS   ?= 2
SECONDS ?= 60
ARGS   ?=
SHELL  := /bin/sh

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo chat django-chat pipeline test lint format fuzz bench docs changelog clean

help: ## list the targets
	@echo "StreamGuard: what you can make"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo "Variables: PYTHON=python3.12  ENGINE=URL MODEL=NAME (demo, chats, pipeline)  ARGS='...' (these, test, bench)"

demo: $(STAMP) ## watch a stream being cut: tokens burnt without and with the guard
	@echo "==> make demo: starting the engine and the example, readers leave half-way"
	@$(PY) example_projects/demo/run.py $(if $(ENGINE),--engine '$(ENGINE)') $(if $(MODEL),--model '$(MODEL)') $(ARGS)
	@echo "make demo: passed"

chat: $(STAMP) ## a chat page at http://127.0.0.1:8000 with a receipt under each answer
	@$(PY) example_projects/fastapi_chat/main.py $(if $(ENGINE),--engine '$(ENGINE)') $(if $(MODEL),--model '$(MODEL)') $(ARGS)

django-chat: $(STAMP) ## the same in Django, with an admin; ARGS=--wsgi for gunicorn's threads
	@$(PY) example_projects/django_chat/main.py $(if $(ENGINE),--engine '$(ENGINE)') $(if $(MODEL),--model '$(MODEL)') $(ARGS)

pipeline: $(STAMP) ## a streaming LangChain pipeline: live metrics, guardrails, failures, receipts
	@$(PY) example_projects/langchain_pipeline/main.py $(if $(ENGINE),--base-url '$(ENGINE)') $(if $(MODEL),--model '$(MODEL)') $(ARGS)

test: $(STAMP) ## run the tests
	@echo "==> make test: running the tests with $$($(PY) --version)"
	@$(PY) -m pytest -n $(JOBS) $(ARGS)
	@echo "make test: passed"

lint: $(VENV)/.group-lint $(VENV)/.group-types $(VENV)/.group-contracts ## ruff, mypy --strict, import contracts
	@echo "==> make lint: rules, format, types, contracts"
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports
	@echo "make lint: passed"

format: $(VENV)/.group-lint ## let ruff format and mend what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .
	@echo "make format: done"

fuzz: $(STAMP) ## damage streams at random and read them: SECONDS=60
	@echo "==> make fuzz: reading damaged streams for $(SECONDS) s"
	@$(PY) tests/fuzz/streams.py --seconds $(SECONDS) $(ARGS)
	@echo "make fuzz: passed"

bench: $(VENV)/.group-bench ## what a chunk costs, as ratios
	@echo "==> make bench: ratios within one run; no absolute number is a promise"
	@$(PY) -m bench $(ARGS)
	@echo "make bench: done"

docs: $(VENV)/.group-docs ## build the manual into docs/_build/html
	@echo "==> make docs: building the manual, warnings are errors"
	@$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "make docs: built docs/_build/html/index.html"

changelog: $(VENV)/.group-dev ## show the changelog of the next release
	@$(VENV)/bin/towncrier build --draft --version next

clean: ## remove the environment, caches and builds
	@rm -rf $(VENV) .tox build dist docs/_build htmlcov .coverage .coverage.* \
		.mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "make clean: done"

# The environment, made once and reused; made anew when pyproject.toml changes.
$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "make: '$(PYTHON)' was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); StreamGuard needs Python 3.11 or newer. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "==> making $(VENV) with $$($(PYTHON) --version) and installing StreamGuard with its test tools (once)"
	@test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1 || { \
		rm -rf $(VENV) && { $(PYTHON) -m venv $(VENV) 2>/dev/null || { \
			$(PYTHON) -m venv --clear --without-pip $(VENV) && \
			$(PYTHON) -m pip --python $(PY) --disable-pip-version-check --quiet install pip; }; }; }
	@$(PIP) install --upgrade "pip>=25.1"
	@$(PIP) install --editable ".[all]" --group test
	@touch $@

# make .venv/.group-NAME installs one dependency group of pyproject.toml into the environment.
$(VENV)/.group-%: $(STAMP)
	@echo "==> installing the tools of group '$*' (once)"
	@$(PIP) install --group $*
	@touch $@
