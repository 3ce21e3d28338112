"""Answer tokens, and the read-out that computes their logits only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from bench.errors import ModelNotUsable
from bench.model.placement import at_hand
from bench.model.prompts import PLAIN, before_answer


def answer_tokens(tokenizer: Any, answers: Sequence[str], model: str, form: str = PLAIN) -> tuple[int, ...]:
    """The token ids that answer a prompt: the one token each answer adds after it (after ``Answer:`` if it is plain).

    After a plain prompt the form with a leading space is taken where each answer is one token in it, else the bare
    form; after a chat's, the one that its template uses comes first.

    Raises:
        ValueError: an answer is more than one token in both forms, or two answers share one.
        ModelNotUsable: a chat prompt is asked for, and the tokenizer has no template.
    """
    before, spaces = before_answer(tokenizer, form, model)
    cue = tokenizer(before, add_special_tokens=False)["input_ids"]

    def added(text: str) -> list[int]:
        whole = tokenizer(before + text, add_special_tokens=False)["input_ids"]
        return list(whole[len(cue) :]) if whole[: len(cue)] == cue else []

    tried = {}
    for space in spaces:
        tokens = [added(space + answer) for answer in answers]
        unknown = tokenizer.unk_token_id
        if all(len(t) == 1 and t[0] != unknown for t in tokens) and len({t[0] for t in tokens}) == len(answers):
            return tuple(t[0] for t in tokens)
        tried[space] = {answer: tokenizer.convert_ids_to_tokens(t) for answer, t in zip(answers, tokens, strict=True)}
    raise ValueError(
        f"The tokenizer of {model} does not encode each answer as one distinct token after "
        f"{repr(before) if form == PLAIN else 'its chat template'} (with a space: {tried[' ']}; without: {tried['']}). "
        "Use another model or a task with other answers."
    )


def check_rows(ids: Sequence[int], answers: Sequence[str], rows: int, model: str) -> None:
    """Refuse answers whose tokens ``ids`` are not among the ``rows`` of the output layer.

    Raises:
        ModelNotUsable: the first such answer; a tokenizer has tokens that the model was never given.
    """
    for number, answer in zip(ids, answers, strict=True):
        if number >= rows:
            raise ModelNotUsable(
                f"The tokenizer of {model} has the answer {answer!r} as token {number}, and its output layer has {rows}"
                " rows: use the model's own tokenizer, or a task with other answers."
            )


def answer_rows(head: Any, ids: Sequence[int]) -> nn.Linear:
    """The rows ``ids`` of an output layer, with their biases, as a frozen linear layer (C, d)."""
    bias = getattr(head, "bias", None)
    rows = nn.Linear(head.weight.shape[1], len(ids), bias=bias is not None, device="meta").eval()
    with at_hand(head):
        rows.weight = nn.Parameter(head.weight.detach()[list(ids)], requires_grad=False)
        if bias is not None:
            rows.bias = nn.Parameter(head.bias.detach()[list(ids)], requires_grad=False)
    return rows


def closing_tokens(tokenizer: Any) -> int:
    """The number of tokens, such as an EOS, that the tokenizer appends to every text."""
    bare = tokenizer("Answer:", add_special_tokens=False)["input_ids"]
    whole = tokenizer("Answer:")["input_ids"]
    extra = len(whole) - len(bare)
    return next((extra - lead for lead in range(extra + 1) if whole[lead : lead + len(bare)] == bare), 0)
