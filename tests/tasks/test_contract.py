"""What every registered task promises, and what those that make their own rows, or know their truth, promise on top."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Mapping
from typing import Any

import pytest

from bench.cli.listing import list_tasks, render
from bench.data.identity import data_spec
from bench.data.splits import DataSource, load_split
from bench.task import MalformedRow, Row, Task, get_task, task_names
from tasks.notes.world import NOTE_LENGTH, note_world

TASKS = task_names()
GENERATED = [name for name in TASKS if get_task(name).generate(next(iter(get_task(name).rows))) is not None]
HUB = [name for name in TASKS if name not in GENERATED]
EXACT = [name for name in GENERATED if get_task(name).exact]
NOTES = ["notes_bool", "notes_four", "notes_two"]


def splits(names: list[str]) -> list[tuple[str, str]]:
    return [(name, split) for name in names for split in get_task(name).rows]


def test_the_suite_ships_six_real_and_three_synthetic_tasks() -> None:
    assert {"wg_s", "wg_m", "arc_c", "arc_e", "obqa", "boolq"} <= set(HUB)
    assert set(NOTES) <= set(EXACT)


# --- every task -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_a_task_states_its_name_title_source_licence_and_revision(name: str) -> None:
    task = get_task(name)
    assert task.name == name
    for stated in (task.title, task.source, task.licence, task.revision):
        assert isinstance(stated, str)
        assert stated == stated.strip() != ""


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_distinct_words_and_there_are_two_at_least(name: str) -> None:
    answers = get_task(name).answers
    assert isinstance(answers, tuple)
    assert len(set(answers)) == len(answers) >= 2
    assert all(re.fullmatch(r"\S+", answer) for answer in answers)


@pytest.mark.parametrize("name", TASKS)
def test_splits_are_known_by_the_protocols_and_have_rows(name: str) -> None:
    rows = get_task(name).rows
    assert set(rows) <= {"train", "validation", "test"}
    assert rows.keys() & {"validation", "test"}  # something to report
    assert all(type(count) is int and count > 0 for count in rows.values())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_a_version_from_one_up(name: str) -> None:
    assert type(get_task(name).version) is int
    assert get_task(name).version >= 1


@pytest.mark.parametrize("name", TASKS)
def test_an_instance_has_the_metadata_of_its_class_and_no_state(name: str) -> None:
    assert get_task(name) is not get_task(name)
    assert vars(get_task(name)) == {}


@pytest.mark.parametrize("name", [*HUB, *NOTES])
def test_the_identity_of_hub_and_pinned_data_is_name_version_and_revision(name: str) -> None:
    task = get_task(name)
    spec = data_spec(task, DataSource())  # reads nothing
    assert (spec.task, spec.version, spec.revision) == (name, task.version, task.revision)


@pytest.mark.parametrize("name", [name for name in GENERATED if not get_task(name).fingerprints])
def test_rows_that_a_task_makes_and_does_not_pin_are_part_of_its_identity(name: str) -> None:
    revision = data_spec(get_task(name), DataSource()).revision
    assert re.fullmatch(re.escape(get_task(name).revision) + r"\+rows:[0-9a-f]{12}", revision)


@pytest.mark.parametrize("name", TASKS)
def test_only_splits_that_exist_are_pinned_and_a_fingerprint_has_sixteen_digits(name: str) -> None:
    task = get_task(name)
    assert set(task.fingerprints) <= set(task.rows)
    assert all(re.fullmatch(r"[0-9a-f]{16}", value) for value in task.fingerprints.values())


def test_titles_tell_tasks_apart() -> None:
    titles = [get_task(name).title for name in TASKS]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("name", HUB)
def test_a_hub_task_pins_a_commit_of_a_namespaced_dataset_and_cites_it(name: str) -> None:
    task = get_task(name)
    assert re.fullmatch(r"[0-9a-f]{40}", task.revision)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", task.source)
    assert re.search(r"\b(19|20)\d\d\b", task.citation)
    assert not task.exact


@pytest.mark.parametrize("name", HUB)
def test_a_hub_task_refuses_an_empty_row(name: str) -> None:
    with pytest.raises(MalformedRow, match=r"field '.+' is missing"):
        get_task(name).example(Row({}))


PINNED = {  # PROTOCOL section 2
    "wg_s": ("allenai/winogrande", "winogrande_s", "01e74176c63542e6b0bcb004dcdea22d94fb67b5"),
    "wg_m": ("allenai/winogrande", "winogrande_m", "01e74176c63542e6b0bcb004dcdea22d94fb67b5"),
    "arc_c": ("allenai/ai2_arc", "ARC-Challenge", "210d026faf9955653af8916fad021475a3f00453"),
    "arc_e": ("allenai/ai2_arc", "ARC-Easy", "210d026faf9955653af8916fad021475a3f00453"),
    "obqa": ("allenai/openbookqa", "main", "388097ea7776314e93a529163e0fea805b8a6454"),
    "boolq": ("aps/super_glue", "boolq", "3de24cf8022e94f4ee4b9d55a6f539891524d646"),
}


@pytest.mark.parametrize("name", PINNED)
def test_the_paper_tasks_come_from_where_the_protocol_says(name: str) -> None:
    task = get_task(name)
    assert (task.source, task.config, task.revision) == PINNED[name]


def test_a_task_without_a_hook_says_what_to_define() -> None:
    class Nothing(Task):
        pass

    with pytest.raises(TypeError, match=r"Nothing must define example\(row\)"):
        Nothing().example(Row({}))


def listed() -> dict[str, Mapping[str, Any]]:
    return {row["name"]: row for row in list_tasks()}


def test_the_list_of_tasks_is_json_with_one_row_each() -> None:
    rows = list_tasks()
    assert json.loads(json.dumps(rows)) == rows
    assert [row["name"] for row in rows] == task_names()  # other tests of this process may have registered more


@pytest.mark.parametrize("name", TASKS)
def test_a_listed_task_shows_source_revision_answers_rows_and_licence(name: str) -> None:
    task, row = get_task(name), listed()[name]
    assert (row["title"], row["source"], row["config"]) == (task.title, task.source, task.config)
    assert (row["revision"], row["licence"], row["citation"]) == (task.revision, task.licence, task.citation)
    assert row["answers"] == list(task.answers)
    assert row["rows"] == dict(task.rows)


@pytest.mark.parametrize("name", TASKS)
def test_a_rendered_task_shows_its_rows_and_licence(name: str) -> None:
    task, text = get_task(name), render([dict(listed()[name])])
    assert text.startswith(f"{name}  -  {task.title}\n")
    assert f"licence: {task.licence}" in text
    for split, count in task.rows.items():
        assert f"{split} {count}" in text


# --- synthetic tasks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "split"), splits(GENERATED))
def test_ids_are_the_split_and_the_row_and_every_row_is_kept(name: str, split: str) -> None:
    loaded = load_split(get_task(name), split, DataSource())
    assert [e.id for e in loaded.examples] == [f"{split}/{n}" for n in range(get_task(name).rows[split])]
    assert loaded.facts["dropped"] == 0


@pytest.mark.parametrize(("name", "split"), splits(GENERATED))
def test_the_same_rows_are_drawn_whatever_else_was_drawn_before(name: str, split: str) -> None:
    task = get_task(name)
    first = list(task.generate(split) or [])
    random.seed(0)
    assert list(get_task(name).generate(split) or []) == first
    prompts = [task.example(Row(row)) for row in first]
    assert [e.prompt for e in prompts if e] == [
        e.prompt for e in load_split(get_task(name), split, DataSource()).examples
    ]


@pytest.mark.parametrize(("name", "split"), splits(GENERATED))
def test_labels_are_answers_and_all_answers_occur(name: str, split: str) -> None:
    labels = [e.label for e in load_split(get_task(name), split, DataSource()).examples]
    assert set(labels) == set(range(len(get_task(name).answers)))


@pytest.mark.parametrize(("name", "split"), splits(EXACT))
def test_the_truth_of_every_example_is_a_distribution_over_the_answers(name: str, split: str) -> None:
    for example in load_split(get_task(name), split, DataSource()).examples:
        assert example.truth is not None
        assert len(example.truth) == len(get_task(name).answers)
        assert all(0 < p <= 1 for p in example.truth)  # never 0: its logarithm is scored
        assert math.fsum(example.truth) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("name", "split"), splits(EXACT))
def test_labels_fall_as_often_as_the_truth_says(name: str, split: str) -> None:
    """sum_n ([y_n = c] - p_nc) has mean 0 and variance sum_n p_nc (1 - p_nc) if the truth is the truth."""
    examples = load_split(get_task(name), split, DataSource()).examples
    for answer in range(len(get_task(name).answers)):
        expected = [e.truth[answer] for e in examples if e.truth]
        hits = sum(e.label == answer for e in examples)
        spread = math.sqrt(sum(p * (1 - p) for p in expected))
        assert abs(hits - sum(expected)) < 4 * spread


@pytest.mark.parametrize("name", NOTES)
def test_the_truth_is_as_right_as_it_says_where_it_is_sure_and_where_it_is_not(name: str) -> None:
    examples = load_split(get_task(name), "test", DataSource()).examples
    ranked = sorted(examples, key=lambda e: max(e.truth or ()))
    size = len(ranked) // 3
    for third in (ranked[:size], ranked[size : 2 * size], ranked[2 * size :]):
        best = [max(e.truth or ()) for e in third]
        hits = sum((e.truth or ())[e.label] == top for e, top in zip(third, best, strict=True))
        assert abs(hits - sum(best)) < 4 * math.sqrt(sum(p * (1 - p) for p in best))


@pytest.mark.parametrize("name", NOTES)
def test_the_truth_follows_bayes_rule_on_the_words_of_the_note(name: str) -> None:
    """An independent product of probabilities, without logarithms, on the first notes."""
    task, world = get_task(name), note_world()
    topics = task.asks.topics  # type: ignore[attr-defined]
    place = {word: i for i, word in enumerate(world.vocabulary)}
    for row in list(task.generate("test") or [])[:5]:
        weights = []
        for answer in topics:
            each = []
            for topic in answer:
                likelihood = 1.0
                for word in row["words"]:
                    ground = world.background[place[word]] / sum(world.background)
                    theme = world.topics[topic][place[word]] / sum(world.topics[topic])
                    likelihood *= (1 - world.strength) * ground + world.strength * theme
                each.append(likelihood)
            weights.append(sum(each) / len(each))
        example = task.example(Row(row))
        assert example is not None
        assert example.truth == pytest.approx([w / sum(weights) for w in weights], rel=1e-9)


@pytest.mark.parametrize("name", EXACT)
def test_no_prompt_stands_in_two_splits_or_twice_in_one(name: str) -> None:
    loaded = [load_split(get_task(name), split, DataSource()).examples for split in get_task(name).rows]
    prompts = [e.prompt for examples in loaded for e in examples]
    assert len(set(prompts)) == len(prompts) == sum(get_task(name).rows.values())


@pytest.mark.parametrize(("name", "split"), splits(NOTES))
def test_every_note_is_of_words_of_the_vocabulary(name: str, split: str) -> None:
    for row in get_task(name).generate(split) or []:
        assert len(row["words"]) == NOTE_LENGTH
        assert set(row["words"]) <= set(note_world().vocabulary)


PROMPT_FORMS = {
    "notes_two": (
        r"Select one of the choices that answers the following question: When was this written\? (\w+ ){16}"
        r"Choices: A\. Morning\. B Evening\. Answer:"
    ),
    "notes_four": (
        r"Select one of the choices that answers the following question: Who wrote this\? (\w+ ){16}"
        r"Choices: A\. Cook\. B\. Nurse\. C\. Pilot\. D\. Farmer\. Answer:"
    ),
    "notes_bool": r"Answer the question with only True or False: Was this written at sea\? Context: (\w+ ){15}\w+",
}


@pytest.mark.parametrize("name", PROMPT_FORMS)
def test_the_synthetic_prompts_have_the_form_of_the_real_ones(name: str) -> None:
    for example in load_split(get_task(name), "train", DataSource()).examples:
        assert re.fullmatch(PROMPT_FORMS[name], example.prompt)
