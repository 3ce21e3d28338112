"""Names in records: which are allowed, and how they become parts of file names and lines of text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping

from bench.specs import FitSpec, Option, RunSpec

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # as the registry demands of methods and tasks
LABEL = re.compile(r"[\w.+ -]{0,64}")  # as the plan demands of variants
IDENTITY = re.compile(r"[A-Za-z0-9][\w./:@+-]{0,199}")  # hub names, revisions, `local:<hash>`
PURPOSES = ("result", "sweep", "tune")
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


def misnamed(spec: RunSpec, metrics: Mapping[str, float]) -> str | None:
    """The first name of a record that the suite would never have written; None if there is none."""
    for what, value, rule in _names(spec, metrics):
        if not rule.fullmatch(value):
            return f"the {what} is {printable(repr(value))[:80]}"
    if spec.purpose not in PURPOSES:
        return f"the purpose is {printable(repr(spec.purpose))[:80]}"
    return None


def _names(spec: RunSpec, metrics: Mapping[str, float]) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    yield "method", spec.method, NAME
    yield "split", spec.split, NAME
    yield "protocol", spec.protocol, NAME
    yield "variant", spec.variant, LABEL
    yield "task", spec.data.task, NAME
    yield "data revision", spec.data.revision, IDENTITY
    yield from _options(spec.options)
    yield from _fit_names(spec.fit)
    for metric in metrics:
        yield "metric", metric, NAME


def _fit_names(fit: FitSpec) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    yield "method", fit.method, NAME
    yield "task", fit.data.task, NAME
    yield "data revision", fit.data.revision, IDENTITY
    yield "model", fit.model.id, IDENTITY
    yield "model revision", fit.model.revision or "none", IDENTITY
    yield "quantization", fit.model.quantization, NAME
    yield "dtype", fit.model.dtype, NAME
    for target in fit.model.lora.targets:
        yield "LoRA target", target, _TARGET
    yield from _options(fit.options)
    for base in fit.bases:
        yield from _fit_names(base)


def _options(options: Mapping[str, Option]) -> Iterator[tuple[str, str, re.Pattern[str]]]:
    for name, value in options.items():
        yield "option", name, _OPTION
        if isinstance(value, str):
            yield f"option {name}", value, _LINE


_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TARGET = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,200}")  # a name or a pattern
_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,1000}")
