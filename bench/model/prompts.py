"""The form of a prompt: ``plain`` text, as the paper has it, or one turn of the tokenizer's own ``chat`` template."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from bench.errors import ModelNotUsable, one_line

PLAIN, CHAT = "plain", "chat"
MARK = "prompt-4f1c"  # a prompt that no template writes of its own accord
CUE = "Answer:"  # the cue before the answer in a plain prompt
DAY = datetime.date(2024, 7, 26)  # today, to templates that ask: the day that Llama 3's own template falls back to


def rendered(tokenizer: Any, prompts: Sequence[str], form: str, model: str) -> list[str]:
    """The texts to tokenise, up to where the model's answer starts. A chat has no system turn, and thinking is off.

    Raises:
        ModelNotUsable: the tokenizer has no chat template, or the template fails or leaves the prompt out.
    """
    if form == PLAIN:
        return list(prompts)
    wrap = _content(tokenizer, model)
    return [_turn(tokenizer, [_message("user", wrap(prompt))], True, model) for prompt in prompts]


class Frame(NamedTuple):
    """What a chat template writes before and after a prompt, and whether it strips the prompt."""

    before: str
    after: str
    strips: bool


def frame(tokenizer: Any, model: str) -> Frame:
    """The frame in which a chat template puts a prompt."""
    (text,) = rendered(tokenizer, [MARK], CHAT, model)
    before, _, after = text.partition(MARK)
    (spaced,) = rendered(tokenizer, [f" {MARK} "], CHAT, model)
    return Frame(before, after, spaced == text)


def before_answer(tokenizer: Any, form: str, model: str) -> tuple[str, tuple[str, str]]:
    """(a text that an answer follows, what may stand between the two: the likelier first, a blank or nothing).

    Raises:
        ModelNotUsable: as :func:`rendered`; or a template does not open the turn in which the answer is given.
    """
    if form == PLAIN:
        return CUE, (" ", "")
    wrap = _content(tokenizer, model)
    asked = [_message("user", wrap(CUE))]
    before = _turn(tokenizer, asked, True, model)
    whole = _turn(tokenizer, [*asked, _message("assistant", wrap("A"))], False, model)
    after = whole.removeprefix(before)
    if before == _turn(tokenizer, asked, False, model) and after != whole and not after.lstrip().startswith("A"):
        raise ModelNotUsable(
            f"The chat template of {model} does not open the assistant's turn (it ignores add_generation_prompt), so "
            f'an answer would be read at another place: use prompt = "{PLAIN}", or correct the template.'
        )
    return before, (" ", "") if whole.startswith(before + " ") else ("", " ")


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _content(tokenizer: Any, model: str) -> Callable[[str], Any]:
    """A text as a template takes the content of a message: as it is, or as a list of parts.

    Raises:
        ModelNotUsable: the template shows neither.
    """
    failures = []
    for wrap in (str, _parts):
        try:
            if CUE in _turn(tokenizer, [_message("user", wrap(CUE))], True, model):
                return wrap
        except ModelNotUsable as error:
            failures.append(error)
    if failures:
        raise failures[0]
    raise ModelNotUsable(f'The chat template of {model} leaves out what the user says: use prompt = "{PLAIN}".')


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


@contextlib.contextmanager
def _same_day() -> Iterator[None]:
    """Inside, templates that print today's date print one day: a prompt must not depend on when it is made."""
    from transformers.utils import chat_template_utils as templates

    real = templates.datetime

    class Fixed(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Fixed:
            return cls(DAY.year, DAY.month, DAY.day, tzinfo=tz)

    templates.datetime = Fixed
    try:
        yield
    finally:
        templates.datetime = real


def _turn(tokenizer: Any, messages: list[dict[str, Any]], ask: bool, model: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelNotUsable(f'The tokenizer of {model} has no chat template: use prompt = "{PLAIN}".')
    try:
        with _same_day():
            text: str = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=ask, enable_thinking=False
            )
    except Exception as error:  # a template is a program of the model's author
        raise ModelNotUsable(f"The chat template of {model} fails ({one_line(error)}): use another model.") from error
    return text
