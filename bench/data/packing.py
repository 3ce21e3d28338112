"""Packed prompts: the prompts of a batch in one row without padding, each with positions from 0.

A causal model that is told of no attention mask reads the start of a prompt off the positions, which return to 0 there:
transformers then makes attention causal within each prompt (block-diagonal), with its windows, in every attention
kernel. :func:`bench.model.checks.check_packing` holds a base to that before anything relies on it.

The prompts of a task begin with the same instruction. A causal model gives its tokens the same keys and values in each
of them, so a row may hold it once: attention then reads it for every prompt (bench.model.forward.packed_attention).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Packed:
    """B prompts in one row of N tokens. (1, N) token ids and positions; (B,) places of the last tokens; B lengths.

    With ``shared`` S > 0, the S tokens that all prompts begin with are in the row once: the longest prompt comes first
    and whole, and of the others, the longer ones first, what follows those S tokens, at positions from S. ``lengths``
    are those of whole prompts, in the order of the row; ``ends`` and ``prompts`` keep the order of the batch.
    """

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    lengths: tuple[int, ...]
    shared: int = 0
    prompts: tuple[Sequence[int], ...] = ()

    def part(self, low: int, high: int) -> Packed | None:
        """The prompts from ``low`` up to ``high``; None where padding costs them less."""
        if self.shared:
            return packed(self.prompts[low:high], self.input_ids.device, share=True)
        lengths = self.lengths[low:high]
        if uniform(lengths):
            return None
        start, stop = sum(self.lengths[:low]), sum(self.lengths[:high])
        return Packed(
            self.input_ids[:, start:stop], self.position_ids[:, start:stop], self.ends[low:high] - start, lengths
        )


def uniform(lengths: Sequence[int]) -> bool:
    """Whether all prompts have one length: rows of their own then need no mask that grows with (sum of lengths)^2."""
    return len(set(lengths)) <= 1


def shared_start(prompts: Sequence[Sequence[int]]) -> int:
    """The number of tokens that two or more prompts all begin with, short of the last token of any of them."""
    if len(prompts) < 2:
        return 0
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def packed(prompts: Sequence[Sequence[int]], device: torch.device, share: bool = False) -> Packed | None:
    """One row of all prompts (token ids, none empty); None where padding costs them less.

    With ``share`` the tokens that all of them begin with are in it once.
    """
    lengths = tuple(map(len, prompts))
    if 0 in lengths:
        return None
    shared = shared_start(prompts) if share else 0
    if uniform(lengths) and not shared:
        return None
    order = sorted(range(len(prompts)), key=lambda n: -lengths[n]) if shared else range(len(prompts))
    pieces = [range(shared if place else 0, lengths[n]) for place, n in enumerate(order)]
    ends = torch.empty(len(prompts), dtype=torch.long)
    ends[list(order)] = torch.tensor([len(piece) for piece in pieces]).cumsum(0) - 1
    return Packed(
        torch.tensor([[prompts[n][at] for n, piece in zip(order, pieces, strict=True) for at in piece]]).to(device),
        torch.tensor([list(itertools.chain.from_iterable(pieces))]).to(device),
        ends.to(device),
        tuple(lengths[n] for n in order),
        shared,
        tuple(prompts) if shared else (),
    )
