"""Packed prompts: the prompts of a batch in one row without padding, each with positions from 0.

A causal model that is told of no attention mask reads the start of a prompt off the positions, which return to 0 there:
transformers then makes attention causal within each prompt (block-diagonal), with its windows, in every attention
kernel. :func:`bench.model.checks.check_packing` holds a base to that before anything relies on it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Packed:
    """B prompts with N tokens in all. (1, N) token ids and positions; (B,) places of the last tokens; B lengths."""

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    lengths: tuple[int, ...]

    def part(self, low: int, high: int) -> Packed | None:
        """The prompts from ``low`` up to ``high``; None where padding costs them less."""
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


def packed(prompts: Sequence[Sequence[int]], device: torch.device) -> Packed | None:
    """One row of all prompts (token ids, none empty); None where padding costs them less."""
    lengths = tuple(map(len, prompts))
    if uniform(lengths) or 0 in lengths:
        return None
    return Packed(
        torch.tensor([list(itertools.chain.from_iterable(prompts))]).to(device),
        torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0).to(device),
        (torch.tensor(lengths).cumsum(0) - 1).to(device),
        lengths,
    )
