# Every command sets up what it lacks. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# torch's CPU build on Linux without a GPU: the default wheel would bring gigabytes of CUDA.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# OpenMP threads that spin on a busy machine make a step ten to a hundred times slower.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.PHONY: help run tour test test-kill lint format typecheck bench screenshots lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "Move 37 needs Python 3.11 or newer, and '$(PYTHON)' was not found: install it, or name one with 'make PYTHON=/path/to/python3'."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Move 37 needs Python 3.11 or newer, and '$(PYTHON)' is older: name a newer one with 'make PYTHON=/path/to/python3'."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments: on Debian and Ubuntu install the package python3-venv."; exit 1; }
	@test -x $(BIN)/python || { echo "Making a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing pinned dependencies (the first time takes a minute or two)"
	@TORCH=$$(grep '^torch==' requirements.lock); \
	if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	  $(BIN)/pip install -q --no-deps --only-binary :all: "$$TORCH+cpu" 2>/dev/null \
	  || $(BIN)/pip install -q --no-deps --only-binary :all: --index-url $(TORCH_INDEX) "$$TORCH" 2>/dev/null \
	  || true; fi
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	@touch $(READY)

run: $(READY) ## set up and start the lab at http://127.0.0.1:8000
	@exec $(BIN)/python manage.py up

tour: $(READY) ## take a small model through its whole life
	@exec $(BIN)/python manage.py tour $(TOUR)

test: $(READY) ## every test
	@$(BIN)/python -m tests.setup_chromium
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile $(TESTS)

test-kill: $(READY) ## the kill tests, ten times in a row
	@for i in 1 2 3 4 5 6 7 8 9 10; do $(BIN)/python -m pytest -q tests/journeys/test_kill.py || exit 1; done

lint: $(READY) ## style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## let ruff lay out the code
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format -q .

bench: $(READY) ## every benchmark, one line of JSON each
	@for script in benchmarks/*.py; do $(BIN)/python $$script $(BENCH) || exit 1; done

screenshots: $(READY) ## every page of a toured lab as pictures in screenshots/
	@$(BIN)/python -m tests.screenshots

lock: ## pin anew what pyproject.toml asks for
	@rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv && .lock-venv/bin/pip install -q torch==2.13.0 \
	&& .lock-venv/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; print("\n".join(p["dependencies"] + sum(p["optional-dependencies"].values(), [])))' > .lock-venv/wanted.txt \
	&& .lock-venv/bin/pip install -q -r .lock-venv/wanted.txt \
	&& { echo "# Every dependency of every command, pinned. Made from pyproject.toml by 'make lock'."; .lock-venv/bin/pip freeze | sed 's/+cpu//'; } > requirements.lock; rm -rf .lock-venv

clean: ## remove the virtual environment, and nothing that a run made
	@rm -rf $(VENV)
