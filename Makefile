# SPDX-License-Identifier: GPL-2.0-or-later
# `make` alone lists what there is to make. Needs Python 3.11 or later, and nothing else installed.

PORT    ?= 8000
# Which Python the environment is built with: any of these that is new enough and complete, or the one given.
PYTHON  ?=
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
# `make lock UPGRADE=1` takes the newest versions pyproject.toml allows; without it only what must change does.
UPGRADE ?=

VENV    := .venv
PY      := $(VENV)/bin/python
# A copy of the lock file the environment was built from: what it holds, and when it was built.
BUILT   := $(VENV)/requirements-dev.lock
SOURCES := chatgpt_rest tests bench docs server.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo run test browser soak check format bench picture lock clean $(VENV)

help:  ## list the targets
	@awk -F ':.*  ## ' '/^[.a-z$$()A-Z]+:.*  ## / { sub(/\$$\(VENV\)/, ".venv", $$1); printf "make %-8s%s\n", $$1, $$2 }' Makefile

demo: $(BUILT)  ## the server with a simulated ChatGPT behind it, nothing to configure (PORT=8000)
	@$(PY) server.py demo --port $(PORT)

run: $(BUILT)  ## the real server, as config.toml says
	@$(PY) server.py

# -X dev without its slow memory hooks: nothing here is written in C. A process a core: each test has its own folder and ports.
test: $(BUILT) browser  ## every test, with coverage
	@PYTHONMALLOC=pymalloc $(PY) -X dev -m pytest -n auto --maxschedchunk 8 --cov --cov-report=term

# Where it cannot be installed the browser tests are skipped, by name.
browser:  ## install Chromium for the browser tests, if it is missing
	@command -v chromium >/dev/null || { \
	    command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium >/dev/null; \
	} || echo "chromium is missing: on Debian, apt-get install chromium" >&2

soak: $(BUILT)  ## what is generated, fifteen times as long: the budget, merging, ChatGPT's JSON, syncs, imports, kills
	@$(PY) -X dev -m pytest -q --hypothesis-profile=soak tests/test_budget.py tests/test_merge.py \
	    tests/test_chatgpt_json.py tests/test_sync_account.py tests/test_sync_histories.py tests/test_sync_kills.py \
	    tests/test_import_generated.py tests/test_import_kills.py tests/test_ask_kills.py \
	    tests/archive/test_elements.py tests/archive/test_parsing.py

check: $(BUILT)  ## format, lint, types, import rules
	@$(PY) -m ruff format --quiet --check $(SOURCES) || { echo "make format would change the files above" >&2; exit 1; }
	@$(PY) -m ruff check --quiet $(SOURCES)
	@$(PY) -m mypy --no-error-summary $(SOURCES)
	@$(VENV)/bin/lint-imports --no-logo
	@echo "format, lint, types and import rules hold"

format: $(BUILT)  ## lay the code out, and fix what can be fixed safely
	@$(PY) -m ruff check --quiet --fix-only $(SOURCES)
	@$(PY) -m ruff format $(SOURCES)

bench: $(BUILT)  ## this server beside its peers, measured in one run
	@$(PY) -m bench

picture: $(BUILT)  ## draw docs/demo.svg anew, from a demo that runs (port 8000)
	@$(PY) docs/picture.py 2>/dev/null

$(VENV): $(BUILT)  ## the environment alone, tests' dependencies included (PYTHON=python3.12)

# Built anew whenever the lock file's content changed, so that nothing of an older one lingers.
$(BUILT): requirements-dev.lock
	@if cmp -s $< $@; then touch $@; exit; fi; \
	rm -f $@; \
	python=; seen=; \
	for candidate in $(PYTHONS); do \
	    version=$$($$candidate -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue; \
	    seen="$$seen $$candidate $$version;"; \
	    $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' || continue; \
	    $$candidate -c 'import ensurepip, venv' 2>/dev/null || { seen="$${seen%;} without venv;"; continue; }; \
	    python=$$candidate; break; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Needed: Python 3.11 or later with its venv module. Looked for: $(PYTHONS). Found:$${seen:- none;}" | sed "s/;$$/./" >&2; \
	    echo "On Debian and Ubuntu: apt-get install python3 python3-venv. Elsewhere: make $(VENV) PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi; \
	echo "building $(VENV) with $$python $$version" && \
	$$python -m venv --clear $(VENV) && \
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $< && \
	cp $< $@

# uv resolves for every platform and Python at once, which pip cannot; it is needed for nothing else.
lock: $(BUILT)  ## resolve the dependencies again (UPGRADE=1 for newer versions)
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(PY) -m venv "$$tools" && "$$tools/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9' && \
	compile() { \
	    lock=$$1; shift; \
	    "$$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	        --annotation-style line $(if $(UPGRADE),--upgrade) "$$@" --output-file "$$lock" pyproject.toml && \
	    { printf '# SPDX-License-Identifier: GPL-2.0-or-later\n# Written by make lock.\n'; cat "$$lock"; } > "$$tools/lock" && \
	    cp "$$tools/lock" "$$lock"; \
	} && \
	compile requirements.lock && \
	compile requirements-dev.lock --group dev --constraint requirements.lock --no-annotate

clean:  ## remove what the other targets made, the environment too
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov dist
	@find $(wildcard $(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +
