# The two commands of the README are `make quickstart` and `make test`.
# TORCH_INDEX: an extra package index with CPU or CUDA builds of torch (unset: the default index).
# TORCH_HASHES=1: take only the files of torch, and of what its CUDA builds need, that requirements/torch.txt names.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH := $(shell grep -o '^torch==[^ ]*' requirements/torch.txt)
UV := $(VENV)/uv/bin/uv
# Nothing but what the lock names, byte for byte; and no source archive, whose build would fetch tools that no lock names.
BY_HASH := --no-deps --only-binary :all: --require-hashes
# uv takes a tenth of pip's time. It knows nothing of pip's configuration: where it finds no index, pip installs the same lock.
locked = $(UV) pip install --quiet --python $(BIN)/python $(BY_HASH) -r $(1) || $(PIP) $(BY_HASH) -r $(1)

# Installed without bytecode, most of which nobody would read: Python writes it when a module is first imported, if it may.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test check again lint ruff mypy contracts compiled audit sbom lock soak fuzz clients bench docs clean

quickstart: $(VENV)/.installed
	$(BIN)/portllm quickstart $(QUICKSTART)

# Three at a time on two cores: a third of what a test does is waiting for processes, leases and stores.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(PYTEST) || \
	{ code=$$?; mkdir -p .pytest_cache; echo $$code > .pytest_cache/ended; exit $$code; }

check:
	$(MAKE) --jobs=4 --output-sync=target --no-print-directory lint audit compiled
	$(MAKE) --no-print-directory test

# What failed in the last run, alone and once more: three tests at most, so that no change which breaks things passes here, and
# only where all tests were run (1), not after an end in the middle.
again: $(VENV)/.installed-test
	test "$$(cat .pytest_cache/ended)" = 1
	test "$$(grep -c '": true' .pytest_cache/v/cache/lastfailed)" -le 3
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

lint: ruff mypy contracts

ruff: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

mypy: $(VENV)/.installed-test
	$(BIN)/mypy

contracts: $(VENV)/.installed-test
	$(BIN)/lint-imports

# Imports the largest libraries once: the processes that run the tests would otherwise compile them side by side.
compiled: $(VENV)/.installed-test
	$(BIN)/python -c "import tests.support.models"

# Licences of what is installed, and known vulnerabilities of what is locked.
audit: $(VENV)/.installed-test
	$(BIN)/python requirements/audit.py

# What the service is made of, for a scanner; the image has its own.
sbom: $(VENV)/.installed-test
	$(BIN)/python docker/sbom.py build/sbom.cdx.json

# LOCK=--upgrade takes the newest of everything, LOCK='--upgrade-package NAME' of one; without, only what pyproject.toml wants changes.
lock: $(UV)
	$(BIN)/python requirements/lock.py $(UV) $(LOCK)

# What is generated from the code.
docs: $(VENV)/.installed-test
	$(BIN)/python -m app.domain.events.reference > docs/events.md

soak: $(VENV)/.installed-test
	PORTLLM_SOAK_ROUNDS=50 $(BIN)/python -m pytest tests/faults

# Generated hostile input for an hour, or as long as PORTLLM_FUZZ_SECONDS says.
fuzz: $(VENV)/.installed-test
	PORTLLM_FUZZ_SECONDS=$${PORTLLM_FUZZ_SECONDS:-3600} $(BIN)/python -m pytest tests/fuzz

# Three versions of huggingface_hub, with transformers 4 and 5, in environments of their own. CLIENTS: where they are kept.
CLIENTS ?= $(VENV)/clients
clients: $(VENV)/.installed-test
	TORCH_INDEX="$(TORCH_INDEX)" $(BIN)/python -m tests.clients_matrix.build $(CLIENTS)
	PORTLLM_CLIENTS=$(abspath $(CLIENTS)) $(BIN)/python -m pytest tests/live/hub tests/clients_matrix

bench: $(VENV)/.installed-test
	$(BIN)/python -m tests.benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(UV): $(VENV)/bin/python requirements/uv.txt
	$(PIP) $(BY_HASH) --target $(VENV)/uv --upgrade -r requirements/uv.txt
	touch $@

# torch after all else that it needs: then nothing but torch and the libraries of its CUDA builds comes unchecked. By its exact
# version, for an open range would fetch the newest build. Which files that is, the index decides (a CPU build, one for a CUDA version).
$(VENV)/.installed: $(UV) pyproject.toml requirements/runtime.txt requirements/torch.txt
	$(call locked,requirements/runtime.txt)
	$(if $(TORCH_HASHES),$(call locked,requirements/torch.txt),$(PIP) --no-compile "$(TORCH)" $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)))
	$(PIP) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements/test.txt
	$(call locked,requirements/test.txt)
	$(BIN)/python -m pip check
	touch $@

clean:
	rm -rf $(VENV) .quickstart build dist *.egg-info
