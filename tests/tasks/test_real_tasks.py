"""The six real tasks: their prompts, word for word, what they refuse, and the rows of the official splits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data.identity import data_spec
from bench.data.splits import DataSource, load_split
from bench.task import MalformedRow, Row, get_task, task_names

ABCD = ["A", "B", "C", "D"]
TASKS = ("wg_s", "wg_m", "arc_c", "arc_e", "obqa", "boolq")
MMLU = tuple(name for name in task_names() if name.startswith("mmlu_"))
MULTIPLE_CHOICE = ("arc_c", "arc_e", "obqa")


def winogrande(**changes: Any) -> dict[str, Any]:
    row = {
        "sentence": "Ann thanked Bea because _ had helped.",
        "option1": "Ann",
        "option2": "Bea",
        "answer": "2",
    }
    return changed(row, changes)


def arc(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "Q1",
        "question": "Which one is a gas?",
        "choices": {"text": ["ice", "Steam.", "warm water", "snow"], "label": ABCD},
        "answerKey": "B",
    }
    return changed(row, changes)


def openbookqa(**changes: Any) -> dict[str, Any]:
    row = {
        "id": "7-1",
        "question_stem": "A plant needs",
        "choices": {"text": ["light", "Gold.", "salt water", "a car"], "label": ABCD},
        "answerKey": "A",
    }
    return changed(row, changes)


def boolq(**changes: Any) -> dict[str, Any]:
    row = {
        "question": "is ice lighter than water",
        "passage": "Ice -- Ice floats on water. It is less dense.",
        "idx": 0,
        "label": 1,
    }
    return changed(row, changes)


def changed(row: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The row with fields replaced; ``...`` removes one."""
    return {name: value for name, value in {**row, **changes}.items() if value is not ...}


MAKE: dict[str, Callable[..., dict[str, Any]]] = {
    "wg_s": winogrande, "wg_m": winogrande, "arc_c": arc, "arc_e": arc, "obqa": openbookqa, "boolq": boolq,
}  # fmt: skip

WINOGRANDE_PROMPT = (
    "Select one of the choices that answers the following question: Ann thanked Bea because _ had helped. "
    "Choices: A. Ann. B Bea. Answer:"
)
ARC_PROMPT = (
    "Select one of the choices that answers the following question: Which one is a gas? "
    "Choices: A. Ice. B. Steam. C. Warm water. D. Snow. Answer:"
)
OPENBOOKQA_PROMPT = (
    "Select one of the choices that answers the following question: A plant needs "
    "Choices: A. Light. B. Gold. C. Salt water. D. A car. Answer:"
)
BOOLQ_PROMPT = (
    "Answer the question with only True or False: is ice lighter than water "
    "Context: Ice -- Ice floats on water. It is less dense."
)
PROMPTS = {
    "wg_s": (WINOGRANDE_PROMPT, 1),
    "wg_m": (WINOGRANDE_PROMPT, 1),
    "arc_c": (ARC_PROMPT, 1),
    "arc_e": (ARC_PROMPT, 1),
    "obqa": (OPENBOOKQA_PROMPT, 0),
    "boolq": (BOOLQ_PROMPT, 1),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_row_becomes_the_published_prompt_and_label(task: str) -> None:
    example = get_task(task).example(Row(MAKE[task]()))
    assert example is not None
    assert (example.prompt, example.label) == PROMPTS[task]


@pytest.mark.parametrize("task", TASKS)
def test_a_real_example_claims_no_exact_answer_distribution(task: str) -> None:
    example = get_task(task).example(Row(MAKE[task]()))
    assert example is not None
    assert example.truth is None
    assert not get_task(task).exact


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        ("wg_s", ("A", "B")),
        ("wg_m", ("A", "B")),
        ("arc_c", ("A", "B", "C", "D")),
        ("arc_e", ("A", "B", "C", "D")),
        ("obqa", ("A", "B", "C", "D")),
        ("boolq", ("False", "True")),
    ],
)
def test_the_answer_words_stand_in_label_order(task: str, answers: tuple[str, ...]) -> None:
    assert get_task(task).answers == answers


@pytest.mark.parametrize("task", ["wg_s", "wg_m"])
@pytest.mark.parametrize(("answer", "label"), [("1", 0), ("2", 1), (1, 0), (2, 1)])
def test_winogrande_answers_one_and_two_are_a_and_b(task: str, answer: str | int, label: int) -> None:
    example = get_task(task).example(Row(winogrande(answer=answer)))
    assert example is not None
    assert example.label == label


