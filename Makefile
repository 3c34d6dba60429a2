# Everything runs in an environment that is made here: Python 3.11 or newer and pip are all that is needed.
# Another Python: make PYTHON=python3.12 test   (has its own environment, .venv-python3.12)

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
INSTALLED := $(VENV)/.installed
OLDEST := .venv-oldest
NEWEST := .venv-newest-icechunk
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format bench compat compat-newest docs oldest clean distclean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml tools/environment.py
	$(PYTHON) tools/environment.py $(VENV) --editable '.[all,test,dev]'
	@touch $@ $(INSTALLED)

$(INSTALLED): pyproject.toml tools/environment.py  # without the tools of those who work on it
	$(PYTHON) tools/environment.py $(VENV) --editable '.[all]'
	@touch $@

demo: $(INSTALLED)  ## write a small archive, scan it into a repository, read it back
	$(BIN)/python examples/demo.py $(ARGS)

test: $(READY)  ## all tests but the slow ones and those that need a network; ARGS goes to pytest
	$(BIN)/python -m pytest -q -m 'not network and not slow' $(ARGS)

# numcodecs is not ours to promise: later releases warn at every import about a package that old releases of zarr need.
oldest:  ## the tests with the oldest releases of everything that pyproject.toml promises; ARGS goes to pytest
	$(PYTHON) tools/environment.py $(OLDEST)
	$(PYTHON) tools/environment.py $(OLDEST) \
		$$($(OLDEST)/bin/python tools/oldest.py all) 'numcodecs<0.16.4' --editable '.[all,test]'
	$(OLDEST)/bin/python -m pytest -q -m 'not network and not slow' -W 'ignore:numpy.ndarray size changed' $(ARGS)

slow: $(READY)  ## the long runs: more random histories, a real dask cluster; ARGS goes to pytest
	$(BIN)/python -m pytest -q -m slow $(ARGS)

check: $(READY)  ## lint, format, types and architecture
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/architecture

format: $(READY)  ## put the code into the house format
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

bench: $(READY)  ## measure against the peers; ARGS="NAME... --repeats N"
	$(BIN)/python -m bench $(ARGS)

compat: $(READY)  ## only the tests that the real icechunk judges
	$(BIN)/python -m pytest -q tests/compat $(ARGS)

compat-newest:  ## the same, judged by the newest icechunk 1.x; ARGS goes to pytest
	$(PYTHON) tools/environment.py $(NEWEST) --editable '.[all,test]'
	$(PYTHON) tools/environment.py $(NEWEST) --upgrade 'icechunk<2'
	$(NEWEST)/bin/python -m pytest -q -m compat tests/compat $(ARGS)

docs: $(READY)  ## build the documentation in build/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

clean:  ## remove what was built and written here
	rm -rf demo-archive dist build bench/results .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name '.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## as clean, and the environments too
	rm -rf .venv .venv-*
