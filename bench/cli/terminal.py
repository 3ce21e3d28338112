"""What reaches the terminal: text that any terminal can show, and nothing that one would obey."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

# Cc and Cf: control characters (escape sequences begin with one), marks that reorder text, invisible ones.
# Cs: halves of surrogate pairs, which no encoding can write.
_UNPRINTABLE = ("Cc", "Cf", "Cs")


def printable(text: str) -> str:
    r"""``text`` with control and invisible characters shown as escapes (``\x1b``), but for line ends and tabs."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in _UNPRINTABLE
        else character.encode("unicode_escape").decode()
        for character in text
    )


def say(text: object) -> None:
    """Print a result to standard output."""
    print(printable(str(text)))


def complain(text: object) -> None:
    """Print a sentence to standard error, after the name of the program; a closed standard error is no fault."""
    with contextlib.suppress(OSError, ValueError):
        print(f"bench: {printable(str(text))}", file=sys.stderr, flush=True)


def any_encoding(*streams: Any) -> None:
    """Let streams that cannot encode a character escape it, instead of failing."""
    for stream in streams:
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard(stream: TextIO | None) -> None:
    """Send what is still buffered for a stream nowhere, or Python complains about it when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = stream.fileno()  # type: ignore[union-attr]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return printable(f"{level}{super().format(record)}")


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Inside the block, the suite's log records of level INFO and above go to standard error as plain lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    loggers = [logging.getLogger(name) for name in ("bench", "methods", "tasks", "analysis")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