@pytest.mark.parametrize(("label", "word"), [(0, "False"), (1, "True")])
def test_boolq_zero_is_false_and_one_is_true(label: int, word: str) -> None:
    task = get_task("boolq")
    example = task.example(Row(boolq(label=label)))
    assert example is not None
    assert task.answers[example.label] == word


@pytest.mark.parametrize("task", MULTIPLE_CHOICE)
@pytest.mark.parametrize("labels", [ABCD, ["1", "2", "3", "4"], [1, 2, 3, 4]])
@pytest.mark.parametrize("position", range(4))
def test_labels_map_by_position_whatever_they_are_called(task: str, labels: list[Any], position: int) -> None:
    row = MAKE[task]()
    row["choices"] = {**row["choices"], "label": labels}
    row["answerKey"] = labels[position]
    example = get_task(task).example(Row(row))
    assert example is not None
    assert example.label == position
    assert example.prompt == PROMPTS[task][0]  # letters in the prompt, even where the row has numbers


@pytest.mark.parametrize(
    ("option", "written"),
    [
        ("dry palms", "Dry palms."),
        ("dry palms.", "Dry palms."),
        ("Dry palms", "Dry palms."),
        ("DNA", "DNA."),
        ("x", "X."),
        ("4.5 kg", "4.5 kg."),
        ("why not?", "Why not?."),  # a question mark is no full stop
        ("no. 5", "No. 5."),
        ("é", "É."),
    ],
)
@pytest.mark.parametrize("task", MULTIPLE_CHOICE)
def test_an_option_gets_a_capital_and_a_full_stop_if_it_has_none(task: str, option: str, written: str) -> None:
    row = MAKE[task]()
    row["choices"] = {"text": ["One.", "Two.", option, "Four."], "label": ABCD}
    example = get_task(task).example(Row(row))
    assert example is not None
    assert example.prompt.endswith(f" Choices: A. One. B. Two. C. {written} D. Four. Answer:")


def test_winogrande_options_are_left_as_they_are() -> None:
    example = get_task("wg_s").example(Row(winogrande(option1="the cat", option2="a dog")))
    assert example is not None
    assert example.prompt.endswith(" Choices: A. the cat. B a dog. Answer:")


@pytest.mark.parametrize("task", ["arc_c", "arc_e"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_arc_rows_without_four_options_are_dropped(task: str, count: int) -> None:
    row = arc(choices={"text": ["x"] * count, "label": list("ABCDE")[:count]}, answerKey="A")
    assert get_task(task).example(Row(row)) is None


@pytest.mark.parametrize("count", [3, 5])
def test_openbookqa_has_no_rows_to_drop_so_another_number_of_options_is_malformed(count: int) -> None:
    row = openbookqa(choices={"text": ["x"] * count, "label": list("ABCDE")[:count]})
    with pytest.raises(MalformedRow, match=f"'choices' has {count} texts and {count} labels"):
        get_task("obqa").example(Row(row))


TEXT_FIELDS = {
    "wg_s": ("sentence", "option1", "option2"),
    "wg_m": ("sentence", "option1", "option2"),
    "arc_c": ("question",),
    "arc_e": ("question",),
    "obqa": ("question_stem",),
    "boolq": ("question", "passage"),
}
LABEL_FIELD = {
    "wg_s": "answer", "wg_m": "answer", "arc_c": "answerKey", "arc_e": "answerKey", "obqa": "answerKey",
    "boolq": "label",
}  # fmt: skip


def refused(task: str, row: Mapping[str, Any]) -> str:
    with pytest.raises(MalformedRow) as error:
        get_task(task).example(Row(row))
    return str(error.value)


@pytest.mark.parametrize(("task", "field"), [(task, field) for task in TASKS for field in TEXT_FIELDS[task]])
@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (..., "is missing"),
        (None, "is missing"),
        ("", "is empty"),
        (" \n\t", "is empty"),
        (3, "is 3: it should be text"),
        (["a"], "should be text"),
        (b"a", "should be text"),
    ],
)
def test_a_text_field_that_is_no_text_is_named(task: str, field: str, value: Any, complaint: str) -> None:
    said = refused(task, MAKE[task](**{field: value}))
    assert said.startswith(f"field '{field}' ")
    assert complaint in said


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("value", [..., None, "", "E", "0.0", "a", "A B", -1, 5, 1.5, True, ["A"], {"A": 1}])
def test_a_label_that_is_none_of_the_labels_is_named(task: str, value: Any) -> None:
    said = refused(task, MAKE[task](**{LABEL_FIELD[task]: value}))
    assert said.startswith(f"field '{LABEL_FIELD[task]}' is ")


