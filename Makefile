# make sweep   a first result in minutes: installs, runs sweeps/quickstart.yaml, prints the table
# make test    installs what tests need, then linter, type checker and tests
# make test-slow   the tests that take five CPU-seconds or more each: kills, restarts, whole sweeps on Ray, deep networks
# make test-original   every command of the original project's document, as written there: ten minutes or more
# make test-recipes   docs/recipes.md with the real Flower, NVFlare and Opacus, docs/living.md with DuckDB and others: needs a network
# make container-test   builds the image and runs it, a cluster of containers too; docs/containers.md says how
# make test-cluster   batch scripts on an emulated Slurm and jobs on a real Ray head: minutes, root for Slurm
# With TORCH_INDEX_URL in the environment, an index of CPU wheels, the install takes a third of the disk.
# make lock    renews the pinned versions from pyproject.toml

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SWEEP ?= sweeps/quickstart.yaml
OUT ?= results/quickstart

.PHONY: sweep test test-slow test-original test-recipes test-cluster container-test lint types tests format bench lock clean

sweep: $(VENV)/.run
	$(BIN)/gradsweep sweep $(SWEEP) --out $(OUT)

test: lint types tests

test-slow: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist loadfile -m slow --ignore tests/scripts/test_original.py

test-original: $(VENV)/.dev
	$(BIN)/pytest tests/scripts/test_original.py -m slow

# What cannot be installed is skipped, with the reason.
test-recipes: $(VENV)/.dev
	for name in flower nvflare opacus readers; do \
		test -d .recipes/$$name || $(PYTHON) -m venv .recipes/$$name; \
		.recipes/$$name/bin/python -m pip install --quiet --disable-pip-version-check -r docs/recipes/$$name.txt \
			|| rm -rf .recipes/$$name; \
	done
	GRADSWEEP_RECIPES=.recipes $(BIN)/pytest tests/docs/test_recipes.py tests/docs/test_living.py \
		tests/orchestrator/exports -m 'slow or not slow'

test-cluster: $(VENV)/.dev
	$(BIN)/pytest tests/cluster

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

tests: $(VENV)/.dev
	$(BIN)/pytest -n 2 --dist loadfile

container-test: $(VENV)/.dev
	$(BIN)/pytest tests/containers/check_image.py -s -o timeout=3600

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[peers]"
	$(BIN)/python benchmarks/federation.py
	$(BIN)/python benchmarks/attacks.py --ours "analytic inversion.evaluations=240" features inverting_gradients \
		--peer invertinggradients modern
	$(BIN)/python benchmarks/engine.py --rows l2-1

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gradsweep needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

# The versions are exactly those of the lock; the project itself is linked, not copied.
$(VENV)/.run: requirements/run.txt pyproject.toml | $(VENV)/bin/python
	PIP="$(PIP)" requirements/install.sh requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	PIP="$(PIP)" requirements/install.sh requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.run

# A universal resolution: one file of name==version lines with platform markers, without addresses.
lock: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --upgrade \
		--extra all pyproject.toml requirements/build.in -o requirements/run.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --upgrade \
		--extra all --extra dev -c requirements/run.txt pyproject.toml requirements/build.in -o requirements/dev.txt

clean:
	rm -rf $(VENV) build *.egg-info
