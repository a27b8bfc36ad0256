# `make` alone lists what there is. Everything works on a fresh clone; what is built already is not built again.
PYTHON ?= python3
DATA ?= data
PORT ?= 8000
HOST ?= 127.0.0.1
SUITE ?=
ROW ?=
SECONDS ?= 300
EXAMPLES ?= 1000
BIN := .venv/bin
UV_COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: help run build test torture fuzz fuzz-api api-release lint format bench lock clean

help:
	@echo "make run      build what is missing and start WebMACS (PORT=8000 HOST=127.0.0.1 DATA=data)"
	@echo "make test     every test; parts by SUITE=rust, frontend, e2e, controller or a folder of tests/"
	@echo "make torture  every fault at its full count, for hours; one by ROW=n; docs/proof.md is made of the results"
	@echo "make fuzz     search for messages that break the native core, for SECONDS=300; needs a nightly Rust"
	@echo "make fuzz-api EXAMPLES=1000 odd requests for each address of the API, as administrator and as viewer"
	@echo "make lint     formatting, lint and types of Python, Rust and TypeScript"
	@echo "make format   write the formatting"
	@echo "make bench    measurements (SUITE=core, ingest, fanout, history, rest or start)"
	@echo "make build    wheels of both distributions in dist/"
	@echo "make lock     resolve requirements/*.txt anew"
	@echo "make api-release  write docs/api/openapi-v1.json, which later forms of the API are held against"
	@echo "make clean    remove what was built; data stays"

run:
	@$(PYTHON) tools/build.py run
	@exec $(BIN)/webmacs up --host $(HOST) --port $(PORT) --data $(DATA)

test:
	@$(PYTHON) tools/build.py test
	@$(BIN)/python tools/suites.py test $(SUITE)

torture:
	@$(PYTHON) tools/build.py test
	@$(BIN)/python tools/suites.py torture $(ROW)

fuzz:
	@$(PYTHON) tools/build.py test
	@$(BIN)/python tools/suites.py fuzz $(SECONDS)

fuzz-api:
	@$(PYTHON) tools/build.py test
	@WEBMACS_TEST_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q -s tests/http/test_fuzz.py

lint:
	@$(PYTHON) tools/build.py test
	@$(BIN)/python tools/suites.py lint $(SUITE)

format:
	@$(PYTHON) tools/build.py test
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@cargo fmt --manifest-path ingest_core/Cargo.toml

bench:
	@$(PYTHON) tools/build.py test
	@$(BIN)/python -m bench $(SUITE)

build:
	@$(PYTHON) tools/build.py wheels

lock:
	@$(PYTHON) tools/build.py test
	@$(BIN)/pip install --quiet uv==0.13.9
	$(UV_COMPILE) --no-emit-package webmacs-controller pyproject.toml -o requirements/run.txt
	$(UV_COMPILE) --no-emit-package webmacs-controller pyproject.toml --group test -c requirements/run.txt -o requirements/test.txt
	$(UV_COMPILE) controller/pyproject.toml --extra revpi -o requirements/revpi.txt
	for set in build node bench; do $(UV_COMPILE) --group pyproject.toml:$$set -o requirements/$$set.txt; done

api-release:
	@$(PYTHON) tools/build.py test
	@$(BIN)/python tools/api_release.py

clean:
	rm -rf .venv .node dist build frontend/node_modules ingest_core/target webmacs/static webmacs/*.so
	find . -name __pycache__ -not -path './frontend/*' -prune -exec rm -rf {} +
