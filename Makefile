# make demo    search, train and map a switchable-precision network on handwritten digits (minutes on two CPU cores)
# make test    the test suite, in two processes (make test WORKERS=8)
# make lint    the style checks        make bench    the benchmarks
# make types   types and imports, checked on what a wheel holds
# make test-full    the test suite with every check whole, not a sample of it
# make hardening    damaged files and killed processes, a minute (make hardening FULL=1: 100,000 files, 1,000 kills)
# Each creates .venv from requirements.txt when it is missing or older.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: demo hardening test test-full lint types bench environment

environment: $(VENV)/installed

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "creating $(VENV) from requirements.txt (about 6 GB, some minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: environment
	@$(BIN)/python train_search.py --preset digits --overwrite
	@$(BIN)/python train.py --preset digits --overwrite
	@$(BIN)/python -m automapper ckpt/finetune/weights.pt --device eyeriss

test: environment
	$(PYTEST)

test-full: environment
	$(PYTEST) -m "full or not full"

hardening: environment
	$(BIN)/python tests/hardening $(if $(FULL),--files 100000 --kills 1000 --runs 300,--files 1500 --kills 60 --runs 3)

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The wheel, because there the files at the top of the clone are modules of the package, as they are imported.
types: environment
	@rm -rf build/types
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index \
		--wheel-dir build/types .
	@$(BIN)/python -m zipfile --extract build/types/*.whl build/types
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy
	cd build/types && ../../$(BIN)/lint-imports --no-cache --no-logo ../../pyproject.toml

bench: environment
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script < /dev/null || exit 1; done
