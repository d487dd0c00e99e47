PYTHON ?= python3
PY = .venv/bin/python

USUAL = not gpu and not chaos and not training and not rehearsal and not docs and not schedulers and not image and not year
IMAGE ?= localhost/label:0.1.0

.PHONY: setup demo test slow docs rehearsal chaos year training schedulers image lint bench bench-gpu
setup: .venv/.done
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@
demo: setup
	$(PY) jobs/demo.py $(if $(WEIGHTS),--weights $(WEIGHTS))
test: setup
	$(PY) -m pytest -n 2 --dist worksteal -m 'not slow and $(USUAL)'
slow: setup
	$(PY) -m pytest -n 2 --dist worksteal -m 'slow and $(USUAL)'
docs: setup
	$(PY) -m pytest -n 2 --dist worksteal -m 'docs and not training'
rehearsal: setup
	$(PY) -m pytest tests/test_rehearsal.py -s
chaos: setup
	$(PY) -m pytest -m 'chaos and not rehearsal' -s
year: setup
	$(PY) -m pytest -m year -s
training: setup
	$(PY) -m pytest -m training -s
schedulers: .venv/.schedulers
	$(PY) -m pytest -m schedulers -s
.venv/.schedulers: .venv/.done tests/schedulers/airflow.txt tests/schedulers/dagster.txt tests/schedulers/sky.txt
	for name in airflow dagster sky; do \
	  $(PYTHON) -m venv .venv/$$name && .venv/$$name/bin/pip install -q -r tests/schedulers/$$name.txt || exit 1; done
	touch $@
image:
	cluster/build_image.sh $(IMAGE) $(ARGS)
lint: setup
	$(PY) -m ruff check .
	$(PY) -m mypy pipeline jobs
	.venv/bin/lint-imports
bench: .venv/.bench
	$(PY) jobs/bench.py --repeats 3 $(if $(PHOTOS),--photos $(PHOTOS))
bench-gpu: setup
	$(PY) jobs/bench.py gpu --repeats 3 $(if $(PHOTOS),--photos $(PHOTOS))
.venv/.bench: .venv/.done
	$(PY) -m pip install -q -c constraints.txt -e '.[bench]'
	$(PY) -m pip install -q --no-deps daft==0.7.26  # it asks for an older pyarrow, and runs with ours
	touch $@
