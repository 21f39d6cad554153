# make demo: install and run the main job on bundled real data.   make test: everything that must hold.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: help demo test test-slow lint format types bench bench-smoke notebooks notebooks-smoke clean

help:
	@echo "make demo       install into $(VENV) and run the main job on bundled real data (a minute after installing)"
	@echo "make test       the tests, in parallel;   make test-slow: all of them"
	@echo "make lint       ruff;   make types: mypy;   make format: let ruff format"
	@echo "make bench      every figure we claim beside a peer (installs the peers under .bench/);   make bench-smoke"
	@echo "make notebooks  run the notebooks into build/notebooks;   make notebooks-smoke: at toy size"
	@echo "make clean      remove everything these commands made"

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tercet needs Python 3.11 or newer; say make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing tercet and what it needs into $(VENV) (a minute or two, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "installing the tools for tests, lint and notebooks ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/.base
	@$(BIN)/python notebooks/demo.py $(ARGS)

# One BLAS thread a worker: on small matrices two workers' threads wait for each other a hundred times longer.
test test-slow: export OPENBLAS_NUM_THREADS := 1
test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup $(ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup --slow $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# mypy sees the rooms where they are imported, through links.
types: $(VENV)/.dev
	@mkdir -p .typing/tercet
	@for file in __init__ compilation_cache; do ln -sfn ../../src/tercet/$$file.py .typing/tercet/$$file.py; done
	@for room in models inference designs datasets plots; do ln -sfn ../../$$room .typing/tercet/$$room; done
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/run.py $(ARGS)
	$(BIN)/python benchmarks/trajectories.py
	$(BIN)/python benchmarks/spatial.py
	$(BIN)/python benchmarks/local_regression.py
	$(BIN)/python benchmarks/rewards.py
	$(BIN)/python benchmarks/dask_pairs.py
	$(BIN)/python benchmarks/accelerator.py build/benchmarks/accelerator.json
	$(BIN)/python benchmarks/first_calls.py

# Each script is a target of its own, so that `make -j 2 bench-smoke` runs two at a time.
SMOKE := run trajectories spatial local_regression spatial_study rewards dask_pairs accelerator first_calls pointwise_study design_study
first_calls_smoke := --only davidson arviz-annotators surface bridges

.PHONY: $(SMOKE:%=smoke-%)
bench-smoke: $(SMOKE:%=smoke-%)

$(SMOKE:%=smoke-%): smoke-%: $(VENV)/.dev
	$(BIN)/python benchmarks/$*.py --smoke $($*_smoke)

notebooks: $(VENV)/.dev
	$(BIN)/python notebooks/execute.py $(ARGS)

notebooks-smoke: $(VENV)/.dev
	TERCET_SMOKE=1 $(BIN)/python notebooks/execute.py --workers $(WORKERS)

clean:
	rm -rf $(VENV) .venv-* build dist .bench .cache .typing .mypy_cache .pytest_cache .ruff_cache src/*.egg-info *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
