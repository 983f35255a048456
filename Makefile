# Everything runs in a private virtual environment, .venv, which the first target makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo: $(VENV)/.cpu ## Harden the bundled model on bundled images, and write a report (a minute)
	$(BIN)/lipcompile demo --output-dir demo-output --force

test: $(VENV)/.test ## Run the test suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-all: $(VENV)/.test ## Run the test suite with the slow, exhaustive tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "slow or not slow"

fuzz: $(VENV)/.test ## Feed damaged files to the loaders, a minute each (guided where atheris is installed)
	$(BIN)/python tests/fuzzing/fuzz.py --seconds 60

lint: $(VENV)/.lint ## Check style, dependency walls and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint ## Rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# clean_accuracy and weight_variant need labelled images of one's own, and are not among them.
BENCHMARKS := calibration_overhead inference_overhead blocked_layout optimisation_sensitivity \
	torchview_speed serving audit_against_pyautoattack

bench: $(VENV)/.test ## Run the benchmarks; they print ratios with n and spread
	for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

clean: ## Remove the virtual environment and what was built
	rm -rf $(VENV) build dist *.egg-info demo-output

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cpu: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[cpu,report]"
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt tests/zoo/requirements.txt | $(VENV)/bin/python
	$(PIP) -e ".[test]"
	$(PIP) --no-deps -r tests/zoo/requirements.txt
	@touch $@

$(VENV)/.lint: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[lint]"
	@touch $@

.PHONY: help demo test test-all fuzz lint format bench clean
