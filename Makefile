# make demo: a picture of generated digits. make test: the whole suite. Both make .venv first, from nothing.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test test-browser test-long check bench docs clean

demo: .venv/installed
	$(BIN)/ebbflow train --preset demo --save-dir runs/demo
	$(BIN)/ebbflow sample --ckpt runs/demo --output runs/demo/digits.png
	@echo 'see it: runs/demo/digits.png. Play with it: $(BIN)/python -m pip install -c constraints.txt -e ".[studio]" && $(BIN)/ebbflow studio runs'

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 -m "not long"

# The page of `ebbflow studio` in a Chromium of the system; says why where there is none.
test-browser: .venv/installed-browser
	$(BIN)/python -m pytest -rs tests/browser

test-long: .venv/installed-test
	$(BIN)/python -m pytest -m long

check: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs/make_reference.py
	$(BIN)/mypy

bench: .venv/installed-test
	$(BIN)/python -m benchmarks --only limit,step,sampling,growth --threads 1
	$(BIN)/python -m benchmarks --only wall --threads 2

docs: .venv/installed
	$(BIN)/python docs/make_reference.py

# CPU torch goes in first and alone, so that nothing else pulls another build of it.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.venv/installed-browser: .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	touch $@

.venv/installed-dev: .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs/demo
