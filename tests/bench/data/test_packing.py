"""Packed rows: every prompt once, positions from 0, ends; and when batches stay padded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from bench.data.batches import Batch, Encoded
from bench.data.packing import Packed, packed
from bench.task import Example

CPU = torch.device("cpu")
LENGTHS = (3, 9, 9, 1, 6)


def encoded(lengths: Sequence[int], packing: bool = True) -> Encoded:
    """Examples whose tokens are 100 n, 100 n + 1, ...: no two alike."""
    tokens = tuple(tuple(range(100 * n + 100, 100 * n + 100 + length)) for n, length in enumerate(lengths))
    return Encoded(tokens, tuple(Example("", 0, str(n)) for n in range(len(lengths))), 2, CPU, 0, packing=packing)


def same(one: Packed | None, other: Packed | None) -> None:
    assert one is not None and other is not None and one.lengths == other.lengths
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