@pytest.mark.parametrize(
    ("task", "value", "known"),
    [("wg_s", "3", "1, 2"), ("wg_m", "0", "1, 2"), ("boolq", 2, "0, 1"), ("arc_c", "1", "A, B, C, D")],
)
def test_an_unknown_label_is_told_which_labels_there_are(task: str, value: Any, known: str) -> None:
    said = refused(task, MAKE[task](**{LABEL_FIELD[task]: value}))
    assert said == f"field '{LABEL_FIELD[task]}' is {str(value)!r}: the labels are {known}"


@pytest.mark.parametrize("task", MULTIPLE_CHOICE)
@pytest.mark.parametrize(
    ("choices", "field"),
    [
        (..., "choices"),
        (None, "choices"),
        ("A, B", "choices.text"),
        (["a", "b", "c", "d"], "choices.text"),
        ({}, "choices.text"),
        ({"label": ABCD}, "choices.text"),
        ({"text": "abcd", "label": ABCD}, "choices.text"),
        ({"text": ["a", "b", "c", "d"]}, "choices.label"),
        ({"text": ["a", "b", "c", "d"], "label": None}, "choices.label"),
        ({"text": ["a", "b", "c", "d"], "label": "ABCD"}, "choices.label"),
        ({"text": ["a", "", "c", "d"], "label": ABCD}, "choices.text[1]"),
        ({"text": ["a", "b", "c", "  "], "label": ABCD}, "choices.text[3]"),
        ({"text": [None, "b", "c", "d"], "label": ABCD}, "choices.text[0]"),
        ({"text": ["a", "b", 3, "d"], "label": ABCD}, "choices.text[2]"),
        ({"text": ["a", "b", "c"], "label": ABCD}, "choices"),
        ({"text": ["a", "b", "c", "d"], "label": ABCD[:3]}, "choices"),
        ({"text": [], "label": []}, None),  # whichever field is met first, it is refused
    ],
)
def test_choices_that_are_no_choices_are_named(task: str, choices: Any, field: str | None) -> None:
    said = refused(task, MAKE[task](choices=choices))
    assert said.startswith("field '" if field is None else f"field '{field}' ")


def test_a_missing_field_tells_what_the_row_has() -> None:
    assert refused("wg_s", winogrande(sentence=...)) == (
        "field 'sentence' is missing (the row has option1, option2, answer)"
    )


# --- a mirror made for the test ---------------------------------------------------------------------------------------


def mirror(folder: Path, rows: list[dict[str, Any]], split: str = "train") -> tuple[DataSource, Path]:
    """A mirror that holds one split of WinoGrande-S: (source, its file)."""
    file = folder / "allenai" / "winogrande" / "winogrande_s" / f"{split}-00000-of-00001.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return DataSource(folder), file


def rows_of(count: int) -> list[dict[str, Any]]:
    return [winogrande(sentence=f"Sentence {n} has a _ here.", answer="12"[n % 2]) for n in range(count)]


def failure(source: DataSource, split: str = "train") -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load_split(get_task("wg_s"), split, source)
    return str(error.value)


def test_a_whole_mirror_is_read_in_its_order(tmp_path: Path) -> None:
    source, _ = mirror(tmp_path, rows_of(640))
    split = load_split(get_task("wg_s"), "train", source)
    assert [e.id for e in split.examples] == [f"train/{n}" for n in range(640)]
    assert [e.label for e in split.examples] == [0, 1] * 320
    assert split.examples[639].prompt.startswith(
        "Select one of the choices that answers the following question: Sentence 639 has a _ here. Choices: A. Ann."
    )


