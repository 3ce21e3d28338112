"""A task from a TOML file and local files: its prompts, its identity, what is refused before anything is planned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mirrors import TOML, no_task_stays, tickets

from bench.data.file_task import load_extension, named_task, register_task_file
from bench.data.identity import ChangedRows, data_spec, load_planned
from bench.data.splits import DataSource, load_split
from bench.errors import BrokenPlugin
from bench.task import TASKS, Example, Row, Task, get_task, register_task


@pytest.fixture(autouse=True)
def _known_tasks_only() -> Iterator[None]:
    with no_task_stays():
        yield


def prompts(name: str, split: str = "train") -> list[tuple[str, int]]:
    return [(e.prompt, e.label) for e in load_split(get_task(name), split, DataSource()).examples]


def test_a_csv_becomes_a_task(tmp_path: Path) -> None:
    assert register_task_file(tickets(tmp_path)) == "tickets"
    task = get_task("tickets")
    assert (task.name, task.title, task.answers, dict(task.rows)) == (
        "tickets", "tickets", ("A", "B"), {"train": 6, "validation": 4},
    )  # fmt: skip
    assert prompts("tickets")[1] == ("Which team? train 1 Choices: A. Billing. B. Login. Answer:", 1)


def test_options_may_be_columns_or_a_list_and_labels_numbers(tmp_path: Path) -> None:
    rows = [
        {"q": f"Q{n}", "a": "one", "b": f"two{n}", "c": 3, "all": ["one", f"two{n}", 3], "right": n} for n in range(3)
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(
        pa.Table.from_pylist([{**row, "all": list(map(str, row["all"]))} for row in rows]), tmp_path / "test.parquet"
    )
    common = 'prompt = "{q} {options} Answer:"\nlabel = "right"\nlabels = [0, 1, 2]\n'
    (tmp_path / "one.toml").write_text(common + 'option_columns = ["a", "b", "c"]\n[splits]\ntest = "test.jsonl"\n')
    (tmp_path / "two.toml").write_text(common + 'options_column = "all"\n[splits]\ntest = "test.parquet"\n')
    for file in ("one", "two"):
        register_task_file(tmp_path / f"{file}.toml")
        assert prompts(file, "test") == [(f"Q{n} A. one B. two{n} C. 3 Answer:", n) for n in range(3)]


def test_answers_may_be_words_and_braces_be_written(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("question,options\nis it,none\nis it not,none\n".replace("none", "True"))
    (tmp_path / "yes.toml").write_text(
        'prompt = "{{q}} {question}?"\nlabel = "options"\nanswers = ["False", "True"]\n[splits]\nvalidation = "v.csv"\n'
    )
    register_task_file(tmp_path / "yes.toml")
    assert prompts("yes", "validation") == [("{q} is it?", 1), ("{q} is it not?", 1)]


def test_the_same_as_a_class(tmp_path: Path) -> None:
    register_task_file(tickets(tmp_path))

    @register_task
    class Tickets(Task):
        name, title = "tickets_class", "Tickets"
        source, revision, licence = "local files", "1", "CC0"
        answers = ("A", "B")
        rows = {"train": 6, "validation": 4}
        files = {split: tmp_path / f"{split}.csv" for split in rows}

        def example(self, row: Row) -> Example:
            prompt = f"Which team? {row.text('text')} Choices: A. Billing. B. Login. Answer:"
            return Example(prompt, row.position("team", ("billing", "login")))

    assert prompts("tickets_class") == prompts("tickets")
    assert "+rows:" in data_spec(get_task("tickets_class"), DataSource()).revision


# --- identity ---------------------------------------------------------------------------------------------------------


def revision(file: Path) -> str:
    return data_spec(get_task(register_task_file(file)), DataSource()).revision


def test_the_identity_is_of_prompts_labels_and_answers_wherever_the_files_lie(tmp_path: Path) -> None:
    plain = revision(tickets(tmp_path / "a"))
    moved = tickets(tmp_path / "b")
    TASKS._classes.pop("tickets")
    assert revision(moved) == plain
    seen = {plain}
    for change in (
        ("Which team?", "Which of them?"),
        ("Billing.", "Bills."),
        ('["billing", "login"]', '["login", "billing"]'),
        ("labels", 'answers = ["x", "y"]\nlabels'),
    ):
        seen.add(revision(tickets(tmp_path / "b", TOML.replace(*change))))
    assert len(seen) == 5
    assert revision(tickets(tmp_path / "b", rows=7)) not in seen


def test_an_edited_file_is_other_data_and_refused_where_the_old_was_planned(tmp_path: Path) -> None:
    file = tickets(tmp_path)
    register_task_file(file)
    planned = data_spec(get_task("tickets"), DataSource())
    (tmp_path / "train.csv").write_text(
        (tmp_path / "train.csv").read_text().replace("train 3,login", "train 3,billing")
    )
    with pytest.raises(ChangedRows, match="The rows of 'tickets' are not those that this run was planned with"):
        load_planned(planned, "train", get_task("tickets"), DataSource())
    register_task_file(file)
    assert data_spec(get_task("tickets"), DataSource()) != planned


def test_what_is_tuned_on_and_what_is_reported_may_be_one_file(tmp_path: Path) -> None:
    text = TOML.replace("[splits]", '[splits]\ntest = "validation.csv"').replace(
        'name = "tickets"', 'name = "one_file"'
    )
    assert get_task(register_task_file(tickets(tmp_path, text))).rows.keys() == {"train", "validation", "test"}


def test_two_files_may_not_name_one_task(tmp_path: Path) -> None:
    register_task_file(tickets(tmp_path / "a"))
    with pytest.raises(BrokenPlugin, match=r"Two tasks are named 'tickets': .*a/tickets.toml and .*b/tickets.toml"):
        register_task_file(tickets(tmp_path / "b"))
    with pytest.raises(BrokenPlugin, match="Two tasks are named 'obqa'"):
        register_task_file(tickets(tmp_path / "c", name="obqa.toml"))


def test_a_task_is_named_by_its_file_from_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tickets(tmp_path / "here")
    assert named_task("obqa") == ("obqa", ())
    assert named_task("here/tickets.toml", tmp_path) == ("tickets", (str(file),))
    assert load_extension("tickets.toml", tmp_path / "here") == str(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert named_task("~/here/tickets.toml") == ("tickets", (str(file),))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("label =", "lable ="), "tickets.toml has no key 'lable'. Did you mean 'label'"),
        (('label = "team"\n', ""), "tickets.toml has no `label`"),
        (('label = "team"', 'label = "tema"'), "train.csv has no column 'tema'. Did you mean 'team'"),
        (("{text}", "{txt}"), "train.csv has no column 'txt'. Did you mean 'text'"),
        (("{text}", "{text!r}"), "with nothing else in the braces"),
        (("{text}", "{text.__class__}"), "has no column 'text.__class__'"),
        (("{text}", "{}"), "with nothing else in the braces"),
        (("{text}", "{text"), "prompt has unmatched braces"),
        (("{text} Choices: {options}", "x"), "prompt names no column"),
        ((" Choices: {options}", ""), "prompt does not show the options"),
        (('["Billing.", "Login."]', '["Billing."]'), "options has 1 entries, and there are 2 answers"),
        (('["billing", "login"]', '["billing", "billing"]'), "labels is .*: its entries must differ"),
        (
            ('["billing", "login"]', '["billing", "logins"]'),
            "train.csv, row 1: field 'team' is 'login': the labels are",
        ),
        (('["billing", "login"]', "3"), "labels is 3: write a list of texts"),
        (("options = ", 'options_column = "text"\noptions = '), "states its options twice"),
        (('options = ["Billing.", "Login."]', 'answers = ["A"]'), "fewer than two answers"),
        (("[splits]", "version = true\n[splits]"), "version is True"),
        (("[splits]", 'name = "My Task"\n[splits]'), "the name 'My Task' is not lower-case letters"),
        (("validation =", "dev ="), r"\[splits\] has no split 'dev'"),
        (('validation = "validation.csv"', ""), "nothing to report: add validation or test"),
        (("validation.csv", "validation.xlsx"), "name a .csv, .tsv, .jsonl, .parquet file"),
        (("validation.csv", "other.csv"), "There is no file .*other.csv"),
        (("validation.csv", "./train.csv"), "splits.train and splits.validation are one file: nothing unseen"),
        (("[splits]", "[split]"), "has no key 'split'. Did you mean 'splits'"),
        (("prompt =", "prompt = ="), "tickets.toml cannot be read as TOML"),
    ],
)
def test_what_is_wrong_with_a_description_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises((ValueError, LookupError, FileNotFoundError), match=said):
        register_task_file(tickets(tmp_path, TOML.replace(*change)))
    assert "tickets" not in TASKS._classes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (",login", "row 6: field 'text' is empty"),
        ("x,", "row 6: field 'team' is '': the labels are billing, login"),
        ("x", "line 8: it has 1 fields"),
    ],
)
def test_a_malformed_row_is_named_before_anything_is_planned(tmp_path: Path, line: str, said: str) -> None:
    file = tickets(tmp_path)
    (tmp_path / "train.csv").write_text((tmp_path / "train.csv").read_text() + line + "\n")
    with pytest.raises(ValueError, match=rf"train\.csv, {said}"):
        register_task_file(file)


def test_byte_order_marks_are_skipped(tmp_path: Path) -> None:
    file = tickets(tmp_path)
    plain: Any = revision(file)
    for name in ("tickets.toml", "train.csv", "validation.csv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    assert revision(file) == plain


def test_a_file_without_rows_and_a_missing_description_are_named(tmp_path: Path) -> None:
    file = tickets(tmp_path)
    (tmp_path / "train.csv").write_text("text,team\n")
    with pytest.raises(ValueError, match=r"train\.csv has no rows"):
        register_task_file(file)
    with pytest.raises(FileNotFoundError, match=r"There is no task file .*no\.toml"):
        register_task_file(tmp_path / "no.toml")
