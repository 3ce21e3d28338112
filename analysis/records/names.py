"""Names: how they become parts of file names, ids and lines of text, one to one."""

from __future__ import annotations

import hashlib
import json
import re

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_SHORT = re.compile(r"-?(0|[1-9]\d{0,14})(\.\d*[1-9])?")
_PLAIN = re.compile(r"[a-z0-9_.+]*")  # survives in a file name, whatever the file system makes of capitals


def printable(text: str) -> str:
    """Text for one line of a terminal: control and formatting characters are shown by their numbers."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def slug(*words: str) -> str:
    """Words as part of a file name; unlike words give unlike slugs.

    Letters, digits, dots and underscores stay. Words that hold anything else, or capitals, also add a hash of them.
    """
    safe = ("".join(c if _PLAIN.fullmatch(c.lower()) else "-" for c in word).strip("-.") for word in words)
    readable = "-".join(filter(None, safe))
    if all(_PLAIN.fullmatch(word) and word == word.strip(".") for word in words):
        return readable
    return f"{readable}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:6]}"


def lost_as_number(text: str) -> bool:
    """Whether text reads as a number that a spreadsheet would show as another text, such as 12e45678 or 007."""
    return _NUMBER.fullmatch(text) is not None and _SHORT.fullmatch(text) is None


def short_hash(text: str) -> str:
    """8 hex digits of the SHA-256 of a text: the first such window that spreadsheets show as it is."""
    digits = hashlib.sha256(text.encode()).hexdigest()
    windows = (digits[start : start + 8] for start in range(len(digits) - 8))
    return next((window for window in windows if not lost_as_number(window)), digits[:8])
