# The two commands of a new user: `make demo` and `make test`. Each makes `.venv` and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed
EXTRAS_INSTALLED := $(VENV)/.extras-installed
LOWEST := .venv-lowest
INSTALLS := .venv-installs
# What `make test-pythons` installs with: versions, or paths of interpreters.
PYTHONS ?= 3.10 3.11 3.12 3.13
# How long `make fuzz` goes on.
MINUTES ?= 30

# Idle threads of OpenMP wait in a long busy loop by default; where something else needs a core as well, that slows
# training down many times. A shorter loop costs nothing on a quiet machine.
export GOMP_SPINCOUNT ?= 10000

# glibc gives freed memory back to the system by default, and asks for it again at the next training step: where it may
# keep up to 1 GiB, a step of the demonstration is a few percent faster.
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824

.PHONY: demo demo-real demo-transfer test test-extras test-kernels test-lowest test-pythons test-transformers fuzz lint types format docs

# Trains a small LAVT on generated scenes (about 10 minutes, whatever the machine) and shows what it learned.
demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

# The same path on real photographs; says so and stops where they are not at hand.
demo-real: $(INSTALLED)
	$(BIN)/python examples/demo_real.py

# Fine-tunes on the same photographs, from the model that travels with the library and from random weights, and draws
# what either knows of them and of held-out ones (about 10 minutes on two cores; goes on where it was interrupted).
demo-transfer: $(INSTALLED)
	$(BIN)/python examples/demo_transfer.py

# Files side by side, one for each core, in the order of tests/conftest.py.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

# All tests, those of the demo page and of exported graphs included; pages are opened where there is a Chromium, and the
# one that runs graphs in the browser where there is npm.
test-extras: $(EXTRAS_INSTALLED)
	$(MAKE) test

# The tests with the kernels of other processors, then with one thread and with two: no number may depend on them.
# oneDNN and MKL are held to the same instructions: PyTorch's bfloat16 attention fails where only one of them has AMX.
test-kernels: $(INSTALLED)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(BIN)/python -m pytest
	$(BIN)/python -m pytest --without-onednn
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest

# The tests with the lowest versions that setup.py names; PYTHON should be the lowest Python as well.
test-lowest:
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install uv
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct -e ".[dev]"
	$(LOWEST)/bin/python -m pytest

# The sdist and the wheel in environments outside the checkout, for each Python: help, information, a mask offline.
test-pythons:
	$(PYTHON) -m venv --clear $(INSTALLS)
	$(INSTALLS)/bin/python -m pip install uv
	PATH="$(CURDIR)/$(INSTALLS)/bin:$$PATH" $(INSTALLS)/bin/python tests/try_installs.py $(PYTHONS)

# transformers' own tests of models, processors and configurations on ours; they are downloaded once, never copied.
test-transformers: $(INSTALLED)
	$(BIN)/python tests/transformers_suite/download.py
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -o addopts=-ra tests/transformers_suite

# Random damage to files and calls, other ones each time; `make test` tries the same few hundred. A failure says how to
# reproduce it.
fuzz: $(INSTALLED)
	FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/fuzz

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The package as it is installed: in a checkout `modeling/` and `datasets_scripts/` lie beside it.
types: $(INSTALLED)
	rm -rf build/typed && mkdir -p build/typed/hf_refseg
	ln -s $(CURDIR)/hf_refseg/* $(CURDIR)/modeling $(CURDIR)/datasets_scripts build/typed/hf_refseg
	MYPYPATH=build/typed $(BIN)/python -m mypy -p hf_refseg

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site, in build/docs; a link that leads nowhere or a page outside of the navigation fails it.
docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -e ".[docs]"
	touch $@

$(EXTRAS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -e ".[dev,demo,export]"
	if command -v npm; then npm install --prefix examples/web; fi
	touch $@

$(INSTALLED): setup.py pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@
