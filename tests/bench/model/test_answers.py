"""Answer tokens for many kinds of tokenizer."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from tiny import (
    BLANK_ALONE,
    BLANK_APART,
    CPU,
    LETTERS,
    LLAMA,
    TRUTHS,
    build,
    byte_level,
    examples,
    lora,
    metaspace,
    save,
    words,
)  # fmt: skip
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bench.errors import ModelNotUsable
from bench.model.answers import answer_tokens
from bench.model.choice_model import load_model
from bench.model.outline import check_outline


@pytest.mark.parametrize(
    ("tokenizer", "mark"),
    [
        (byte_level(), "Ġ"),
        (byte_level("<s>"), "Ġ"),
        (byte_level("<s>", "</s>"), "Ġ"),
        (metaspace("always"), "▁"),
        (metaspace("first"), "▁"),
        (metaspace("never"), "▁"),
        (BLANK_ALONE, ""),
    ],
    ids=["bytes", "bytes-bos", "bytes-bos-eos", "prepend", "prepend-first", "no-prepend", "blank-alone"],
)
@pytest.mark.parametrize("answers", [LETTERS[:2], LETTERS[:4], LETTERS, TRUTHS], ids="".join)
def test_answers_are_the_tokens_that_follow_the_cue(
    tokenizer: PreTrainedTokenizerFast, mark: str, answers: tuple[str, ...]
) -> None:
    ids = answer_tokens(tokenizer, answers, "m")
    assert tokenizer.convert_ids_to_tokens(list(ids)) == [mark + answer for answer in answers]
    separator = " " if mark else ""
    for token, answer in zip(ids, answers, strict=True):
        text = f"Answer:{separator}{answer}"
        assert tokenizer(text, add_special_tokens=False)["input_ids"][-1] == token


def lower_case() -> PreTrainedTokenizerFast:
    tokenizer = words(pre_tokenizers.BertPreTokenizer(), ["answer", ":", "a", "b"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "answers", "shown"),
    [
        (byte_level(trained=False), TRUTHS, "'ĠTrue'|'T', 'r', 'u', 'e'"),
        (words(pre_tokenizers.BertPreTokenizer(), ["Answer", ":", "A", "B"]), LETTERS[:3], "<unk>"),
        (words(pre_tokenizers.BertPreTokenizer(), ["Answer", ":", "A", "B"]), ("C", "D"), "<unk>"),
        (lower_case(), ("A", "a"), "'A': .'a'., 'a': .'a'."),
        (BLANK_APART, LETTERS[:2], "without: .'A': .."),
    ],
    ids=["pieces", "one-unknown", "all-unknown", "duplicates", "melts-into-the-cue"],
)
def test_answers_without_a_token_of_their_own_are_refused(
    tokenizer: PreTrainedTokenizerFast, answers: tuple[str, ...], shown: str
) -> None:
    with pytest.raises(ValueError, match=r"tokenizer of m does not encode each answer as one distinct token") as caught:
        answer_tokens(tokenizer, answers, "m")
    caught.match(shown)
    caught.match("Use another model or a task with other answers")


def test_an_answer_beyond_the_output_layer_is_named_before_and_after_loading() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([" Zebra", " Yak"])
    folder = save(
        Path(tempfile.mkdtemp()) / "tiny", build("llama", LLAMA | {"vocab_size": len(tokenizer) - 1}), tokenizer
    )
    said = r"has the answer 'Yak' as token \d+, and its output layer has \d+ rows"
    with pytest.raises(ModelNotUsable, match=said):
        check_outline(lora(), folder, [("Zebra", "Yak")])
    model = load_model(lora(), folder, CPU)
    with pytest.raises(ModelNotUsable, match=said):
        model.prepare(("Zebra", "Yak"), seed=1)


def test_an_unused_bos_beyond_the_embedding_is_no_pad() -> None:
    tokenizer = byte_level()
    size = len(tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<beyond>"})
    folder = save(Path(tempfile.mkdtemp()) / "tiny", build("llama", LLAMA | {"vocab_size": size}), tokenizer)
    assert load_model(lora(), folder, CPU).encode(examples(), 320).pad < size
