PYTHON ?= python3
PY = .venv/bin/python

.PHONY: setup test lint
setup: .venv/.done
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
test: setup
	$(PY) -m pytest -m 'not gpu'
lint: setup
	$(PY) -m ruff check .
	$(PY) -m mypy pipeline
