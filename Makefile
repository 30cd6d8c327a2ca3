# The two commands of the README are `make quickstart` and `make test`.
# TORCH_INDEX: an extra package index with CPU or CUDA builds of torch (unset: the default index).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: quickstart test check lint soak fuzz bench clean

quickstart: $(VENV)/.installed
	$(BIN)/portllm quickstart $(QUICKSTART)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)
	PORTLLM_TEST_DATABASE=postgresql $(BIN)/python -m pytest -n 2 --dist loadfile tests/registry

check: lint test

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(VENV)/.installed-test
	PORTLLM_SOAK_ROUNDS=50 $(BIN)/python -m pytest tests/faults

# Generated hostile input for an hour, or as long as PORTLLM_FUZZ_SECONDS says.
fuzz: $(VENV)/.installed-test
	PORTLLM_FUZZ_SECONDS=$${PORTLLM_FUZZ_SECONDS:-3600} $(BIN)/python -m pytest tests/fuzz

bench: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact version: an open range would fetch the newest build with gigabytes of CUDA libraries.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .quickstart build dist *.egg-info