def test_a_split_in_two_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    _, file = mirror(tmp_path, [])
    file.unlink()
    pq.write_table(pa.Table.from_pylist(rows_of(640)[:400]), file.with_name("train-00000-of-00002.parquet"))
    pq.write_table(pa.Table.from_pylist(rows_of(640)[400:]), file.with_name("train-00001-of-00002.parquet"))
    examples = load_split(get_task("wg_s"), "train", DataSource(tmp_path)).examples
    assert [int(re.findall(r"Sentence (\d+)", e.prompt)[0]) for e in examples] == list(range(640))


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [(0, "sentence", ""), (17, "option2", None), (639, "answer", "3"), (320, "option1", "   ")],
)
def test_a_malformed_row_is_named_with_file_row_and_field(tmp_path: Path, row: int, field: str, value: Any) -> None:
    rows = rows_of(640)
    rows[row][field] = value
    source, file = mirror(tmp_path, rows)
    said = failure(source)
    assert said.startswith(f"{file}, row {row}: field '{field}' ")
    assert said.endswith("Correct that row or fetch the data again.")


def test_a_column_that_is_missing_is_named_with_the_file(tmp_path: Path) -> None:
    source, file = mirror(tmp_path, [changed(row, {"answer": ...}) for row in rows_of(640)])
    assert failure(source).startswith(f"{file}, row 0: field 'answer' is missing")


def test_a_cut_split_is_refused_with_both_counts_and_the_way_out(tmp_path: Path) -> None:
    source, file = mirror(tmp_path, rows_of(639))
    assert failure(source) == (
        f"{file} has 639 rows; the official train split of 'wg_s' has 640. "
        "Fetch the whole split, or accept it with --allow-partial-data (the record will say so)."
    )


def test_a_cut_split_is_accepted_on_request_and_says_so(tmp_path: Path) -> None:
    mirror(tmp_path, rows_of(639))
    facts = load_split(get_task("wg_s"), "train", DataSource(tmp_path, allow_partial=True)).facts
    assert (facts["rows"], facts["official"], facts["kept"], facts["dropped"]) == (639, 640, 639, 0)
    assert facts["partial"] is True


@pytest.mark.parametrize("allow_partial", [False, True])
def test_a_split_with_too_many_rows_is_never_accepted(tmp_path: Path, allow_partial: bool) -> None:
    _, file = mirror(tmp_path, rows_of(641))
    said = failure(DataSource(tmp_path, allow_partial))
    assert said.startswith(f"{file} has 641 rows; the official train split of 'wg_s' has 640.")
    assert "fetch it again" in said


def test_an_empty_split_is_refused_even_if_partial_splits_are_not(tmp_path: Path) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("sentence", "option1", "option2", "answer")])
    _, file = mirror(tmp_path, rows_of(1))
    pq.write_table(pa.Table.from_pylist([], schema=schema), file)
    assert failure(DataSource(tmp_path, allow_partial=True)).startswith(str(file))


def test_partial_data_marks_the_revision_by_what_is_missing(tmp_path: Path) -> None:
    revisions = []
    for name, rows in (("x", rows_of(639)), ("y", rows_of(639)), ("z", rows_of(638)), ("w", rows_of(640)[1:])):
        mirror(tmp_path / name, rows)
        revisions.append(data_spec(get_task("wg_s"), DataSource(tmp_path / name, allow_partial=True)).revision)
    pinned = get_task("wg_s").revision
    assert all(re.fullmatch(rf"{pinned}\+partial:[0-9a-f]{{12}}", revision) for revision in revisions)
    assert revisions[0] == revisions[1]  # wherever it lies
    assert len(set(revisions)) == 3


def test_complete_data_has_one_identity_with_or_without_permission(tmp_path: Path) -> None:
    mirror(tmp_path, rows_of(640))
    task = get_task("wg_s")
    plain, allowed = (data_spec(task, DataSource(tmp_path, allow_partial)) for allow_partial in (False, True))
    assert plain == allowed
    assert re.fullmatch(r"01e74176c63542e6b0bcb004dcdea22d94fb67b5\+rows:[0-9a-f]{12}", plain.revision)


def test_a_missing_folder_is_a_sentence_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load_split(get_task("wg_s"), "train", DataSource(tmp_path / "nowhere"))
    said = str(error.value)
    assert said.startswith(f"There is no train-*.parquet in {tmp_path}/nowhere/allenai/winogrande/winogrande_s.")
    assert said.endswith("DIR/allenai/winogrande/winogrande_s/train-00000-of-00001.parquet.")


