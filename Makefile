# Two commands do everything on a machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test coverage tune docs clean

demo: $(READY)
	$(BIN)/bench grid bench/grids/demo.toml --runs runs/demo --workers $(WORKERS)
	$(BIN)/bench leaderboard --runs runs/demo
	$(BIN)/bench report --runs runs/demo --out report

# Some tests wait for schedulers and processes, so one worker more than there are cores pays.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/mypy
	$(PYTEST)

# The same tests with coverage of the four packages, which takes a quarter longer.
coverage: $(READY)
	$(PYTEST) --cov --cov-report term:skip-covered

# The search whose choice the demo uses; its result is committed, so this is only needed to repeat it.
tune: $(READY)
	$(BIN)/bench tune bench/grids/demo.toml --runs runs/tune --workers $(WORKERS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	# laplace-torch asks for torchvision and never uses it; its registry build does not import beside a CPU torch
	$(BIN)/python -c "import torchvision" 2>/dev/null || $(BIN)/python -m pip uninstall --quiet --yes torchvision
	touch $(READY)

# The documentation as a site in site/. A warning, such as a dead link, is an error.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs/demo report site
