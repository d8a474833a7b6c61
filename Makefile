# Everything sets itself up in .venv: `make demo` and `make test` need only python3 >= 3.10 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help demo test lint format compat clients mutations bench embedded-model clean

help:
	@sed -n 's/^## //p' Makefile

## make demo            convert the embedded model, prove the result, let it speak from every format
demo: $(VENV)/installed
	$(BIN)/llama-convert demo

## make test            all tests, one process for each core
test: $(VENV)/developing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

## make lint            ruff and mypy --strict
lint: $(VENV)/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

## make format          rewrite the code in the project's format
format: $(VENV)/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## make compat          the output in transformers 4.47 and 4.57, the Hub with its client 1.31, each in an environment of its own (2.4 GB)
compat: $(VENV)/developing
	$(BIN)/python -m tests.compat.run

## make clients         llama.cpp, MLX, torchtune, litgpt, tinygrad and the book's classes on the output, likewise (6 GB)
clients: $(VENV)/developing
	$(BIN)/python -m tests.clients.run

## make mutations       every known mistake against every level of verify, and 200 right conversions (3 minutes)
mutations: $(VENV)/developing
	$(BIN)/python -m benchmarks.mutations

## make bench           full-size conversions against cp (60 GB of disk)
bench: $(VENV)/developing
	$(BIN)/python -m benchmarks.convert

## make embedded-model  train the embedded model again (15 minutes)
embedded-model: $(VENV)/developing
	$(BIN)/python -m training.train

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "python3 >= 3.10 is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/developing: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps llms-from-scratch  # a judge of the tests; what it says it needs has 2 GB, what is used of it nothing
	touch $@ $(VENV)/installed
