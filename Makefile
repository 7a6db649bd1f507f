# make demo: a picture of generated digits. make studio: a page to play with them. make test: the whole suite.
# Each makes .venv first, from nothing.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo studio test test-browser test-long check bench docs lessons clean

demo: .venv/installed
	$(BIN)/ebbflow train --preset demo --save-dir runs/demo
	$(BIN)/ebbflow sample --ckpt runs/demo --output runs/demo/digits.png
	@echo "look at runs/demo/digits.png; make studio opens a page to play with it"

# The page on what was trained: runs/demo, and whatever else lies in runs/.
studio: .venv/installed-studio
	$(BIN)/ebbflow studio runs

# In long runs of files: what a file's tests share is made in one process, not in both.
test: .venv/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long"

# The page of `ebbflow studio` in a Chromium of the system, which is installed where that may be; says why where not.
test-browser: .venv/installed-browser
	@command -v chromium chromium-browser google-chrome >/dev/null || test -n "$$CHROMIUM" || \
	  { test "$$(id -u)" = 0 && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || true
	$(BIN)/python -m pytest -rs tests/browser

test-long: .venv/installed-test
	$(BIN)/python -m pytest -m long

check: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks examples docs lessons
	$(BIN)/ruff format --check src tests benchmarks examples docs/*.py lessons/kit.py lessons/make_notebooks.py
	$(BIN)/mypy

bench: .venv/installed-test
	$(BIN)/python -m benchmarks --only limit,step,sampling,growth --threads 1
	$(BIN)/python -m benchmarks --only wall --threads 2

# The page of reference, then the whole site in English and Chinese: build/site/index.html.
docs: .venv/installed-docs
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_site.py

# The eight lessons in full, some minutes, with the pictures that the documentation shows.
lessons: .venv/installed
	for lesson in lessons/[0-9]_*.py; do LESSON_PICTURES=docs/images/lessons OMP_NUM_THREADS=1 $(BIN)/python $$lesson || exit 1; done

# CPU torch goes in first and alone, so that nothing else pulls another build of it.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

.venv/installed-studio: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[studio]'
	touch $@

.venv/installed-browser: .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[browser]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

.venv/installed-dev: .venv/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs/demo
