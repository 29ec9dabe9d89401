# Two set-up commands: `make demo` and `make test`. Both share .venv and install into it only once.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
export OMP_NUM_THREADS ?= 1

TOOLS := build/tools
LOCKED := build/locked
VARIANT ?= cpu
BENCHMARKS := startup planning "shard_cost --shards 1000 2000 4000" "memory --rows 10000 100000" overhead \
  embedding_rivals ofa_speed clip_speed mplug_speed

.PHONY: demo test check bench chaos soak lock licenses sbom audit clean

demo: $(STAMP)  ## Install, run the main job on 64 drawn scenes, show the result.
	$(VENV)/bin/tagline demo

test: $(STAMP)  ## Install, run all tests that need no GPU.
	$(VENV)/bin/python -m pytest -m "not gpu"

check: $(STAMP)  ## Format, lint, types, architecture.
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest tests/test_architecture.py

# Others' pipelines are run by Pythons of their own; a benchmark that finds none says how to make one, and the rest go on.
bench: $(STAMP)  ## Measure everything (hours on two cores) and write tests/benchmarks/RESULTS.md with its plots.
	$(VENV)/bin/python -m pip install --quiet --editable '.[bench]'
	for name in $(BENCHMARKS); do $(VENV)/bin/python -m tests.benchmarks.$$name || echo "not measured: $$name" >&2; done
	$(VENV)/bin/python -m tests.benchmarks.results

chaos: $(STAMP)  ## Inject every fault at three random points (half an hour on two cores) and write the README's table.
	$(VENV)/bin/python -m tests.benchmarks.chaos

soak: $(STAMP)  ## 100,000 images under failing requests and kills, about half an hour; RCLONE names rclone.
	$(VENV)/bin/python -m tests.benchmarks.soak

lock: $(TOOLS)  ## Write infra/locks anew from pyproject.toml; UPGRADE=--upgrade for newer versions.
	PATH=$(CURDIR)/$(TOOLS)/bin:$$PATH infra/locks/make.sh $(UPGRADE)

licenses: $(TOOLS)  ## Install the locks into a folder of their own and list their licences in infra/licenses.md.
	test -x $(LOCKED)/bin/python || $(PYTHON) -m venv $(LOCKED)
	$(LOCKED)/bin/python -m pip install --quiet --require-hashes --no-deps \
	  --requirement infra/locks/torch-cpu.lock --requirement infra/locks/requirements.lock
	PATH=$(CURDIR)/$(TOOLS)/bin:$$PATH infra/locks/licenses.sh $(LOCKED)/bin/python > infra/licenses.md

sbom: $(TOOLS)  ## Write build/sbom.json, CycloneDX, of the image's packages; VARIANT=cuda for the other image.
	cat infra/locks/requirements.lock infra/locks/torch-$(VARIANT).lock | $(TOOLS)/bin/cyclonedx-py requirements \
	  --pyproject pyproject.toml --spec-version 1.6 --output-reproducible --output-file build/sbom.json -

# Without its data (an index that tells of no advisories, or no network) this fails and says so: nothing was audited then.
audit: $(TOOLS)  ## Look the locked versions up among known vulnerabilities.
	$(TOOLS)/bin/pip-audit --strict --require-hashes --disable-pip --requirement infra/locks/requirements.lock

clean:  ## Remove the virtual environment and what tools cached.
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache *.egg-info

# Written last, so an installation that was cut short is begun again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tagline needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(TOOLS):
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet pip-tools==7.6.2 pip-licenses==5.5.5 cyclonedx-bom==7.5.0 pip-audit==2.10.1 || \
	  { rm -rf $@; exit 1; }
