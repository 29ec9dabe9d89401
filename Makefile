# Two set-up commands: `make demo` and `make test`. Both share .venv and install into it only once.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check clean

demo: $(STAMP)  ## Install, run the main job on 64 drawn scenes, show the result.
	$(VENV)/bin/tagline demo

test: $(STAMP)  ## Install, run all tests that need no GPU.
	$(VENV)/bin/python -m pytest -m "not gpu"

check: $(STAMP)  ## Format, lint, types, architecture.
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest tests/test_architecture.py

clean:  ## Remove the virtual environment and what tools cached.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info

# Written last, so an installation that was cut short is begun again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tagline needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@
