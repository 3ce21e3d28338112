"""Control characters of others' text never reach the terminal."""

from __future__ import annotations

import io

import pytest

from bench.process.progress import Bar
from bench.process.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("→ é λ 中 🙂", "→ é λ 中 🙂"),
        ("\x1b]0;title\x07\x1b[31mred", r"\x1b]0;title\x07\x1b[31mred"),
        ("over\rwritten\b\x7f", r"over\rwritten\x08\x7f"),
        ("\x9b31mC1", r"\x9b31mC1"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("in\u200bvisible\u2066", r"in\u200bvisible\u2066"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_control_and_invisible_characters_are_shown_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_the_progress_display_shows_text_of_others_as_escapes() -> None:
    stream = io.StringIO()
    bar = Bar("grid", 2, stream)
    bar.log("node \x1b[31m")
    bar.done("key", "label \u202e")
    assert r"node \x1b[31m" in stream.getvalue() and r"label \u202e" in stream.getvalue()
