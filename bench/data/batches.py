"""Tokenised examples and the batches made of them, padded or packed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.data.packing import Packed, packed
from bench.specs import digest
from bench.task import Example

PAD_MULTIPLE = 8  # sequence lengths are rounded up to it (PROTOCOL: code)


def ends_in_cue(prompt: str) -> bool:
    """Whether a prompt ends in words that ask for the answer: ``Answer:``, or others with a colon."""
    return prompt.rstrip().endswith(":")


def padded_length(length: int) -> int:
    """The width of a padded batch whose longest prompt has so many tokens."""
    return -(-length // PAD_MULTIPLE) * PAD_MULTIPLE


@dataclasses.dataclass(frozen=True)
class Batch:
    """Left-padded prompts. (B, T) token ids, mask and positions; (B,) labels; the examples' ids.

    With ``packed`` a model reads that row instead of the padded ones: the hooks of its layers then see (1, N, features)
    for the N tokens of all prompts. Tokens that prompts share there are one row of such a hook: adapter dropout drops
    the same of their features for each of the prompts. A method that needs one row per prompt passes :meth:`padded`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    packed: Packed | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def padded(self) -> Batch:
        """The same prompts, one row each."""
        return self if self.packed is None else dataclasses.replace(self, packed=None)

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
                self.packed and self.packed.part(low, high),
            )


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Tokenised examples, ready to be batched in any order.

    Attributes:
        truncated: prompts that lost their end to ``max_length``.
        cue_lost: those of them that ended in a cue such as ``Answer:``, which is gone, and the options before it with
            it if they were longer than what is left.
        packing: whether the batches of a training are packed (bench.data.packing). Those :meth:`in_order` are not: they
            hold hardly a pad, and the mask of a packed row grows with the square of its tokens.
        shared_prefix: whether all batches are packed, those :meth:`in_order` too, with the tokens that the prompts of a
            batch begin with in the row once.
        blanks: plain prompts that end in a blank or a line break.
    """

    tokens: tuple[tuple[int, ...], ...]
    examples: tuple[Example, ...]
    pad: int
    device: torch.device
    truncated: int
    cue_lost: int = 0
    packing: bool = False
    shared_prefix: bool = False
    blanks: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def facts(self) -> dict[str, int]:
        """The effect of truncation, for the record."""
        return {"truncated": self.truncated, "cue_lost": self.cue_lost}

    def loss_of_text(self, use: str, max_length: int) -> str:
        """What is lost at the ends of prompts, in sentences, or "" if nothing is; ``use``: training, scored, ..."""
        return " ".join(filter(None, (self._cut_off(use, max_length), self._behind_blanks(use))))

    def _behind_blanks(self, use: str) -> str:
        if not self.blanks:
            return ""
        return (
            f"{self.blanks} of {len(self)} {use} prompts end in a blank or a line break, and an answer is read as the "
            "token, often one that begins with a blank, that follows a cue such as 'Answer:' at once. Remove what "
            "follows the cue."
        )

    def _cut_off(self, use: str, max_length: int) -> str:
        if not self.truncated:
            return ""
        lost = "their end" if not self.cue_lost else f"their end, {self.cue_lost} of them the cue for the answer"
        return (
            f"{self.truncated} of {len(self)} {use} prompts are longer than max_length={max_length} tokens and lost "
            f"{lost}. What lies at the end of a prompt, such as its options, is not read: raise max_length."
        )

    def batch(self, rows: Sequence[int]) -> Batch:
        """The examples at ``rows`` as one batch, packed too where ``packing`` says so."""
        batch = self._padded(rows)
        if not self.packing:
            return batch
        prompts = [self.tokens[row] for row in rows]
        return dataclasses.replace(batch, packed=packed(prompts, self.device, self.shared_prefix))

    def _padded(self, rows: Sequence[int]) -> Batch:
        """The examples at ``rows``, padded on the left to a multiple of 8; positions skip the pads."""
        width = padded_length(max(len(self.tokens[row]) for row in rows))
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

    def in_order(self, batch_size: int, tokens: int = 0) -> Iterator[tuple[list[int], Batch]]:
        """All examples once, of similar length together: (their rows, the batch). The last batch may be smaller.

        A batch has ``batch_size`` examples; with ``tokens``, as many as have that many tokens in padded rows, or one.
        """
        order = sorted(range(len(self)), key=lambda row: (len(self.tokens[row]), row))
        start = 0
        while start < len(order):
            stop = start + batch_size if not tokens else self._within(order, start, tokens)
            rows = order[start:stop]
            yield rows, self.batch(rows) if self.shared_prefix else self._padded(rows)
            start = stop

    def _within(self, order: Sequence[int], start: int, tokens: int) -> int:
        """Where a batch of at most ``tokens`` tokens ends that begins at place ``start`` of ``order``."""
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * padded_length(len(self.tokens[order[stop]])) <= tokens:
            stop += 1
        return stop

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