def test_a_missing_split_is_a_sentence_with_the_split(tmp_path: Path) -> None:
    source, _ = mirror(tmp_path, rows_of(640))
    with pytest.raises(FileNotFoundError, match=r"There is no validation-\*.parquet in "):
        load_split(get_task("wg_s"), "validation", source)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    source, file = mirror(tmp_path, rows_of(640))
    file.write_bytes(file.read_bytes()[:200])
    said = failure(source)
    assert said.startswith(f"{file} cannot be read (")
    assert said.endswith("fetch it again.")


def test_a_damaged_file_of_another_split_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    source, _ = mirror(tmp_path, rows_of(640))
    _, other = mirror(tmp_path, rows_of(5), "validation")
    other.write_bytes(b"PAR1 no PAR1")
    assert load_split(get_task("wg_s"), "train", source).rows == 640


@pytest.mark.parametrize(("task", "split"), [("wg_s", "test"), ("boolq", "test"), ("arc_c", "dev"), ("obqa", "")])
def test_a_split_without_labels_is_refused_before_anything_is_read(tmp_path: Path, task: str, split: str) -> None:
    with pytest.raises(LookupError, match=f"Task '{task}' has no labelled split '{split}': it has train, validation"):
        load_split(get_task(task), split, DataSource(tmp_path))


# --- the official data ------------------------------------------------------------------------------------------------

COUNTS = {  # (task, split): official rows, examples kept
    ("wg_s", "train"): (640, 640),
    ("wg_s", "validation"): (1267, 1267),
    ("wg_m", "train"): (2558, 2558),
    ("wg_m", "validation"): (1267, 1267),
    ("arc_c", "train"): (1119, 1117),
    ("arc_c", "validation"): (299, 295),
    ("arc_c", "test"): (1172, 1165),
    ("arc_e", "train"): (2251, 2241),
    ("arc_e", "validation"): (570, 567),
    ("arc_e", "test"): (2376, 2365),
    ("obqa", "train"): (4957, 4957),
    ("obqa", "validation"): (500, 500),
    ("obqa", "test"): (500, 500),
    ("boolq", "validation"): (3270, 3270),
}
SELECT = "Select one of the choices that answers the following question: "
WG_TRAIN = (
    SELECT + "Ian volunteered to eat Dennis's menudo after already having a bowl because _ despised eating intestine. "
    "Choices: A. Ian. B Dennis. Answer:"
)
WG_VALIDATION = (
    SELECT + "Sarah was a much better surgeon than Maria so _ always got the easier cases. "
    "Choices: A. Sarah. B Maria. Answer:"
)
FIRST = {  # the prompt and answer of the first row of each split, written down from the raw rows
    ("wg_s", "train"): (WG_TRAIN, "B"),
    ("wg_s", "validation"): (WG_VALIDATION, "B"),
    ("wg_m", "train"): (WG_TRAIN, "B"),
    ("wg_m", "validation"): (WG_VALIDATION, "B"),
    ("arc_c", "train"): (
        SELECT + "George wants to warm his hands quickly by rubbing them. Which skin surface will produce the most "
        "heat? Choices: A. Dry palms. B. Wet palms. C. Palms covered with oil. D. Palms covered with lotion. Answer:",
        "A",
    ),
    ("arc_c", "validation"): (
        SELECT + "Juan and LaKeisha roll a few objects down a ramp. They want to see which object rolls the farthest. "
        "What should they do so they can repeat their investigation? Choices: A. Put the objects in groups. "
        "B. Change the height of the ramp. C. Choose different objects to roll. "
        "D. Record the details of the investigation. Answer:",
        "D",
    ),
    ("arc_c", "test"): (
        SELECT + "An astronomer observes that a planet rotates faster after a meteorite impact. Which is the most "
        "likely effect of this increase in rotation? Choices: A. Planetary density will decrease. "
        "B. Planetary years will become longer. C. Planetary days will become shorter. "
        "D. Planetary gravity will become stronger. Answer:",
        "C",
    ),
    ("arc_e", "train"): (
        SELECT + "Which factor will most likely cause a person to develop a fever? Choices: "
        "A. A leg muscle relaxing after exercise. B. A bacterial population in the bloodstream. "
        "C. Several viral particles on the skin. D. Carbohydrates being digested in the stomach. Answer:",
        "B",
    ),
    ("arc_e", "validation"): (
        SELECT + "Which technology was developed most recently? Choices: A. Cellular telephone. B. Television. "
        "C. Refrigerator. D. Airplane. Answer:",
        "A",
    ),
    ("arc_e", "test"): (
        SELECT + "Which statement best explains why photosynthesis is the foundation of most food webs? Choices: "
        "A. Sunlight is the source of energy for nearly all ecosystems. "
        "B. Most ecosystems are found on land instead of in water. "
        "C. Carbon dioxide is more available than other gases. D. The producers in all ecosystems are plants. Answer:",
        "A",
    ),
    ("obqa", "train"): (
        SELECT + "The sun is responsible for Choices: A. Puppies learning new tricks. "
        "B. Children growing up and getting old. C. Flowers wilting in a vase. "
        "D. Plants sprouting, blooming and wilting. Answer:",
        "D",
    ),
    ("obqa", "validation"): (
        SELECT
        + "Frilled sharks and angler fish live far beneath the surface of the ocean, which is why they are known "
        "as Choices: A. Deep sea animals. B. Fish. C. Long Sea Fish. D. Far Sea Animals. Answer:",
        "A",
    ),
    ("obqa", "test"): (
        SELECT + "A person wants to start saving money so that they can afford a nice vacation at the end of the year. "
        "After looking over their budget and expenses, they decide the best way to save money is to "
        "Choices: A. Make more phone calls. B. Quit eating lunch out. C. Buy less with monopoly money. "
        "D. Have lunch with friends. Answer:",
        "B",
    ),
}
FIRST_BOOLQ = {  # passages are long: the start, the end, and SHA-256 of the whole, made from the raw row
    "train": (
        "Answer the question with only True or False: is batman and robin a sequel to batman forever "
        "Context: Batman & Robin (film) -- With the box office success of Batman Forever in June 1995, ",
        " the Batman: The Animated Series episode ``Heart of Ice'', written by Paul Dini.",
        "6da66db28d3e3df8",
        "True",
    ),
    "validation": (
        "Answer the question with only True or False: does ethanol take more energy make that produces "
        "Context: Ethanol fuel -- All biomass goes through at least some of these steps: ",
        " concluded that producing ethanol from corn uses much less petroleum than producing gasoline.",
        "4b8cd29a914ac07b",
        "False",
    ),
}


