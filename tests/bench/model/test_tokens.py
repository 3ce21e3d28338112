"""Tokens kept in memory: each prompt is tokenised once, with the ids it had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import CPU, PROMPTS, byte_level, examples, lora

from bench.model.choice_model import load_model
from bench.model.tokens import Tokens


class Counting:
    """A tokenizer that notes what it reads."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.read = inner, []  # type: ignore[var-annotated]

    def __call__(self, texts: Sequence[str] | str, **options: Any) -> Any:
        self.read += [texts] if isinstance(texts, str) else texts
        return self.inner(texts, **options)


@pytest.mark.parametrize("ends", [("<s>", ""), ("<s>", "</s>"), ("", "")])
def test_kept_ids_are_those_of_the_tokenizer_and_each_prompt_is_read_once(ends: tuple[str, str]) -> None:
    tokenizer = byte_level(*ends)
    counting = Counting(tokenizer)
    tokens = Tokens(counting, "m", "plain")
    counting.read.clear()
    found = [list(ids) for ids in (*tokens(PROMPTS[:2]), *tokens([*PROMPTS, PROMPTS[0]]))]
    assert sorted(counting.read) == sorted(PROMPTS)
    whole = [tokenizer(prompt)["input_ids"] for prompt in (*PROMPTS[:2], *PROMPTS, PROMPTS[0])]
    assert found == [ids[:-1] if ends[1] else ids for ids in whole]


def test_what_is_kept_is_limited() -> None:
    counting = Counting(byte_level("<s>"))
    tokens = Tokens(counting, "m", "plain", most=len(byte_level("<s>")(PROMPTS[0])["input_ids"]) + 2)
    counting.read.clear()
    for prompt in (PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[2], PROMPTS[0]):
        assert list(tokens([prompt])[0]) == byte_level("<s>")(prompt)["input_ids"]
    assert counting.read == [PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[0]]  # the second is too long to be kept


def test_a_split_that_is_read_again_is_not_tokenised_again(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(lora(), llama, CPU)
    first = model.encode(examples(), 320)
    monkeypatch.setattr(model._tokens, "_tokenize", lambda prompts: pytest.fail("tokenised again"))
    assert model.encode(examples(), 320) == first
    cut = model.encode(examples(), 8)
    assert cut.tokens == tuple(ids[:8] for ids in first.tokens) and cut.truncated > first.truncated == 0
    guard = model.guard()
    model._tokens._known.clear()  # a method's doing
    guard.restore()
    assert model.encode(examples(), 320) == first
