"""A task from local files through the command line: run, grid, evaluation on another task, a worker elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mirrors import TOML, no_task_stays, tickets
from support import bench

from bench.task import TASKS

GRID = """
methods = ["adamw", "mc_dropout"]
tasks = ["../data/tickets.toml"]
seeds = [1]
[set]
steps = 2
per_task.tickets.max_length = 64
[eval]
tickets = ["../other/reversed.toml", "notes_two"]
"""


@pytest.fixture(autouse=True)
def _known_tasks_only() -> Iterator[None]:
    with no_task_stays():
        yield


def specs(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((runs / "evals").glob("[0-9a-f]*/spec.json"))]


def test_a_run_on_a_task_file(tmp_path: Path) -> None:
    tickets(tmp_path / "data")
    run = ("run", "--method", "adamw", "--task", "data/tickets.toml", "--set", "steps=2")
    assert "adamw on tickets (validation), seed 21" in bench(*run, cwd=tmp_path).stdout
    (tmp_path / "data/train.csv").write_text((tmp_path / "data/train.csv").read_text() + "more,login\n")
    bench(*run, cwd=tmp_path)
    assert len({spec["data"]["revision"] for spec in specs(tmp_path / "runs")}) == 2


def test_a_grid_names_task_files_from_its_own_folder(tmp_path: Path) -> None:
    tickets(tmp_path / "data")
    tickets(tmp_path / "other", TOML.replace('["billing", "login"]', '["login", "billing"]'), name="reversed.toml")
    (tmp_path / "grids").mkdir()
    (tmp_path / "grids/g.toml").write_text(GRID)
    bench("grid", "grids/g.toml", cwd=tmp_path)
    found = {(s["method"], s["fit"]["data"]["task"], s["data"]["task"]) for s in specs(tmp_path / "runs")}
    assert found == {(m, "tickets", t) for m in ("adamw", "mc_dropout") for t in ("tickets", "reversed", "notes_two")}
    assert {s["fit"]["train"]["max_length"] for s in specs(tmp_path / "runs")} == {64}


def test_a_worker_in_another_folder_finds_the_task(tmp_path: Path) -> None:
    tickets(tmp_path / "data")
    (tmp_path / "g.toml").write_text('methods = ["zero_shot"]\ntasks = ["data/tickets.toml"]\nseeds = [1]\n')
    bench("grid", "g.toml", "--launcher", "print", cwd=tmp_path)
    (file,) = (tmp_path / "runs/submissions").glob("*/families.jsonl")
    del TASKS._classes["tickets"]
    (tmp_path / "elsewhere").mkdir()
    bench("family", str(file), "--item", "0", cwd=tmp_path / "elsewhere")
    assert len(specs(tmp_path / "runs")) == 1


def test_a_task_file_is_listed(tmp_path: Path) -> None:
    tickets(tmp_path)
    said = bench("list", "tasks", "--plugin", "tickets.toml", cwd=tmp_path).stdout
    assert "tickets  -  tickets\n    local files @ file:" in said and "rows: train 6, validation 4" in said


@pytest.mark.parametrize("where", ["--task", "grid"])
def test_what_is_wrong_with_a_task_file_is_one_sentence(tmp_path: Path, where: str) -> None:
    tickets(tmp_path, TOML.replace('"team"', '"tema"'))
    (tmp_path / "g.toml").write_text('methods = ["zero_shot"]\ntasks = ["tickets.toml"]\nseeds = [1]\n')
    command = ("run", "--method", "zero_shot", "--task", "tickets.toml") if where == "--task" else ("grid", "g.toml")
    said = bench(*command, cwd=tmp_path, check=2).stderr
    assert said.count("\n") == 1 and "train.csv has no column 'tema'. Did you mean 'team'?" in said
    assert not (tmp_path / "runs").exists()