@pytest.mark.parametrize(("task", "split"), COUNTS)
def test_an_official_split_has_the_official_counts(real_data: Path, task: str, split: str) -> None:
    facts = load_split(get_task(task), split, DataSource(real_data)).facts
    official, kept = COUNTS[task, split]
    assert (facts["official"], facts["rows"]) == (official, official)
    assert (facts["kept"], facts["dropped"]) == (kept, official - kept)
    assert facts["partial"] is False


@pytest.mark.parametrize(("task", "split"), FIRST)
def test_the_first_prompt_of_a_split_is_the_one_written_down(real_data: Path, task: str, split: str) -> None:
    example = load_split(get_task(task), split, DataSource(real_data)).examples[0]
    prompt, answer = FIRST[task, split]
    assert example.prompt == prompt
    assert get_task(task).answers[example.label] == answer
    assert example.id == f"{split}/0"


@pytest.mark.parametrize("split", FIRST_BOOLQ)
def test_the_first_boolq_prompt_is_the_one_written_down(real_data: Path, split: str) -> None:
    example = load_split(get_task("boolq"), split, DataSource(real_data, allow_partial=True)).examples[0]
    start, end, digest, answer = FIRST_BOOLQ[split]
    assert example.prompt.startswith(start)
    assert example.prompt.endswith(end)
    assert hashlib.sha256(example.prompt.encode()).hexdigest()[:16] == digest
    assert get_task("boolq").answers[example.label] == answer


def test_every_task_and_labelled_split_is_pinned_here() -> None:
    labelled = {(task, split) for task in TASKS for split in get_task(task).rows}
    assert labelled == {*COUNTS, ("boolq", "train")} == {*FIRST, *(("boolq", split) for split in FIRST_BOOLQ)}


def raw_rows(data: Path, task: str, split: str) -> list[dict[str, Any]]:
    found = get_task(task)
    (file,) = (data / found.source / str(found.config)).glob(f"{split}-*.parquet")
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


