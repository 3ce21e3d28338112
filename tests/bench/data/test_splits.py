"""Splits: loading, checks, fingerprints, identity, and the part of train that is set aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from bench.data import splits
from bench.data.identity import data_spec
from bench.data.splits import DataSource, Split, load_split, split_holdout
from bench.task import Example, get_task

# --- what is set aside ------------------------------------------------------------------------------------------------

EXAMPLES = tuple(Example(f"prompt {n}", n % 2, id=f"train/{n}") for n in range(100))


@pytest.mark.parametrize(("share", "size"), [(0.1, 10), (0.25, 25), (0.5, 50), (0.99, 99), (0.014, 1), (0.126, 13)])
def test_the_share_is_set_aside_and_nothing_is_lost_or_twice(share: float, size: int) -> None:
    kept, held = split_holdout(EXAMPLES, share, seed=3)
    assert len(held) == size
    assert not {e.id for e in kept} & {e.id for e in held}
    assert sorted([*kept, *held], key=lambda e: int(e.id[6:])) == list(EXAMPLES)


def test_both_parts_keep_the_order_of_the_examples() -> None:
    for part in split_holdout(EXAMPLES, 0.4, seed=3):
        places = [int(e.id[6:]) for e in part]
        assert places == sorted(places)


def test_without_a_share_nothing_is_set_aside() -> None:
    assert split_holdout(EXAMPLES, 0, seed=3) == (EXAMPLES, ())


def test_the_choice_is_that_of_the_seed() -> None:
    assert split_holdout(EXAMPLES, 0.25, 3) == split_holdout(list(EXAMPLES), 0.25, 3)
    assert split_holdout(EXAMPLES, 0.25, 3) != split_holdout(EXAMPLES, 0.25, 4)


def test_the_choice_does_not_depend_on_the_order_of_the_examples() -> None:
    held = {e.id for e in split_holdout(EXAMPLES, 0.25, 3)[1]}
    assert {e.id for e in split_holdout(EXAMPLES[::-1], 0.25, 3)[1]} == held


def test_a_larger_share_holds_the_smaller_one() -> None:
    small, large = ({e.id for e in split_holdout(EXAMPLES, share, 3)[1]} for share in (0.1, 0.3))
    assert small < large


@pytest.mark.parametrize("share", [0.001, 0.999, 1.0, -0.1, 2.0])
def test_a_share_that_leaves_one_side_empty_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"^A holdout of {share} leaves .* of 100 examples: choose another share"):
        split_holdout(EXAMPLES, share, seed=3)


def test_every_example_has_the_same_chance_of_being_set_aside() -> None:
    counts = Counter(e.id for seed in range(400) for e in split_holdout(EXAMPLES[:20], 0.25, seed)[1])
    assert all(abs(counts[f"train/{n}"] - 100) < 5 * 8.7 for n in range(20))  # binomial(400, 1/4): sd 8.7


# --- loading ----------------------------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_ids_prompts_and_labels() -> None:
    base = Split(EXAMPLES[:3], 3, 3)
    variants: list[tuple[Any, ...]] = [
        EXAMPLES[:2],
        (EXAMPLES[0], EXAMPLES[2], EXAMPLES[1]),
        (*EXAMPLES[:2], Example("prompt 2", 1, id="train/2")),
        (*EXAMPLES[:2], Example("prompt 2.", 0, id="train/2")),
        (*EXAMPLES[:2], Example("prompt 2", 0, id="train/3")),
    ]
    prints = {Split(examples, 3, 3).fingerprint for examples in variants}
    assert len(prints | {base.fingerprint}) == 6
    assert Split(tuple(list(EXAMPLES)[:3]), 9, 9).fingerprint == base.fingerprint


def test_the_facts_of_a_split_count_what_was_found_kept_and_dropped() -> None:
    facts = Split(EXAMPLES[:3], 5, 8).facts
    assert {name: facts[name] for name in ("official", "rows", "kept", "dropped", "partial")} == {
        "official": 8, "rows": 5, "kept": 3, "dropped": 2, "partial": True,
    }  # fmt: skip
    assert Split(EXAMPLES[:3], 5, 5).facts["partial"] is False


def test_a_generated_task_with_too_few_rows_is_refused_as_a_loaded_one_would_be(
    monkeypatch: pytest.MonkeyPatch, reading: None
) -> None:
    task = type(get_task("notes_two"))
    whole = list(get_task("notes_two").generate("validation") or [])
    monkeypatch.setattr(task, "generate", lambda self, split: whole[:-1])
    source = DataSource(data_dir=None, allow_partial=True)
    with pytest.raises(ValueError, match=r"^notes_two/validation has 255 rows; the official validation split"):
        load_split(get_task("notes_two"), "validation", DataSource())
    assert load_split(get_task("notes_two"), "validation", source).facts["partial"] is True


@pytest.mark.parametrize("error", [RuntimeError("no\nluck"), KeyError("seed"), ZeroDivisionError()])
def test_a_generator_that_fails_is_named_and_does_not_stop_the_plan(
    monkeypatch: pytest.MonkeyPatch, reading: None, error: Exception
) -> None:
    def broken(self: object, split: str) -> Iterator[dict[str, Any]]:
        yield {"name": "red", "count": 0}
        raise error

    monkeypatch.setattr(type(get_task("colours")), "generate", broken)
    assert data_spec(get_task("colours"), DataSource()).revision == "1"
    with pytest.raises(ValueError, match=r"^colours/train: Colours\.generate raised \w+.*\. Correct it\.$"):
        load_split(get_task("colours"), "train", DataSource())


def test_a_label_beyond_the_answers_is_a_malformed_row(monkeypatch: pytest.MonkeyPatch, reading: None) -> None:
    made = [{"words": [], "label": 0}, {"words": [], "label": 2}]
    task = type(get_task("notes_two"))
    monkeypatch.setattr(task, "generate", lambda self, split: made)
    monkeypatch.setattr(task, "example", lambda self, row: Example("x", row["label"]))
    with pytest.raises(ValueError, match=r"^notes_two/train, row 1: label 2 is not one of the 2 answers\."):
        load_split(get_task("notes_two"), "train", DataSource(allow_partial=True))


def test_a_task_of_which_every_row_is_dropped_is_refused(monkeypatch: pytest.MonkeyPatch, reading: None) -> None:
    monkeypatch.setattr(type(get_task("notes_two")), "example", lambda self, row: None)
    with pytest.raises(ValueError, match=r"^notes_two/train: no row of 256 could be used\. Is it the right dataset\?"):
        load_split(get_task("notes_two"), "train", DataSource())


def test_a_split_is_loaded_once_in_a_process() -> None:
    assert load_split(get_task("notes_two"), "train", DataSource()) is load_split(
        get_task("notes_two"), "train", DataSource()
    )


def test_a_missing_hub_dataset_is_a_sentence_with_the_way_out(monkeypatch: pytest.MonkeyPatch, reading: None) -> None:
    import datasets

    def refuse(*args: Any, **kwargs: Any) -> None:
        assert args == ("allenai/winogrande", "winogrande_s")
        assert kwargs == {"revision": "01e74176c63542e6b0bcb004dcdea22d94fb67b5", "split": "train"}
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr("bench.data.rows.online", lambda: True)
    with pytest.raises(FileNotFoundError) as error:
        load_split(get_task("wg_s"), "train", DataSource())
    assert str(error.value) == (
        "allenai/winogrande (winogrande_s, train) could not be loaded from the hub at revision 01e74176c635 "
        "(ConnectionError: offline). Offline, give a local mirror with --data-dir DIR."
    )


def test_an_identity_is_found_without_reading_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "load_split", lambda *args: pytest.fail("read rows"))
    assert data_spec(get_task("boolq"), DataSource()).revision == "3de24cf8022e94f4ee4b9d55a6f539891524d646"


# --- what a task's example() may not make of a row -------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, reading: None) -> Any:
    """made(function) is the first example of a split whose rows become ``function(row)``."""

    def load(example: Any) -> Example:
        monkeypatch.setattr(type(get_task("colours")), "example", lambda self, row: example(row))
        return load_split(get_task("colours"), "train", DataSource()).examples[0]

    return load


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (lambda row: Example("p", -1), "label -1 is not one of the 5 answers"),
        (lambda row: Example("p", 5), "label 5 is not one of the 5 answers"),
        (lambda row: Example("p", 0.0), "label 0.0 is not a whole number"),
        (lambda row: Example("p", "1"), "label '1' is not a whole number"),
        (lambda row: Example(None, 0), "field 'prompt' is None: it should be text"),
        (lambda row: Example(" ", 0), "field 'prompt' is empty"),
        (lambda row: Example("\ud800", 0), "the prompt is not valid Unicode"),
        (lambda row: ("p", 0), "the task made a tuple of it"),
        (lambda row: Example("p", 0, truth=(0.5, 0.5)), "is not a probability above 0 for each of the 5"),
        (lambda row: Example("p", 0, truth=(0.3,) * 5), "is not a probability above 0 for each of the 5"),
        (lambda row: Example("p", 0, truth=(1, 0, 0, 0, 0)), "is not a probability above 0 for each of the 5"),
        (lambda row: row["no_such"], "field 'no_such' is missing"),
        (lambda row: {}["key"], "KeyError: 'key', in Colours.example: correct that method"),
        (lambda row: int("x"), "ValueError: invalid literal"),
    ],
)
def test_a_row_that_makes_no_example_is_named(made: Any, example: Any, said: str) -> None:
    with pytest.raises(ValueError, match=r"^colours/train, row 0: ") as error:
        made(example)
    assert said in str(error.value)


@pytest.mark.parametrize("label", [True, np.int64(1), 1])
def test_a_label_of_any_whole_kind_is_a_number(made: Any, label: Any) -> None:
    assert type(made(lambda row: Example("p", label)).label) is int


def test_a_task_that_drops_every_row_is_refused(made: Any) -> None:
    with pytest.raises(ValueError, match="no row of 40 could be used"):
        made(lambda row: None)
