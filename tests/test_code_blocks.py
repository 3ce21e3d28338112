"""The documentation's code runs, its commands parse, its grids are read, and its tables are those of the records."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
import shlex
import shutil
import sys
import tarfile
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pytest
import typer
from support import plan
from tiny import FAMILIES
from typer.exceptions import TyperException

from bench.cli.main import app
from bench.data.file_task import register_task_file
from bench.launch.launcher import get_launcher, launcher_names
from bench.method import METHODS
from bench.plan.grid import read_grid
from bench.plan.grid_file import read_grid_file
from bench.specs.toml import parse_toml
from bench.task import TASKS, Row, get_task

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "results" / "README.md"]
BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
PROGRAMS = {"hf", "pre-commit", "pip", "cd", ".", "git", "python", "cp", "mkdir", "du", "export"}  # not ours


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    number: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def read(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text[: found.start()].count("\n") + 1, found["language"], _dedented(found["text"], found["indent"]))
        for found in BLOCK.finditer(text)
    ]


def _dedented(text: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


BLOCKS = [block for page in PAGES for block in read(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
TOML = [block for block in BLOCKS if block.language == "toml"]
COMMANDS = [
    (block, line)
    for block in BLOCKS
    if block.language in ("", "bash", "sh", "console")
    for line in block.text.replace("\\\n", " ").splitlines()
    if re.match(r"(bench|make|pytest|hf|pip|git|python|pre-commit|cd|\.) ", line)
]


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page registers is forgotten."""
    for registry in (METHODS, TASKS):
        registry.names()
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    yield


def test_the_pages_have_code_of_each_kind() -> None:
    assert len(PYTHON) >= 5 and len(TOML) >= 4 and len(COMMANDS) >= 30
    unknown = {block.language for block in BLOCKS} - {"", "bash", "python", "toml", "csv", "mermaid", "json", "text"}
    assert not unknown, f"no test reads blocks of {unknown}"


# --- python -----------------------------------------------------------------------------------------------------------


def files_of(page: Path, folder: Path) -> None:
    """What a page's code reads: the files that the page shows, or a store of results."""
    shown = {block.language: block.text for block in read(page)}
    if "csv" in shown:
        (folder / "tickets").mkdir()
        for split in ("train", "validation"):
            (folder / "tickets" / f"{split}.csv").write_text(shown["csv"])
        (folder / "tickets" / "tickets.toml").write_text(shown["toml"])
    if any("load_results" in block.text for block in read(page)):
        with tarfile.open(ROOT / "tests" / "fixtures" / "earlier_store" / "runs.tar.xz") as archive:
            archive.extractall(folder, filter="data")


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("agg")
    files_of(block.page, tmp_path)
    module = types.ModuleType("a_page")
    monkeypatch.setitem(sys.modules, "a_page", module)  # where dataclasses look up annotations
    names = vars(module)
    with contextlib.chdir(tmp_path):
        exec(compile(block.text, block.name, "exec"), names)
        if "Blended" in names:
            assert plan("blended").options == {"weight": 0.1}
        if "MyTask" in names:
            row = {"question": "Which?", "choices": {"text": list("vwxyz")}, "answer": "C"}
            assert get_task("my_task").example(Row(row)).label == 2  # type: ignore[union-attr]
        if "found" in names:
            assert names["found"].probabilities.shape == (2, 2)


# --- toml -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.name)
def test_toml_is_what_it_is_shown_as(block: Block, tmp_path: Path) -> None:
    table = parse_toml(block.text)
    if "prompt" in table:
        files_of(block.page, tmp_path)
        assert register_task_file(tmp_path / "tickets" / "tickets.toml") == "tickets"
    elif "methods" in table:
        (tmp_path / "my.toml").write_text(block.text)
        if "adapter" in table.get("model", {}):
            read_grid_file(tmp_path / "my.toml", launcher_names())
        else:
            grid = read_grid(tmp_path / "my.toml", model={"id": "embedded"})
            assert grid.methods == tuple(table["methods"])
    else:
        for name, inner in table.items():
            get_launcher(name).check(inner)


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=[f"{block.name} {line[:40]}" for block, line in COMMANDS])
def test_a_command_is_one(block: Block, line: str) -> None:
    line = re.sub(r"\[[^]]*\]", "", line)  # optional parts
    program, *words = shlex.split(line.partition(" | ")[0].split("&&")[0], comments=True)
    if program == "make":
        targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= {*targets, ".venv/.ready"}
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in words if "/" in word and not word.startswith("-"))
    elif program == "bench":
        entry = typer.main.get_command(app)
        with entry.make_context("bench", words, obj={}) as context:
            name, command, rest = entry.resolve_command(context, context._protected_args + context.args)
            try:
                command.make_context(name, rest, parent=context)
            except TyperException as error:
                pytest.fail(f"{block.name}: {line}: {error.format_message()}")
    else:
        assert program in PROGRAMS or shutil.which(program)


# --- tables -----------------------------------------------------------------------------------------------------------

METRICS = {  # column of a table: metric of the leaderboard, scale, digits
    "Accuracy (%) ↑": ("accuracy", 100, 1),
    "ECE × 100 ↓": ("ece", 100, 1),
    "NLL (nats) ↓": ("nll", 1, 3),
    "NLL over Bayes-optimal (nats) ↓": ("excess_nll", 1, 3),
}
VARIANTS = ("long", "tuned")
MARKS = {"better": "▲", "worse": "▼"}


