# Both targets start from nothing: git, Python >= 3.11 and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= results/runs/demo
# uv installs in a part of the time; where it fails, or is not there, pip does it.
install = { command -v uv >/dev/null && uv pip install --quiet --python $(BIN)/python --constraint constraints.txt \
	--editable $(1) 2>/dev/null; } || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable $(1)

.PHONY: run test slow check docs bench fuzz gpu clean

# Measure the trained demo models of the first seven families and write the report.
run: $(VENV)/.installed
	$(BIN)/arvbench run demo --out $(OUT)
	@echo "Models of the other families: $(BIN)/arvbench run demo-all"

# All tests but the slow ones, offline, in two processes: each file runs in one of them, those that take long first, so
# that both end together. The slowest end the summary.
test: $(VENV)/.tested
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=20

# The tests that `make test` leaves out; CONTRIBUTING says when.
slow: $(VENV)/.tested
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow --durations=20

# Linters and types; CI runs this too.
check: $(VENV)/.developed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/ as a site in build/site, which needs no network to be read. Links and anchors are checked.
docs: $(VENV)/.documented
	$(BIN)/mkdocs build --strict --quiet

# Readers against 10,000 generated inputs each; the tests try few of them.
fuzz: $(VENV)/.tested
	$(BIN)/python -m pytest -q -m fuzz --hypothesis-profile fuzz

# Speed beside peers measured in the same run; one table at the end.
bench: $(VENV)/.tested
	mkdir -p build
	$(BIN)/python -m pytest tests/bench -q --benchmark-enable --benchmark-only --benchmark-json=build/bench.json
	$(BIN)/python tests/support/bench_table.py build/bench.json

# All that only a GPU can show, in 9 minutes, with the Python that is there: no network and no virtual environment.
# WHEELS=DIR has wheels of what it lacks, UPSTREAM=DIR checkouts of official repositories; DRY=1 rehearses on a CPU.
gpu: GPU_OUT ?= build/gpu
gpu:
	mkdir -p $(GPU_OUT)
	[ -z "$(WHEELS)" ] || $(PYTHON) -m pip install --quiet --no-index --no-deps --upgrade --target build/wheels $(WHEELS)/*.whl
	PYTHONPATH=src:build/wheels $(PYTHON) -P -m arvbench.harness.gpu --out $(GPU_OUT) \
		$(if $(UPSTREAM),--upstream $(UPSTREAM)) $(if $(DRY),--dry)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

# An installation is remade when what it was made from changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(call install,.)
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(call install,'.[test]')
	touch $@

$(VENV)/.developed: $(VENV)/.tested
	$(call install,'.[dev]')
	touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(call install,'.[docs]')
	touch $@
