"""The prompt forms of Cong et al. 2024 that several tasks share (PROTOCOL 2). They are part of the protocol."""

from __future__ import annotations

from collections.abc import Sequence

from bench.task import LETTERS, lettered

SELECT = "Select one of the choices that answers the following question: "


def sentence(option: str) -> str:
    """The option with an upper-case first letter and a final full stop if it has none."""
    option = option[:1].upper() + option[1:]
    return option if option.endswith(".") else option + "."


def choose_sentence(question: str, options: Sequence[str]) -> str:
    """``SELECT question Choices: A. <option> B. <option> ... Answer:``, each option made a sentence."""
    listed = " ".join(f"{letter}. {sentence(option)}" for letter, option in lettered(LETTERS[: len(options)], options))
    return f"{SELECT}{question} Choices: {listed} Answer:"
