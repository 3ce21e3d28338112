"""MMLU: prompts, labels and rows; and a posterior evaluated out of distribution, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.cli.main import main
from bench.data.protocol import splits_for
from bench.data.splits import DataSource, load_split
from bench.task import MalformedRow, Row, get_task

COUNTS = {"biology": 144, "chemistry": 100, "computer_science": 100, "mathematics": 100, "physics": 102}
ROW = {"question": "Which is a force?", "subject": "college_physics", "choices": ["mass", "Weight.", "time", "heat"],
       "answer": 1}  # fmt: skip
PROMPT = (
    "Select one of the choices that answers the following question: Which is a force? "
    "Choices: A. Mass. B. Weight. C. Time. D. Heat. Answer:"
)
GRID = """
methods = ["adamw", "la_kfac"]
tasks = ["notes_four"]
seeds = [1]
data_dir = "mirror"
allow_partial_data = true
[set]
steps = 2
[eval]
notes_four = ["mmlu_college_physics"]
"""


def task(subject: str) -> Any:
    return get_task(f"mmlu_college_{subject}")


@pytest.mark.parametrize("subject", COUNTS)
def test_a_row_becomes_the_prompt_of_openbookqa(subject: str) -> None:
    example = task(subject).example(Row(ROW))
    assert (example.prompt, example.label) == (PROMPT, 1)
    assert task(subject).config == f"college_{subject}"


@pytest.mark.parametrize("subject", COUNTS)
def test_a_subject_is_evaluation_only(subject: str) -> None:
    assert task(subject).rows == {"test": COUNTS[subject]}
    assert all(splits_for(protocol, task(subject)).reported == "test" for protocol in ("paper", "clean"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"choices": ["a", "b", "c"]}, "3 options"),
        ({"choices": "a, b, c, d"}, "should be a list"),
        ({"choices": ["a", " ", "c", "d"]}, r"'choices\[1\]' is empty"),
        ({"answer": 4}, "the labels are 0, 1, 2, 3"),
        ({"question": None}, "'question' is missing"),
    ],
)
def test_malformed_rows_are_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MalformedRow, match=sentence):
        task("physics").example(Row({**ROW, **changes}))


@pytest.mark.parametrize("subject", COUNTS)
def test_the_official_rows_are_read(real_data: Path, subject: str) -> None:
    split = load_split(get_task(f"mmlu_college_{subject}"), "test", DataSource(real_data))
    assert split.facts["kept"] == split.rows == COUNTS[subject]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a mirror of one subject, three rows of it."""
    file = tmp_path / "mirror/cais/mmlu/college_physics/test-00000-of-00001.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{**ROW, "answer": n} for n in range(3)]), file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_grid_evaluates_one_posterior_on_other_tasks(folder: Path) -> None:
    (folder / "g.toml").write_text(GRID)
    assert main(["grid", "g.toml"]) == 0
    assert len(list((folder / "runs/fits").glob("[0-9a-f]*"))) == 2
    specs = [json.loads(file.read_text()) for file in (folder / "runs/evals").glob("[0-9a-f]*/spec.json")]
    assert sorted((s["method"], s["data"]["task"], s["split"]) for s in specs) == [
        (method, *where)
        for method in ("adamw", "la_kfac")
        for where in (("mmlu_college_physics", "test"), ("notes_four", "validation"))
    ]


def test_a_run_evaluates_on_other_tasks_with_the_same_answers_only(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--method", "adamw", "--set", "steps=2", "--data-dir", "mirror", "--allow-partial-data"]
    assert main([*run, "--task", "notes_four", "--eval-task", "mmlu_college_physics"]) == 0
    out = capsys.readouterr().out
    assert "adamw on notes_four (validation), seed 21" in out
    assert "adamw on mmlu_college_physics (test), trained on notes_four" in out and "partial data" in out
    assert main([*run, "--task", "notes_two", "--eval-task", "mmlu_college_physics"]) == 2
    assert "cannot be evaluated on 'mmlu_college_physics', whose answers are A, B, C, D" in capsys.readouterr().err
    assert main([*run, "--task", "notes_four", "--eval-task", "mmlu_college_physic"]) == 2
    assert "Did you mean 'mmlu_college_physics'" in capsys.readouterr().err
    assert main([*run, "--task", "mmlu_college_physics"]) == 2
    assert "can only be evaluated on" in capsys.readouterr().err
