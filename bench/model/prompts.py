"""The form of a prompt: ``plain`` text, as the paper has it, or one turn of the tokenizer's own ``chat`` template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.errors import ModelNotUsable, one_line

PLAIN, CHAT = "plain", "chat"
CUE = "Answer:"  # the cue before the answer in a plain prompt


def rendered(tokenizer: Any, prompts: Sequence[str], form: str, model: str) -> list[str]:
    """The texts to tokenise, up to where the model's answer starts. A chat has no system turn, and thinking is off.

    Raises:
        ModelNotUsable: the tokenizer has no chat template, or the template fails.
    """
    if form == PLAIN:
        return list(prompts)
    return [_turn(tokenizer, [{"role": "user", "content": prompt}], True, model) for prompt in prompts]


def before_answer(tokenizer: Any, form: str, model: str) -> tuple[str, tuple[str, str]]:
    """(a text that an answer follows, what may stand between the two: the likelier first, a blank or nothing)."""
    if form == PLAIN:
        return CUE, (" ", "")
    asked = [{"role": "user", "content": CUE}]
    before = _turn(tokenizer, asked, True, model)
    whole = _turn(tokenizer, [*asked, {"role": "assistant", "content": "A"}], False, model)
    return before, (" ", "") if whole.startswith(before + " ") else ("", " ")


def _turn(tokenizer: Any, messages: list[dict[str, str]], ask: bool, model: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelNotUsable(f'The tokenizer of {model} has no chat template: use prompt = "{PLAIN}".')
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=ask, enable_thinking=False
        )
    except Exception as error:  # a template is a program of the model's author
        raise ModelNotUsable(f"The chat template of {model} fails ({one_line(error)}): use another model.") from error
    return text
