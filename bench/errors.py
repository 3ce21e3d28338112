"""Errors that several layers share, and near misses for their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BrokenPlugin(TypeError):
    """A method, task or posterior class that breaks the interface; the message says what to write instead."""


class ModelNotUsable(ValueError):
    """A base model that cannot be loaded or would answer wrongly; the message names the model and the fix."""


def near_miss(name: object, known: Iterable[object], unlisted: Iterable[object] = ()) -> str:
    """`` Did you mean 'x'?`` for the closest of all names, else the list of those that are ``known``."""
    listed = sorted(map(str, known))
    names = sorted({*listed, *map(str, unlisted)})
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    if close:
        return " Did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    return " Known: " + ", ".join(listed) + "."


def shown(value: object) -> str:
    """``repr(value)`` for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}... ({len(text)} characters)"


def one_line(error: BaseException) -> str:
    """``KeyError: 'x'``: the kind of an error and its text on one line, for use inside a sentence."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
