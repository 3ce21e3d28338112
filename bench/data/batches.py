"""Tokenised examples and the padded batches made of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.specs import digest
from bench.task import Example

PAD_MULTIPLE = 8  # sequence lengths are rounded up to it (PROTOCOL: code)


def ends_in_cue(prompt: str) -> bool:
    """Whether a prompt ends in words that ask for the answer: ``Answer:``, or others with a colon."""
    return prompt.rstrip().endswith(":")


@dataclasses.dataclass(frozen=True)
class Batch:
    """Left-padded prompts. (B, T) token ids, mask and positions; (B,) labels; the examples' ids."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, pieces: int) -> Iterator[Batch]:
        """The batch in ``pieces`` nearly equal parts, for gradient accumulation."""
        if pieces == 1:
            yield self
            return
        bounds = [round(i * len(self) / pieces) for i in range(pieces + 1)]
        for low, high in itertools.pairwise(bounds):
            yield Batch(
                self.input_ids[low:high],
                self.attention_mask[low:high],
                self.position_ids[low:high],
                self.labels[low:high],
                self.ids[low:high],
            )


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Tokenised examples, ready to be batched in any order.

    Attributes:
        truncated: prompts that lost their end to ``max_length``.
        cue_lost: those of them that ended in a cue such as ``Answer:``, which is gone, and the options before it with
            it if they were longer than what is left.
    """

    tokens: tuple[tuple[int, ...], ...]
    examples: tuple[Example, ...]
    pad: int
    device: torch.device
    truncated: int
    cue_lost: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def facts(self) -> dict[str, int]:
        """The effect of truncation, for the record."""
        return {"truncated": self.truncated, "cue_lost": self.cue_lost}

    def loss_of_text(self, use: str, max_length: int) -> str:
        """A sentence on the effect of truncation, or "" if it cost nothing; ``use``: training, scored, ..."""
        if not self.truncated:
            return ""
        lost = "their end" if not self.cue_lost else f"their end, {self.cue_lost} of them the cue for the answer"
        return (
            f"{self.truncated} of {len(self)} {use} prompts are longer than max_length={max_length} tokens and lost "
            f"{lost}. What lies at the end of a prompt, such as its options, is not read: raise max_length."
        )

    def batch(self, rows: Sequence[int]) -> Batch:
        """The examples at ``rows`` as one batch, padded on the left to a multiple of 8; positions skip the pads."""
        longest = max(len(self.tokens[row]) for row in rows)
        width = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE
        pads = [width - len(self.tokens[row]) for row in rows]
        input_ids = torch.tensor([[self.pad] * p + list(self.tokens[row]) for p, row in zip(pads, rows, strict=True)])
        starts = torch.tensor(pads).unsqueeze(1)
        places = torch.arange(width).unsqueeze(0)
        labels = torch.tensor([self.examples[row].label for row in rows])
        return Batch(
            input_ids.to(self.device),
            (places >= starts).long().to(self.device),
            (places - starts).clamp(min=0).to(self.device),
            labels.to(self.device),
            tuple(self.examples[row].id for row in rows),
        )

    def in_order(self, batch_size: int) -> Iterator[tuple[list[int], Batch]]:
        """All examples once, of similar length together: (their rows, the batch). The last batch may be smaller."""
        order = sorted(range(len(self)), key=lambda row: (len(self.tokens[row]), row))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield rows, self.batch(rows)

    def shuffled(self, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Batch]:
        """Endless training batches of equal size: each epoch is a fresh permutation, and batches run across epochs.

        The batch of a step depends on (seed, step) alone, so a resumed run sees the batches it would have seen.
        """
        epoch, order = -1, []
        for step in itertools.count(first_step):
            rows = []
            for place in range(step * batch_size, (step + 1) * batch_size):
                if place // len(self) != epoch:
                    epoch = place // len(self)
                    generator = torch.Generator().manual_seed(digest(seed, epoch))
                    order = torch.randperm(len(self), generator=generator).tolist()
                rows.append(order[place % len(self)])
            yield self.batch(rows)
