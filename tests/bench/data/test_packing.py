"""Packed rows: every prompt once, positions from 0, ends; what prompts share once; and when batches stay padded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from bench.data.batches import Batch, Encoded
from bench.data.packing import Packed, packed, shared_start
from bench.task import Example

CPU = torch.device("cpu")
LENGTHS = (3, 9, 9, 1, 6)


def encoded(lengths: Sequence[int], packing: bool = True) -> Encoded:
    """Examples whose tokens are 100 n, 100 n + 1, ...: no two alike."""
    tokens = tuple(tuple(range(100 * n + 100, 100 * n + 100 + length)) for n, length in enumerate(lengths))
    return Encoded(tokens, tuple(Example("", 0, str(n)) for n in range(len(lengths))), 2, CPU, 0, packing=packing)


def begun_alike(lengths: Sequence[int], start: int, share: bool = True) -> Encoded:
    """Examples of those lengths whose first ``start`` tokens are 1, 2, ..."""
    plain = encoded(lengths)
    tokens = tuple((*range(1, start + 1), *prompt[start:]) for prompt in plain.tokens)
    return dataclasses.replace(plain, tokens=tokens, shared_prefix=share)


def same(one: Packed | None, other: Packed | None) -> None:
    assert one is not None and other is not None and one.lengths == other.lengths and one.shared == other.shared
    for name in ("input_ids", "position_ids", "ends"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def values(batch: Batch) -> tuple[object, ...]:
    return tuple(
        value.tolist() if isinstance(value, torch.Tensor) else value
        for value in (getattr(batch, field.name) for field in dataclasses.fields(batch))
    )


def test_a_row_holds_each_prompt_once_with_positions_from_0_and_no_pad() -> None:
    row = encoded([3, 2]).batch([1, 0]).packed
    assert row is not None
    assert row.input_ids.tolist() == [[200, 201, 100, 101, 102]]
    assert row.position_ids.tolist() == [[0, 1, 0, 1, 2]]
    assert row.ends.tolist() == [1, 4] and row.lengths == (2, 3)
    assert {tensor.dtype for tensor in (row.input_ids, row.position_ids, row.ends)} == {torch.int64}


def test_the_padded_rows_of_a_packed_batch_are_those_without_packing() -> None:
    plain = encoded(LENGTHS, packing=False).batch(range(5))
    assert plain.packed is None and plain.padded() is plain
    assert values(encoded(LENGTHS).batch(range(5)).padded()) == values(plain)


@pytest.mark.parametrize("lengths", [(4, 4, 4), (7,), (0, 5)])
def test_prompts_that_gain_nothing_stay_padded(lengths: tuple[int, ...]) -> None:
    assert encoded(lengths).batch(range(len(lengths))).packed is None


@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_a_piece_of_a_packed_batch_is_the_pack_of_its_prompts(pieces: int) -> None:
    data, low = encoded(LENGTHS), 0
    for piece in data.batch(range(5)).split(pieces):
        alone = packed(data.tokens[low : low + len(piece)], CPU)
        if alone is None:
            assert piece.packed is None
        else:
            same(piece.packed, alone)
        low += len(piece)
    assert low == 5


def test_training_batches_are_packed_and_sorted_ones_are_not() -> None:
    data = encoded(LENGTHS)
    assert next(data.shuffled(5, seed=1)).packed is not None
    for plain, ours in zip(encoded(LENGTHS, packing=False).in_order(2), data.in_order(2), strict=True):
        assert plain[0] == ours[0] and values(plain[1]) == values(ours[1])


# --- what prompts begin with, once ------------------------------------------------------------------------------------


def test_a_row_holds_the_shared_tokens_once_and_the_longest_prompt_first() -> None:
    row = begun_alike([4, 3, 6], 2).batch([0, 1, 2]).packed
    assert row is not None and row.shared == 2 and row.lengths == (6, 4, 3)
    assert row.input_ids.tolist() == [[1, 2, 302, 303, 304, 305, 102, 103, 202]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4, 5, 2, 3, 2]]
    assert row.ends.tolist() == [7, 8, 5]  # in the order of the batch
    assert {tensor.dtype for tensor in (row.input_ids, row.position_ids, row.ends)} == {torch.int64}


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        (["abcd", "abxy", "abc"], 2),
        (["ab", "abcd"], 1),  # the last token of each is its own
        (["abc", "abc"], 2),
        (["ba", "ab"], 0),
        (["abcd"], 0),
    ],
)
def test_the_shared_tokens_are_those_before_the_first_difference(prompts: list[str], shared: int) -> None:
    assert shared_start([[ord(letter) for letter in prompt] for prompt in prompts]) == shared


def test_prompts_of_one_length_are_packed_where_they_share_tokens() -> None:
    row = begun_alike([4, 4], 2).batch([0, 1]).packed
    assert row is not None and row.input_ids.tolist() == [[1, 2, 102, 103, 202, 203]]
    assert begun_alike([4, 4], 0).batch([0, 1]).packed is None and begun_alike([4, 4], 2).batch([1]).packed is None


def test_prompts_that_share_nothing_are_packed_in_their_order() -> None:
    same(begun_alike(LENGTHS, 0).batch(range(5)).packed, encoded(LENGTHS).batch(range(5)).packed)


@pytest.mark.parametrize("pieces", [1, 2, 3, 5])
def test_a_piece_of_a_batch_shares_its_tokens_too(pieces: int) -> None:
    data, low = begun_alike((4, 9, 9, 3, 6), 2), 0
    for piece in data.batch(range(5)).split(pieces):
        alone = packed(data.tokens[low : low + len(piece)], CPU, share=True)
        if alone is None:
            assert piece.packed is None and len(piece) == 1
        else:
            same(piece.packed, alone)
        low += len(piece)
    assert low == 5


def test_sorted_batches_are_packed_where_prompts_share_tokens() -> None:
    shared, plain = (begun_alike((4, 9, 8, 3, 6), 2, share) for share in (True, False))
    assert next(shared.shuffled(5, seed=1)).packed is not None
    for tokens in (0, 16):
        for (rows, batch), (others, padded) in zip(shared.in_order(2, tokens), plain.in_order(2, tokens), strict=True):
            assert rows == others and values(batch.padded()) == values(padded) and padded.packed is None
            assert len(rows) == 1 or (batch.packed is not None and batch.packed.shared == 2)
