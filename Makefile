# make demo          the main job on a synthetic data set, from nothing
# make test          all tests, two at a time
# make check         ruff, mypy and the contracts between rooms
# make assets        what the report's map is made with, out of npm (demo and test do it, too)
# make docs          the documentation as a site, in build/site
# make bench         every benchmark
# make constraints   renew constraints.txt: the versions that were tested together

PYTHON ?= python3
BIN := .venv/bin
# uv installs in a fraction of the time, where it is there; unlike pip it leaves the bytecode to each process.
UV := $(shell command -v uv 2>/dev/null)
PIP := $(if $(UV),uv pip install --compile-bytecode --python $(BIN)/python,$(BIN)/python -m pip install --disable-pip-version-check)
VENV := $(if $(UV),uv venv --python $(PYTHON) .venv,$(PYTHON) -m venv .venv)
CONSTRAINTS := $(if $(wildcard constraints.txt),--constraint constraints.txt)
# What the tests need holds what the demo needs.
FOR_DEMO := $(if $(wildcard .venv/.installed),.venv/.installed,.venv/.demo)

.PHONY: demo test check assets docs bench constraints clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 11, 5) and sys.exit("Python 3.11.5 or newer is needed, here \
	it is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.12 ...")'
	$(VENV)

.venv/.demo: pyproject.toml $(wildcard constraints.txt) | $(BIN)/python
	@echo "Installing what the demo needs into .venv: 2 to 5 minutes, some 6 GB with torch"
	$(PIP) --editable '.[demo]' $(CONSTRAINTS)
	touch $@

.venv/.installed: pyproject.toml $(wildcard constraints.txt) | $(BIN)/python
	@echo "Installing what tests and checks need into .venv: 3 to 6 minutes, some 8 GB with torch"
	$(PIP) --editable '.[dev,video]' $(CONSTRAINTS)
	touch $@

# Without npm the report has a map that does not move.
assets: | $(BIN)/python
	-@$(BIN)/python tools/web/build.py

demo: $(FOR_DEMO) assets
	$(BIN)/camtrap demo demo

# Tests start hundreds of processes: where Python may not keep bytecode, each would compile the package again.
test: .venv/.installed assets
	$(BIN)/python -m compileall -q camtrap_batch
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

bench: .venv/.installed
	missed=0; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || missed=1; done; \
	exit $$missed

constraints:
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/python -m pip install --editable '.[dev,video]'
	build/constraints/bin/python -m pip freeze --exclude-editable | grep -v ' @ ' > constraints.txt

clean:
	rm -rf .venv demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
