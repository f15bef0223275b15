# make demo   install into .venv and run the main job on generated videos
# make test   install what the tests need and run them all
# make test-torch TORCH=2.11.0   the tests with another version of PyTorch, in .venv-torch: the oldest, the newest
# make test-cuda  the tests that need a GPU; fails where there is none
# make soak   the long tests of reliability: kills and mutants; about half an hour
# make lint   ruff and mypy
# make bench  every figure of docs/performance.md, measured here, on a machine with nothing else to do
# make docs   build the documentation into site/, strictly; site/index.html opens from disk
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-torch test-cuda soak lint bench docs chromium
demo: .venv/installed
	$(BIN)/atfr quickstart

test: .venv/installed-test chromium
	$(BIN)/python -m pytest

TORCH ?= 2.11.0
test-torch: chromium
	rm -rf .venv-torch && $(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet torch==$(TORCH) --editable '.[test]'
	.venv-torch/bin/python -m pytest

test-cuda: .venv/installed-test
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no CUDA device here")'
	$(BIN)/python -m pytest -n 0 -m cuda
	$(BIN)/python -m pytest -n 0 tests/kernels/test_ragged_depthwise.py

soak: .venv/installed-test
	$(BIN)/python -m pytest -m soak

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-bench
	$(BIN)/python benchmarks/page.py

docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# the tests of the page need a browser: where there is none they skip, and where CI is set they fail
CHROMIUM := chromium chromium-driver
chromium:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $(CHROMIUM) for the tests of the page"; \
		{ apt-get -qq update && apt-get -qq install --yes --no-install-recommends $(CHROMIUM); } >/dev/null && exit 0; \
	fi; \
	echo "no browser, which the tests of the page need; on Debian: apt install $(CHROMIUM)"; [ -z "$$CI" ]

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "atfr needs Python 3.11 or newer, got $$($(PYTHON) --version); name one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[pretrained]'
	@touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

.venv/installed-bench: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@
