"""Tokenised prompts, kept in memory: all methods and families of a worker read the same splits."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from bench.model.answers import closing_tokens
from bench.model.prompts import PLAIN, rendered

MOST = 2**26  # tokens kept, of 4 bytes each


class Tokens:
    """The token ids of prompts, each tokenised once.

    Args:
        tokenizer: of the base.
        model: what messages call the base.
        form: of the prompts (bench.model.prompts). A plain prompt gets the tokenizer's own BOS and no EOS; a chat, what
            its template writes.
        most: tokens to keep; what would go beyond takes the place of all that is kept, unless it is more by itself.
    """

    def __init__(self, tokenizer: Any, model: str, form: str, most: int = MOST) -> None:
        self._tokenizer, self._model, self._form, self._most = tokenizer, model, form, most
        self._closing = closing_tokens(tokenizer) if form == PLAIN else 0
        self._known: dict[str, array[int]] = {}
        self._kept = 0

    def __call__(self, prompts: Sequence[str]) -> list[array[int]]:
        """The ids of each prompt, whole."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        fresh = {prompt: array("i", ids) for prompt, ids in zip(new, self._tokenize(new) if new else (), strict=True)}
        found = [fresh[prompt] if prompt in fresh else self._known[prompt] for prompt in prompts]
        size = sum(map(len, fresh.values()))
        if size <= self._most:
            if self._kept + size > self._most:
                self._known, self._kept = {}, 0
            self._known.update(fresh)
            self._kept += size
        return found

    def _tokenize(self, prompts: Sequence[str]) -> list[list[int]]:
        texts = rendered(self._tokenizer, prompts, self._form, self._model)
        plain = self._form == PLAIN  # a template has the special tokens already
        found = self._tokenizer(texts, add_special_tokens=plain, verbose=False)["input_ids"]
        return [ids[: len(ids) - self._closing] for ids in found]  # an EOS would move the read-out off the end