def rounded(cells: Sequence[str], values: Sequence[float], digits: int) -> bool:
    """Whether texts are numbers rounded to some digits; the leaderboard's own six are allowed for."""
    half = 0.5 * 10**-digits + 2e-4 * (digits == 1) + 1e-6
    return all(
        len(cell.partition(".")[2]) == digits and abs(float(cell) - value) <= half
        for cell, value in zip(cells, values, strict=True)
    )


def csv_rows(name: str, variant: str) -> list[dict[str, str]]:
    """The rows of a committed CSV file about a variant of the demo, with the titles of methods, as tables have them."""
    with (ROOT / name).open() as stream:
        rows = [row for row in csv.DictReader(stream) if (row["model"], row["variant"]) == ("embedded", variant)]
    return [{**row, "method": METHODS.get(row["method"]).title} for row in rows]


def leaderboard(variant: str, metric: str) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of a variant and metric by (method, task)."""
    found = csv_rows("leaderboard.csv", variant)
    return {(row["method"], row["task"]): row for row in found if row["metric"] == metric}


def marks(variant: str, metric: str) -> dict[tuple[str, str], str]:
    """The significant differences by (method, task); those of the excess NLL are those of the NLL."""
    judged = "nll" if metric == "excess_nll" else metric
    found = csv_rows("results/demo/variants.csv", variant)
    return {(r["method"], r["task"]): MARKS.get(r["verdict"], "") for r in found if r["metric"] == judged}


def table_of(page: Path, corner: str) -> tuple[list[str], dict[str, list[str]]]:
    """The columns and rows of the one table of a page whose first cell begins with ``corner``."""
    lines = page.read_text().splitlines()
    (start,) = (place for place, line in enumerate(lines) if line.startswith(f"| {corner}"))
    cells = [
        [cell.replace("*", "").strip() for cell in line.strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    ]
    return cells[0][1:], {name: rest for name, *rest in cells[2:]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_readmes_averages_are_those_of_the_leaderboard(variant: str) -> None:
    columns, rows = table_of(ROOT / "README.md", f"`{variant}`, 5 seeds: average of 3 tasks")
    assert columns == list(METRICS) and rows.keys() == {name for name, _ in leaderboard(variant, "nll")}
    for (metric, scale, digits), place in zip(METRICS.values(), itertools.count()):
        known, shown = leaderboard(variant, metric), marks(variant, metric)
        for method, cells in rows.items():
            means = [scale * float(one["mean"]) for (name, _), one in known.items() if name == method]
            number, _, mark = cells[place].partition(" ")
            assert len(means) == 3 and rounded([number], [sum(means) / 3], digits), (method, metric, number, means)
            assert mark == "".join(sorted(one for (name, _), one in shown.items() if name == method)), (method, metric)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("heading", METRICS)
def test_the_demos_tables_are_those_of_the_leaderboard(heading: str, variant: str) -> None:
    metric, scale, digits = METRICS[heading]
    known, shown = leaderboard(variant, metric), marks(variant, metric)
    intervals = {(row["method"], row["task"]): row for row in csv_rows("results/demo/optimum.csv", variant)}
    (*tasks, last), rows = table_of(ROOT / "docs" / "demo.md", f"`{variant}`: {heading}")
    assert last == "average" and len(tasks) == 3 and rows.keys() == {name for name, _ in known}
    for method, cells in rows.items():
        means = []
        for task, cell in zip(tasks, cells, strict=False):
            row, gap = known[method, task], intervals[method, task]
            names = ("low", "high") if metric == "excess_nll" else ("sem",)
            values = [scale * float({**row, **gap}[name]) for name in ("mean", *names)]
            numbers, mark = re.findall(r"-?\d+\.\d+", cell), cell[-1] if cell[-1] in MARKS.values() else ""
            assert rounded(numbers, values, digits), (method, task, cell, values)
            assert mark == shown.get((method, task), ""), (method, task, cell)
            means.append(values[0])
        assert rounded([cells[-1].partition(" ")[0]], [sum(means) / len(means)], digits), (method, cells[-1], means)


@pytest.mark.parametrize("heading", METRICS)
def test_the_ablations_are_those_of_their_table(heading: str) -> None:
    metric, scale, digits = METRICS[heading]
    text = (ROOT / "docs" / "demo.md").read_text().partition("<!-- demo: ablations -->")[2].partition("<!-- /demo")[0]
    header, _, *lines = ([c.strip() for c in line.strip("|").split("|")] for line in text.strip().splitlines())
    assert len(lines) >= 15
    for variant, method, seeds, *cells in lines:
        rows = [
            r for r in csv_rows("results/demo/ablations.csv", variant) if (r["method"], r["metric"]) == (method, metric)
        ]
        mean = sum(scale * float(row["mean"]) for row in rows) / len(rows)
        assert len(rows) == 3 and rounded([cells[header.index(heading) - 3]], [mean], digits), (variant, method)
        assert {row["n_seeds"] for row in rows} == {seeds}


def test_the_table_of_families_is_the_one_that_is_tested() -> None:
    """tests/bench/model/test_choice_model.py makes a tiny model of each."""
    text = (ROOT / "docs" / "own_model.md").read_text()
    rows = dict(re.findall(r"^\| [^|]+ \| `(\w+)` \| (`\w+`[^|]*) \|$", text, re.MULTILINE))
    asked = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "mistral", "phi", "gpt2", "opt", "gpt_neox"]
    assert set(asked) <= rows.keys()
    for name, targets in rows.items():
        assert tuple(re.findall(r"`(\w+)`", targets)) == FAMILIES[name][1], name
