# On a machine with Python 3.11+ and make: `make demo` shows what this is; `make test` and `make test-slow` are all tests.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Dozens of processes of a test run import the suite: its compiled modules are kept, also where that is switched off.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo ablations test test-slow lint coverage bench tune docs clean

demo: $(READY)
	$(BIN)/bench demo --runs runs/demo --workers $(WORKERS) --out report
	$(BIN)/bench leaderboard --also results/small --runs runs/demo

# What the demo has no time for, in about half as much time: docs/demo.md has the table.
ablations: $(READY)
	$(BIN)/bench grid bench/grids/ablations.toml --runs runs/ablations --workers $(WORKERS)
	$(BIN)/bench report --runs runs/ablations --out report/ablations

# A file of tests stays in one process, which sets up for it once.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

# Style and types are checked while the tests run: all must pass, and what the checks say comes last.
test: $(READY)
	@($(MAKE) --no-print-directory lint && $(BIN)/mypy) > $(VENV)/checks.log 2>&1 & checks=$$!; \
	$(PYTEST) -n 2 -m "not slow"; tests=$$?; \
	wait $$checks; checks=$$?; cat $(VENV)/checks.log; \
	exit $$((tests || checks))

# The rest: each takes more than four seconds. Many wait for a cluster, a browser or processes, so a third process pays.
test-slow: $(READY)
	$(PYTEST) -n 3 -m slow

# What takes seconds: style, spelling, import contracts, dependencies.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/deptry .

# All tests with coverage of the four packages, which takes a quarter longer.
coverage: $(READY)
	$(PYTEST) -n 3 --cov --cov-report term:skip-covered

# The CPU part of docs/performance.md, in a quarter to half an hour on a quiet machine: each script writes a JSON file.
TIMED := results/cpu
bench: $(READY)
	$(BIN)/python -m tools.time_step --part train --json $(TIMED)/time_step_train.json
	$(BIN)/python -m tools.time_step --part train --dtype bfloat16 --batches 1 --rounds 2 --best --json $(TIMED)/time_step_train_bf16.json
	$(BIN)/python -m tools.time_step --part predict --prompts 48 --rounds 5 --json $(TIMED)/time_step_predict.json
	$(BIN)/python -m tools.time_loop --json $(TIMED)/time_loop.json
	$(BIN)/python -m tools.time_ivon --repeats 60 --json $(TIMED)/time_ivon.json
	$(BIN)/python -m tools.time_laplace --json $(TIMED)/time_laplace.json
	$(BIN)/python -m tools.time_curvature --json $(TIMED)/time_curvature.json
	$(BIN)/python -m tools.time_rows --steps 500 --json $(TIMED)/time_rows.json
	$(BIN)/python -m tools.time_launch --json $(TIMED)/time_launch.json
	$(BIN)/python -m tools.time_store --json $(TIMED)/time_store.json
	$(BIN)/python -m tools.time_report --methods 10 --variants 2 --json $(TIMED)/time_report.json
	$(BIN)/python -m tools.time_growth --json $(TIMED)/time_growth.json
	$(BIN)/python -m tools.write_performance

# The search whose choice the demo uses; its result is committed, so this is only needed to repeat it.
tune: $(READY)
	$(BIN)/bench tune bench/grids/demo.toml --runs runs/tune --workers $(WORKERS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	# laplace-torch asks for torchvision and never uses it; its registry build does not import beside a CPU torch
	$(BIN)/python -c "import torchvision" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $(READY)

# The documentation as a site in site/. A warning, such as a dead link, is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs/demo report site
