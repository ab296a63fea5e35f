# make demo   set up, then the main job: a picture through a LLaVA model, pruned
# make test   set up, then the tests
# Each makes .venv when it is missing. TORCH chooses torch's version: make test TORCH=torch==2.13.0
PYTHON ?= python3
TORCH ?= torch==2.13.0
CUDA ?= OFF
PHOTO ?=
BIN := .venv/bin
SOURCES := $(shell find csrc -type f) CMakeLists.txt setup.py pyproject.toml

.PHONY: demo test bench gpu-test gpu-bench lint clean
demo: .venv/installed
	$(BIN)/svdprune demo $(if $(PHOTO),'$(subst ','\'',$(PHOTO))')

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

bench: .venv/installed
	$(BIN)/svdprune bench

# On a machine with a GPU, with the packages of PYTHON: see bench/run_gpu.sh.
gpu-test:
	PYTHON="$(PYTHON)" bash bench/run_gpu.sh tests

gpu-bench:
	PYTHON="$(PYTHON)" bash bench/run_gpu.sh bench

lint: .venv/linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find csrc examples python_tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
	$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info svdprune_ext/*.so

.venv/torch:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)" "setuptools>=77" cmake ninja pybind11
	touch $@

.venv/installed: .venv/torch $(SOURCES)
	SVDPRUNE_CUDA=$(CUDA) $(BIN)/pip install --quiet --no-build-isolation --editable ".[test]"
	touch $@

.venv/linters: .venv/installed
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@
