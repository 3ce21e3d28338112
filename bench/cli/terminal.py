"""Output to the terminal: text that any terminal can show, with control sequences escaped."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO

from bench.process.text import printable


def say(text: object) -> None:
    """Print a result to standard output."""
    print(printable(str(text)))


def complain(text: object) -> None:
    """Print a sentence to standard error, after the name of the program; a closed standard error is not an error."""
    with contextlib.suppress(OSError, ValueError):
        print(f"bench: {printable(str(text))}", file=sys.stderr, flush=True)


def any_encoding(*streams: Any) -> None:
    """Let streams that cannot encode a character escape it, instead of failing."""
    for stream in streams:
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard(stream: TextIO | None) -> None:
    """Send what is still buffered for a stream nowhere, or Python complains about it when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = stream.fileno()  # type: ignore[union-attr]
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def warn(text: object) -> None:
    """Print a warning to standard error."""
    complain(f"warning: {text}")


def show(text: str) -> None:
    """Print a log record to standard error (:mod:`bench.process.console`)."""
    print(printable(text), file=sys.stderr, flush=True)