@pytest.mark.parametrize(("task", "split"), [pair for pair in COUNTS if pair[0] in MULTIPLE_CHOICE])
def test_the_gold_letter_of_every_prompt_stands_before_the_gold_option(real_data: Path, task: str, split: str) -> None:
    examples = {e.id: e for e in load_split(get_task(task), split, DataSource(real_data)).examples}
    for number, row in enumerate(raw_rows(real_data, task, split)):
        if len(row["choices"]["text"]) != 4:
            assert f"{split}/{number}" not in examples
            continue
        example = examples.pop(f"{split}/{number}")
        gold = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))[row["answerKey"]]
        assert f" {'ABCD'[example.label]}. {gold[0].upper()}{gold[1:]}" in example.prompt
        assert example.prompt.startswith(SELECT + row["question_stem" if task == "obqa" else "question"])
        assert example.prompt.endswith(" Answer:")
    assert not examples


@pytest.mark.parametrize(("task", "split"), [pair for pair in COUNTS if pair[0].startswith("wg")])
def test_every_winogrande_prompt_holds_its_row(real_data: Path, task: str, split: str) -> None:
    examples = load_split(get_task(task), split, DataSource(real_data)).examples
    for example, row in zip(examples, raw_rows(real_data, task, split), strict=True):
        options = f"A. {row['option1']}. B {row['option2']}. Answer:"
        assert example.prompt == f"{SELECT}{row['sentence']} Choices: {options}"
        assert row["answer"] == str(example.label + 1)


def test_every_boolq_prompt_holds_its_row_and_no_answer_cue(real_data: Path) -> None:
    examples = load_split(get_task("boolq"), "validation", DataSource(real_data)).examples
    for example, row in zip(examples, raw_rows(real_data, "boolq", "validation"), strict=True):
        assert example.prompt.endswith(f" {row['question']} Context: {row['passage']}")
        assert example.label == row["label"]


def test_partial_boolq_is_refused_with_a_sentence(real_data: Path) -> None:
    with pytest.raises(ValueError, match=r"boolq/train-00000-of-00001\.parquet has 2169 rows; the official train") as e:
        load_split(get_task("boolq"), "train", DataSource(real_data))
    assert "has 9427. Fetch the whole split, or accept it with --allow-partial-data" in str(e.value)


def test_partial_boolq_is_accepted_on_request_and_stamped(real_data: Path) -> None:
    source = DataSource(real_data, allow_partial=True)
    facts = load_split(get_task("boolq"), "train", source).facts
    assert (facts["rows"], facts["official"], facts["partial"]) == (2169, 9427, True)
    pinned = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
    assert re.fullmatch(pinned + r"\+partial:[0-9a-f]{12}", data_spec(get_task("boolq"), source).revision)
    assert data_spec(get_task("boolq"), DataSource(real_data)).revision == pinned


@pytest.mark.parametrize("task", [task for task in TASKS if task != "boolq"])
def test_permission_for_partial_data_does_not_change_a_complete_task(real_data: Path, task: str) -> None:
    assert data_spec(get_task(task), DataSource(real_data, allow_partial=True)) == data_spec(
        get_task(task), DataSource(real_data)
    )


@pytest.mark.parametrize("task", [*TASKS, *MMLU])
def test_the_official_rows_are_the_pinned_ones_and_the_mirror_has_the_identity_of_the_hub(
    real_data: Path, task: str
) -> None:
    found = get_task(task)
    for split in found.rows:
        if (task, split) != ("boolq", "train"):  # partial there
            assert load_split(found, split, DataSource(real_data)).fingerprint == found.fingerprints[split]
    assert data_spec(found, DataSource(real_data)) == data_spec(found, DataSource())


def test_partial_boolq_keeps_the_revision_that_stored_results_have(real_data: Path) -> None:
    source = DataSource(real_data, allow_partial=True)
    train = load_split(get_task("boolq"), "train", source).fingerprint
    suffix = hashlib.sha256(f'[["train","{train}"]]'.encode()).hexdigest()[:12]
    assert data_spec(get_task("boolq"), source).revision == f"3de24cf8022e94f4ee4b9d55a6f539891524d646+partial:{suffix}"
    assert suffix == "a85cdd9a299b"


def test_fingerprints_are_of_the_content_not_of_the_place(real_data: Path) -> None:
    source = DataSource(real_data)
    small, medium = (load_split(get_task(task), "validation", source).fingerprint for task in ("wg_s", "wg_m"))
    assert small == medium  # one file, two configurations
    assert small != load_split(get_task("wg_s"), "train", source).fingerprint
