# A fresh machine needs Python 3.11 or newer and make: every target prepares .venv first if it has to.
PYTHON ?= python3
BENCH_FLAGS ?=
EXPERIMENT ?= label_noise
JOBS ?= 1
GPUS ?= 0
BATCH ?=
PROFILE ?=
FONT_SIZE ?= 13
LAB_FLAGS ?=
BATCH_FLAGS = $(if $(BATCH),--batch $(BATCH)) $(if $(PROFILE),--profile $(PROFILE))
# A file at a time on each core; files, because the tests of one may share what took long to prepare.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

# Bytecode is kept even where the environment says not to: every kernel and every rank would compile all of torch anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
READY := .venv/.ready
DEMO := notebooks/02_per_block_accuracy.ipynb
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

# What git stores of a notebook is without outputs, so that running a lesson changes nothing (.gitattributes). Where
# .venv is gone, notebooks pass as they are. The index is refreshed without it: else git, asked for the revision, would
# clean all notebooks of a fresh clone, two seconds each.
CLEAN := if test -x $(BIN)/nbstripout; then $(BIN)/nbstripout --extra-keys metadata.language_info; else cat; fi

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all reproduce reproduce-status lab lint docs bench data clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-16s %s\n' "$$name" "$$text"; done

setup: $(READY)  ## make .venv with everything in it (PYTHON=python3.12 to choose the interpreter)

# The stamp comes last: a set-up that was interrupted is taken up again. Compiling all of torch to bytecode would take
# a minute, and Python does it for what is imported anyway.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: Python 3.11 or newer is needed, and '$(PYTHON)' is not; try make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile --editable ".[dev]" --constraint constraints.txt
	@if git rev-parse --git-dir >/dev/null 2>&1; then git config filter.notebook-outputs.clean "$(CLEAN)"; \
		git -c filter.notebook-outputs.clean=cat update-index -q --refresh || true; fi
	touch $@

demo: $(READY)  ## run the per-block accuracy notebook on the bundled digits, into runs/demo
	$(BIN)/python -m kit.notebook $(DEMO) runs/demo/$(notdir $(DEMO)) -p output runs/demo --html

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(READY)  ## run the tests, and those that kill the pipeline's processes
	$(BIN)/python -m pytest $(PARALLEL)
	KIT_FAULTS=1 $(BIN)/python -m pytest -m faults

# Killed in whatever way, the same command resumes. BATCH=FOLDER for another than runs/batches/EXPERIMENT, GPUS=2 to share
# out this machine's, PROFILE=workflow/profiles/slurm for a cluster.
reproduce: $(READY)  ## run what is missing of a batch and write its report (EXPERIMENT=label_noise JOBS=2)
	$(BIN)/python -m workflow.batch run $(EXPERIMENT) --jobs $(JOBS) --gpus $(GPUS) $(BATCH_FLAGS)

reproduce-status: $(READY)  ## say how many cells of a batch are done, running, failed and left, and the time expected
	$(BIN)/python -m workflow.batch status $(EXPERIMENT) $(BATCH_FLAGS)

# Kernels start here, not in notebooks/, so that data/ and runs/ are the same folders as for headless runs.
# LAB_FLAGS=--allow-root for root in a container; FONT_SIZE=17 for figures that the last row reads. PyTorch's profiler warns
# of what was allocated before it began, which costs.peak_bytes accounts for: its warnings are left out.
lab: $(READY)  ## open JupyterLab on the notebooks (FONT_SIZE=17 for a large room, LAB_FLAGS=--allow-root)
	KIT_FONT_SIZE=$(FONT_SIZE) TORCH_CPP_LOG_LEVEL=ERROR $(BIN)/python -m kit.cpu_allocator $(BIN)/jupyter lab notebooks --MappingKernelManager.root_dir="$(CURDIR)" $(LAB_FLAGS)

lint: $(READY)  ## check style and types, and that notebooks are stored without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb notebooks/solutions/*.ipynb workflow/*.ipynb

# Its tools are installed only here. Lessons run once, and again when they or the code changes.
docs: .venv/.docs  ## build the site into docs/_build/html, its lessons with the outputs of a real run (FULL=1: not quick)
	$(BIN)/python -m docs.build $(if $(FULL),--full)

.venv/.docs: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile --editable ".[docs]" --constraint constraints.txt
	touch $@

bench: $(READY)  ## run every benchmark (BENCH_FLAGS=--quick for a short look)
	@set -e; for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python $$script $(BENCH_FLAGS); done

data: $(READY)  ## fetch Fashion-MNIST into data/
	$(BIN)/python -m kit.data fashion-mnist

clean:  ## remove .venv and caches; data and runs stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
