"""Batches: padding, positions, order, shuffling, and the part of train that is set aside."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from bench.data.batches import Batch, Encoded
from bench.data.splits import DataSource, Split, _load, data_spec, load_split, split_holdout
from bench.registry import get_task
from bench.task import Example

PAD = 2


def encoded(lengths: Sequence[int]) -> Encoded:
    """Examples whose tokens are 100 n, 100 n + 1, ...: no two alike, none the pad."""
    tokens = tuple(tuple(range(100 * n + 100, 100 * n + 100 + length)) for n, length in enumerate(lengths))
    examples = tuple(Example(f"prompt {n}", n % 3, id=f"train/{n}") for n in range(len(lengths)))
    return Encoded(tokens, examples, PAD, torch.device("cpu"), 0)


def names(batch: Batch) -> list[int]:
    return [int(name.removeprefix("train/")) for name in batch.ids]


# --- one batch --------------------------------------------------------------------------------------------------------


def test_short_prompts_are_padded_on_the_left() -> None:
    batch = encoded([3, 5]).batch([0, 1])
    assert batch.input_ids.tolist() == [
        [PAD, PAD, PAD, PAD, PAD, 100, 101, 102],
        [PAD, PAD, PAD, 200, 201, 202, 203, 204],
    ]


def test_the_mask_covers_the_prompt_and_nothing_else() -> None:
    batch = encoded([3, 5]).batch([0, 1])
    assert batch.attention_mask.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1]]


def test_positions_start_at_the_prompt_and_not_at_the_pads() -> None:
    batch = encoded([3, 5]).batch([0, 1])
    assert batch.position_ids.tolist() == [[0, 0, 0, 0, 0, 0, 1, 2], [0, 0, 0, 0, 1, 2, 3, 4]]


@pytest.mark.parametrize(("longest", "width"), [(1, 8), (7, 8), (8, 8), (9, 16), (16, 16), (17, 24), (320, 320)])
def test_the_width_is_the_next_multiple_of_eight(longest: int, width: int) -> None:
    batch = encoded([1, longest]).batch([0, 1])
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.position_ids.shape == (2, width)


def test_a_prompt_keeps_its_positions_whatever_its_batch_mates() -> None:
    alone = encoded([3, 30]).batch([0])
    together = encoded([3, 30]).batch([0, 1])
    for batch in (alone, together):
        seen = batch.attention_mask[0].bool()
        assert batch.input_ids[0][seen].tolist() == [100, 101, 102]
        assert batch.position_ids[0][seen].tolist() == [0, 1, 2]
        assert bool(seen[-1])  # the last position is the prompt's last token: where the answer is read


def test_labels_and_ids_follow_the_rows_asked_for() -> None:
    batch = encoded([4, 4, 4, 4]).batch([3, 1, 1, 2])
    assert batch.ids == ("train/3", "train/1", "train/1", "train/2")
    assert batch.labels.tolist() == [0, 1, 1, 2]
    assert len(batch) == 4


def test_everything_in_a_batch_is_of_whole_numbers() -> None:
    batch = encoded([3, 5]).batch([0, 1])
    kinds = {t.dtype for t in (batch.input_ids, batch.attention_mask, batch.position_ids, batch.labels)}
    assert kinds == {torch.int64}


@pytest.mark.parametrize(("size", "pieces", "sizes"), [(4, 1, [4]), (4, 2, [2, 2]), (4, 4, [1] * 4), (7, 3, [2, 3, 2])])
def test_a_batch_in_pieces_is_the_batch(size: int, pieces: int, sizes: list[int]) -> None:
    whole = encoded(range(3, 3 + size)).batch(range(size))
    parts = list(whole.split(pieces))
    assert [len(part) for part in parts] == sizes
    assert tuple(itertools.chain.from_iterable(part.ids for part in parts)) == whole.ids
    for name in ("input_ids", "attention_mask", "position_ids", "labels"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


# --- evaluation order -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(10, 4), (10, 5), (10, 3), (10, 1), (10, 100), (1, 8)])
def test_in_order_covers_each_example_once_and_keeps_the_last_batch(count: int, size: int) -> None:
    data = encoded([5 + 7 * n % 11 for n in range(count)])
    seen = list(data.in_order(size))
    assert sorted(itertools.chain.from_iterable(rows for rows, _ in seen)) == list(range(count))
    assert [len(batch) for _, batch in seen[:-1]] == [size] * (len(seen) - 1)
    assert len(seen[-1][1]) == (count % size or min(size, count))
    assert len(seen) == -(-count // size)


def test_in_order_tells_which_rows_a_batch_holds() -> None:
    for rows, batch in encoded([9, 3, 7, 3, 20]).in_order(2):
        assert rows == names(batch)


def test_in_order_puts_prompts_of_similar_length_together() -> None:
    order = [rows for rows, _ in encoded([30, 3, 20, 3, 10]).in_order(2)]
    assert order == [[1, 3], [4, 2], [0]]


# --- training order ---------------------------------------------------------------------------------------------------


def order_of(data: Encoded, size: int, seed: int, steps: int, first_step: int = 0) -> list[list[int]]:
    return [names(batch) for batch in itertools.islice(data.shuffled(size, seed, first_step), steps)]


@pytest.mark.parametrize(("count", "size"), [(10, 4), (10, 10), (7, 3), (3, 8), (1, 2), (12, 4)])
def test_each_epoch_is_a_permutation_and_no_example_is_dropped(count: int, size: int) -> None:
    data = encoded([4] * count)
    epochs = 6
    flat = list(itertools.chain.from_iterable(order_of(data, size, seed=5, steps=-(-epochs * count // size))))
    for epoch in range(epochs):
        assert sorted(flat[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_every_batch_is_full_and_runs_across_epochs() -> None:
    batches = order_of(encoded([4] * 10), 4, seed=5, steps=50)
    assert {len(batch) for batch in batches} == {4}
    flat = list(itertools.chain.from_iterable(batches))
    assert batches[2] == flat[8:12]  # two of the first epoch, two of the second
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))


def test_epochs_are_shuffled_and_not_alike() -> None:
    flat = list(itertools.chain.from_iterable(order_of(encoded([4] * 20), 4, seed=5, steps=25)))
    epochs = [tuple(flat[start : start + 20]) for start in range(0, 100, 20)]
    assert len({*epochs, tuple(range(20))}) == 6


def test_the_order_is_that_of_the_seed() -> None:
    data = encoded([4] * 20)
    assert order_of(data, 4, 5, 30) == order_of(data, 4, 5, 30)
    assert order_of(data, 4, 5, 30) != order_of(data, 4, 6, 30)


def test_the_order_does_not_depend_on_the_global_generator_nor_move_it() -> None:
    data = encoded([4] * 20)
    torch.manual_seed(1)
    first = order_of(data, 4, 5, 10)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert order_of(data, 4, 5, 10) == first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [1, 3, 4, 25])
def test_training_goes_on_from_any_step_as_if_it_had_not_stopped(size: int) -> None:
    data = encoded([4] * 10)
    whole = order_of(data, size, seed=5, steps=30)
    for step in range(30):
        assert order_of(data, size, 5, 30 - step, first_step=step) == whole[step:]


def test_the_order_of_examples_does_not_depend_on_the_batch_size() -> None:
    data = encoded([4] * 10)
    by_two, by_five = (order_of(data, size, 5, 60 // size) for size in (2, 5))
    assert list(itertools.chain.from_iterable(by_two)) == list(itertools.chain.from_iterable(by_five))


def test_places_in_an_epoch_are_fair() -> None:
    """Over 600 epochs each of 6 examples comes first about 100 times: mean 100, sd 9.1."""
    firsts = Counter(batch[0] for batch in order_of(encoded([4] * 6), 6, seed=3, steps=600))
    assert all(abs(firsts[n] - 100) < 5 * 9.1 for n in range(6))


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
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = type(get_task("notes_two"))
    whole = list(get_task("notes_two").generate("validation") or [])
    monkeypatch.setattr(task, "generate", lambda self, split: whole[:-1])
    source = DataSource(data_dir=None, allow_partial=True)
    from bench.data.splits import splits as data

    with pytest.raises(ValueError, match=r"^notes_two/validation has 255 rows; the official validation split"):
        data._load.__wrapped__("notes_two", "validation", DataSource())
    assert data._load.__wrapped__("notes_two", "validation", source).facts["partial"] is True


def test_a_label_beyond_the_answers_is_a_malformed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.data.splits import splits as data

    rows = [{"words": [], "label": 0}, {"words": [], "label": 2}]
    task = type(get_task("notes_two"))
    monkeypatch.setattr(task, "generate", lambda self, split: rows)
    monkeypatch.setattr(task, "example", lambda self, row: Example("x", row["label"]))
    with pytest.raises(ValueError, match=r"^notes_two/train, row 1: label 2 is not one of the 2 answers\."):
        data._load.__wrapped__("notes_two", "train", DataSource(allow_partial=True))


def test_a_task_of_which_every_row_is_dropped_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.data.splits import splits as data

    monkeypatch.setattr(type(get_task("notes_two")), "example", lambda self, row: None)
    with pytest.raises(ValueError, match=r"^notes_two/train: no row of 256 could be used\. Is it the right dataset\?"):
        data._load.__wrapped__("notes_two", "train", DataSource())


def test_a_split_is_loaded_once_in_a_process() -> None:
    assert load_split("notes_two", "train", DataSource()) is load_split("notes_two", "train", DataSource())


def test_a_missing_hub_dataset_is_a_sentence_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*args: Any, **kwargs: Any) -> None:
        assert args == ("allenai/winogrande", "winogrande_s")
        assert kwargs == {"revision": "01e74176c63542e6b0bcb004dcdea22d94fb67b5", "split": "train"}
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(FileNotFoundError) as error:
        load_split("wg_s", "train", DataSource())
    assert str(error.value) == (
        "allenai/winogrande (winogrande_s, train) could not be loaded from the hub at revision 01e74176c635 "
        "(ConnectionError: offline). Offline, give a local mirror with --data-dir DIR."
    )


def test_an_identity_is_found_without_reading_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.data.splits import splits as data

    monkeypatch.setattr(data, "load_split", lambda *args: pytest.fail("read rows"))
    assert data_spec("boolq", DataSource()).revision == "3de24cf8022e94f4ee4b9d55a6f539891524d646"


# --- what a task's example() may not make of a row -------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """made(function) is the first example of a split whose rows become ``function(row)``."""

    def load(example: Any) -> Example:
        _load.cache_clear()
        monkeypatch.setattr(type(get_task("colours")), "example", lambda self, row: example(row))
        return load_split("colours", "train", DataSource()).examples[0]

    yield load
    _load.cache_clear()


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (lambda row: Example("p", -1), "label -1 is not one of the 5 answers"),
        (lambda row: Example("p", 5), "label 5 is not one of the 5 answers"),
        (lambda row: Example("p", 0.0), "label 0.0 is not a whole number"),
        (lambda row: Example("p", "1"), "label '1' is not a whole number"),
        (lambda row: Example(None, 0), "field 'prompt' is None: it should be text"),
        (lambda row: Example(" ", 0), "field 'prompt' is empty"),
        (lambda row: Example("\ud800", 0), "the prompt is no Unicode text"),
        (lambda row: ("p", 0), "the task made a tuple of it"),
        (lambda row: Example("p", 0, truth=(0.5, 0.5)), "is not a probability above 0 for each of the 5"),
        (lambda row: Example("p", 0, truth=(0.3,) * 5), "is not a probability above 0 for each of the 5"),
        (lambda row: Example("p", 0, truth=(1, 0, 0, 0, 0)), "is not a probability above 0 for each of the 5"),
        (lambda row: row["no_such"], "field 'no_such' is missing"),
        (lambda row: {}["key"], "KeyError: 'key', in Colours.example: mend that method"),
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
