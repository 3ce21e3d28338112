"""`bench predict`: the stored evaluation's predictions, for questions from a file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support import bench, compute
from support import plan_few as plan

from bench.data.file_task import load_extension
from bench.data.splits import DataSource, load_split
from bench.method import METHODS, Method, PredictJob, register_method
from bench.metrics import mixture
from bench.run.predict import Prediction, read_questions
from bench.specs import key
from bench.store.store import Store
from bench.task import get_task

EXAMPLES = load_split(get_task("few_two"), "validation", DataSource()).examples


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for method in ("adamw", "ivon"):
        compute(plan(method), folder)
    return folder


def ask(runs: Path, prefix: str, prompts: list[str], cwd: Path, *more: str) -> list[dict[str, object]]:
    (cwd / "q.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    said = bench("predict", prefix, "--file", "q.jsonl", "--runs", str(runs), *more, cwd=cwd).stdout
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("method", ["adamw", "ivon"])
def test_questions_of_the_split_get_the_stored_predictions(method: str, runs: Path, tmp_path: Path) -> None:
    run = plan(method)
    rows = ask(runs, key(run), [example.prompt for example in EXAMPLES], tmp_path)
    stored = np.exp(mixture(Store(runs).predictions(run)["log_probs"]))
    found = np.array([list(row["probabilities"].values()) for row in rows])  # type: ignore[attr-defined]
    np.testing.assert_allclose(found, stored, atol=1e-6)
    assert [row["answer"] for row in rows] == [get_task("few_two").answers[i] for i in stored.argmax(1)]
    assert rows[0]["id"] == "q.jsonl, row 0"


def test_a_fit_predicts_with_its_own_method_and_writes_a_file(runs: Path, tmp_path: Path) -> None:
    assert ask(runs, key(plan("ivon").fit), [EXAMPLES[0].prompt], tmp_path, "--out", "a.jsonl") == []
    (row,) = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert math.isclose(sum(row["probabilities"].values()), 1, rel_tol=1e-6) and row["disagreement"] >= 0


def test_disagreement_is_the_mutual_information_of_answer_and_draw() -> None:
    opposite = np.log(np.array([[[1 - 1e-12, 1e-12]], [[1e-12, 1 - 1e-12]]]))
    (row,) = Prediction(("A", "B"), np.exp(mixture(opposite)), opposite).rows()
    assert row["disagreement"] == pytest.approx(math.log(2), abs=1e-9)
    same = np.log(np.array([[[0.7, 0.3]], [[0.7, 0.3]]]))
    (row,) = Prediction(("A", "B"), np.exp(mixture(same)), same).rows()
    assert row["disagreement"] == pytest.approx(0, abs=1e-12) and row["answer"] == "A"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("q.jsonl", "", "holds no question"),
        ("q.jsonl", '{"question": "x"}\n', "row 0: .* Write a question as a 'prompt', or as a row of 'arc_e'"),
        ("q.jsonl", '{"prompt": ""}\n', "row 0: field 'prompt' is empty"),
        ("q.jsonl", '{"prompt": 3}\n', "row 0: field 'prompt' is 3"),
        ("q.jsonl", '{"prompt": "half \\ud800 Answer:"}\n', "row 0: the prompt is not valid Unicode"),
        ("q.jsonl", "{\n", "line 1: it is not JSON"),
        ("q.txt", "hello", "has the ending '.txt'"),
    ],
)
def test_questions_that_cannot_be_read_are_named(name: str, content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        read_questions(tmp_path / name, get_task("arc_e"))


def test_rows_of_the_task_are_questions(tmp_path: Path) -> None:
    row = {"question": "What is warm?", "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]}}
    (tmp_path / "q.jsonl").write_text(json.dumps({**row, "answerKey": "B"}) + "\n")
    (question,) = read_questions(tmp_path / "q.jsonl", get_task("arc_e"))
    assert "What is warm?" in question.prompt and question.label == 1


def test_questions_of_a_task_file_need_no_label(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,team\nA bill.,x\nA link.,y\n")
    lines = (
        'prompt = "{text} {options} Answer:"',
        'label = "team"',
        'labels = ["x", "y"]',
        'options = ["One.", "Two."]',
    )
    (tmp_path / "unlabelled.toml").write_text("\n".join([*lines, "[splits]", 'validation = "train.csv"']))
    load_extension(str(tmp_path / "unlabelled.toml"))
    (tmp_path / "q.csv").write_text("text\nI was billed twice.\n")
    (question,) = read_questions(tmp_path / "q.csv", get_task("unlabelled"))
    assert question.prompt == "I was billed twice. A. One. B. Two. Answer:"


@pytest.mark.parametrize("template", ["{prompt} {options} Answer:", "{topic}: {options} {prompt} Answer:"])
def test_a_column_named_prompt_is_the_task_s_own(template: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("topic,prompt,team\nMoney,A bill.,x\nWeb,A link.,y\n")
    name = f"own_prompt_{template.index('}')}"
    lines = (f'name = "{name}"', f'prompt = "{template}"', 'label = "team"', 'labels = ["x", "y"]')
    more = ('options = ["One.", "Two."]', "[splits]", 'validation = "train.csv"')
    (tmp_path / "task.toml").write_text("\n".join([*lines, *more]))
    load_extension(str(tmp_path / "task.toml"))
    questions = read_questions(tmp_path / "train.csv", get_task(name))
    rows = load_split(get_task(name), "validation", DataSource()).examples
    assert [question.prompt for question in questions] == [example.prompt for example in rows]


def test_a_row_with_an_empty_option_is_not_taken_for_a_whole_prompt(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("prompt,a,b,team\nA bill.,x1,y1,A\nA link.,x2,y2,B\n")
    lines = (
        'name = "options_first"', 'prompt = "Options: {options} Question: {prompt} Answer:"', 'label = "team"',
        'option_columns = ["a", "b"]', "[splits]", 'validation = "train.csv"',
    )  # fmt: skip
    (tmp_path / "task.toml").write_text("\n".join(lines))
    load_extension(str(tmp_path / "task.toml"))
    (tmp_path / "q.jsonl").write_text('{"prompt": "question 1", "a": "", "b": "y1"}\n')
    with pytest.raises(ValueError, match="field 'a' is empty"):
        read_questions(tmp_path / "q.jsonl", get_task("options_first"))


def test_a_whole_prompt_beside_the_columns_of_a_task_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "Whole. Answer:", "question": "Which?"}\n')
    (question,) = read_questions(tmp_path / "q.jsonl", get_task("arc_e"))
    assert question.prompt == "Whole. Answer:"


def test_questions_that_lose_their_end_are_told(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": 400 * "word " + "Answer:"}) + "\n")
    said = bench("predict", key(plan("adamw")), "--file", "q.jsonl", "--runs", str(runs), cwd=tmp_path).stderr
    assert "1 of 1 asked prompts are longer than max_length=320" in said and "the cue for the answer" in said


@dataclass(frozen=True, kw_only=True)
class Wordless(Method):
    name, title, base = "wordless", "Wordless", "adamw"

    def predict(self, job: PredictJob) -> torch.Tensor:
        found = job.log_probs(job.posterior.mean).unsqueeze(0)
        return found if len(job.examples) > 20 else found * float("nan")


def test_what_is_no_probability_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))
    register_method(Wordless)
    run = plan("wordless")
    compute(run, tmp_path / "runs")
    (tmp_path / "q.jsonl").write_text('{"prompt": "Which? Answer:"}\n')
    said = bench("predict", key(run), "--file", "q.jsonl", "--runs", "runs", cwd=tmp_path, check=2)
    assert said.stdout == "" and "wordless predicted a probability that is zero or not a number" in said.stderr
