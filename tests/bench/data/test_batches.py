"""Batches: padding, positions, order, shuffling."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from bench.data.batches import Batch, Encoded, ends_in_cue
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


# --- what truncation costs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "asks"),
    [
        ("Which? A. one B. two Answer:", True),
        ("Is it so? Réponse: ", True),
        ("Is it so? Context: Yes, it is.", False),
        ("A: 1 B: 2", False),
        ("", False),
    ],
)
def test_a_prompt_that_ends_in_a_colon_asks_for_the_answer(prompt: str, asks: bool) -> None:
    assert ends_in_cue(prompt) is asks


def test_what_truncation_cost_is_counted_and_told() -> None:
    whole = encoded([3, 5])
    assert whole.facts == {"truncated": 0, "cue_lost": 0} and whole.loss_of_text("training", 16) == ""
    cut = dataclasses.replace(whole, truncated=2, cue_lost=1)
    assert cut.facts == {"truncated": 2, "cue_lost": 1}
    assert cut.loss_of_text("training", 16) == (
        "2 of 2 training prompts are longer than max_length=16 tokens and lost their end, 1 of them the cue for the "
        "answer. What lies at the end of a prompt, such as its options, is not read: raise max_length."
    )
    passages = dataclasses.replace(cut, cue_lost=0).loss_of_text("scored", 320)
    assert passages.startswith("2 of 2 scored prompts are longer than max_length=320 tokens and lost their end. What")


# --- batches of so many tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 40, 64, 100, 10_000])
def test_a_batch_within_a_budget_is_the_largest_that_has_no_more_tokens(tokens: int) -> None:
    data = encoded([30, 3, 20, 3, 10, 9, 17, 40, 8])
    found = list(data.in_order(2, tokens))
    assert [row for rows, _ in found for row in rows] == [row for rows, _ in data.in_order(1) for row in rows]
    for rows, batch in found:
        assert len(rows) == 1 or batch.input_ids.numel() <= tokens
    for (rows, _), (following, _) in itertools.pairwise(found):
        assert data.batch([*rows, following[0]]).input_ids.numel() > tokens
