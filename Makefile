# Every target makes what it needs: on a fresh machine `make train` creates .venv, installs, and trains.
PYTHON ?= python3
# Set on the command line only: a DATA that happens to be exported in the shell is not meant.
DATA :=
CONFIG := $(if $(DATA),configs/photos.yaml,configs/default.yaml)
ARGS :=
export DATA CONFIG
PORT ?= 5000

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.DEFAULT_GOAL := help
.PHONY: help install train test lint ui bench battery

help:  ## List the targets
	@echo "make train                          handwritten digits, the default recipe"
	@echo "make train DATA=path/to/folder      your own images, one sub-folder a class"
	@echo "make train CONFIG=configs/x.yaml    another recipe (with DATA= too); ARGS='--set train.head.epochs=20'"
	@echo
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## Create .venv and install the project with the pinned versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (TensorFlow is large: a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

train: install  ## Ingest, augment, build, train, evaluate, export (CONFIG=, DATA=, ARGS=)
	@$(BIN)/pipeline run -c "$$CONFIG" $${DATA:+--data "$$DATA"} $(ARGS)

test: install  ## Run the tests, without the slow ones
	@$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile $(ARGS)

lint: install  ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

ui: install  ## Open the MLflow UI on the runs made here (PORT=)
	@$(BIN)/pipeline ui --port $(PORT)

bench: install  ## Measure what the README claims; takes some hours
	@$(BIN)/python benchmarks/digits.py
	@$(BIN)/python benchmarks/input.py
	@test -z "$$DATA" || $(BIN)/python benchmarks/photos.py "$$DATA"
	@test -z "$$DATA" || $(BIN)/python benchmarks/duplicates.py "$$DATA"
	@test -z "$$DATA" || $(BIN)/python benchmarks/retrain.py "$$DATA"
	@$(BIN)/python benchmarks/views.py $${DATA:+"$$DATA"}
	@$(BIN)/python benchmarks/ingest.py
	@$(BIN)/python benchmarks/fashion_mnist.py
	@$(BIN)/python benchmarks/classic.py
	@$(BIN)/python benchmarks/honesty.py $${DATA:+"$$DATA"}
	@$(BIN)/python benchmarks/export.py $${DATA:+"$$DATA"}
	@$(BIN)/python benchmarks/engines.py

battery: install  ## Run all tests, the slow ones too
	@$(BIN)/python -m pytest -q $(ARGS)
