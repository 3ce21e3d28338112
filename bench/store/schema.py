"""Types with rules for plain data, and the check of JSON data against a dataclass that uses them."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

T = TypeVar("T")
Check = Callable[[Any, str], None]
NEEDED = "needed"


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a value beyond its type, and how to name it in an error message."""

    name: str
    holds: Callable[[Any], bool]


def _matching(name: str, pattern: str) -> Rule:
    return Rule(name, lambda text: re.fullmatch(pattern, text) is not None)


def one_line(text: str) -> bool:
    """Whether ``text`` is printable, and neither markup nor a spreadsheet formula: it goes into tables unchanged."""
    return text.isprintable() and not set("<>") & set(text) and text[:1] not in tuple("=+-@")


def readable(text: str) -> bool:
    """Whether ``text`` holds no control characters other than line breaks and tabs."""
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


def finite(value: float) -> bool:
    """Whether a number is finite as a float, too: JSON has whole numbers that are not."""
    return -sys.float_info.max <= value <= sys.float_info.max


Count = Annotated[int, Rule("a whole number of at least 0", lambda value: 0 <= value < 2**63)]
Positive = Annotated[int, Rule("a whole number of at least 1", lambda value: 1 <= value < 2**63)]
Amount = Annotated[float, Rule("a finite number of at least 0", lambda value: finite(value) and value >= 0)]
Finite = Annotated[float, Rule("a finite number", finite)]
Line = Annotated[str, Rule("one printable line without markup", one_line)]
Sentence = Annotated[str, Rule("text without control characters", readable)]
Word = Annotated[str, _matching("a name in lower case", r"[a-z][a-z0-9_]{0,63}")]
Hash = Annotated[str, _matching("16 hex digits", r"[0-9a-f]{16}")]
Sha256 = Annotated[str, _matching("64 hex digits", r"[0-9a-f]{64}")]
Commit = Annotated[str, _matching("a commit's hash", r"[0-9a-f]{7,64}")]
Version = Annotated[str, _matching("a version", r"[0-9a-zA-Z][\w.+!-]{0,63}")]
Time = Annotated[str, _matching("a time in ISO 8601", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")]
Needed = Annotated[T, NEEDED]  # without it a record cannot be shown; other fields may be missing from older ones


def check(cls: type, data: Any) -> None:
    """Check JSON data against the fields of a dataclass. Unknown names pass: a newer version wrote them.

    Raises:
        ValueError: a needed field is missing, or a value has the wrong type, range or form; it is named by its path.
    """
    _checker(cls)(data, "")


def load(cls: type[T], data: Any) -> T:
    """A dataclass from JSON data that :func:`check` has passed. Fields that are missing get their default, or None."""
    loaded: T = _load(cls, data)
    return loaded


def _load(hint: Any, data: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if data is None or hint is Any:
        return data
    if origin is Annotated:
        return _load(arguments[0], data)
    if origin in (typing.Union, types.UnionType):
        return _load(next(part for part in arguments if part is not type(None)), data)
    if origin is tuple:
        return tuple(_load(arguments[0], item) for item in data)
    if dataclasses.is_dataclass(hint):
        declared = _declared(typing.cast(type, hint))
        missing = {f.name: None for f in dataclasses.fields(hint) if f.default is dataclasses.MISSING}
        known = {name: _load(declared[name], data[name]) for name in declared if name in data}
        return typing.cast(Any, hint)(**{**missing, **known})
    return data


@functools.cache
def _declared(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(cls, include_extras=True)


@functools.cache
def _checker(hint: Any) -> Check:
    """The check of one type, made once: thousands of records are read with it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value, path: None
    if origin is Annotated:
        rules = [part for part in arguments[1:] if isinstance(part, Rule)]
        return _ruled(arguments[0], rules[0]) if rules else _checker(arguments[0])
    if origin in (typing.Union, types.UnionType):
        inner = _checker(next(part for part in arguments if part is not type(None)))
        return lambda value, path: None if value is None else inner(value, path)
    if origin is tuple:
        return _array(_checker(arguments[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _object(_checker(arguments[0]), _checker(arguments[1]))
    if dataclasses.is_dataclass(hint):
        return _fields(typing.cast(type, hint))
    return _plain(hint)


_ACCEPTED: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
}


def _plain(hint: type) -> Check:
    accepted, name = _ACCEPTED[hint]

    def test(value: Any, path: str) -> None:
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise _wrong(path, value, name)

    return test


def _ruled(hint: type, rule: Rule) -> Check:
    accepted, _ = _ACCEPTED[hint]

    def test(value: Any, path: str) -> None:
        if not isinstance(value, accepted) or isinstance(value, bool) or not rule.holds(value):
            raise _wrong(path, value, rule.name)

    return test


def _array(inner: Check) -> Check:
    def test(value: Any, path: str) -> None:
        if not isinstance(value, list | tuple):
            raise _wrong(path, value, "a list")
        for number, item in enumerate(value):
            inner(item, f"{path}.{number}")

    return test


def _object(names: Check, values: Check) -> Check:
    def test(value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "an object")
        for name, item in value.items():
            names(name, f"a name in {path}")
            values(item, f"{path}.{name}")

    return test


def _fields(cls: type) -> Check:
    declared = _declared(cls)
    fields = [(f.name, _checker(declared[f.name]), _is_needed(declared[f.name])) for f in dataclasses.fields(cls)]

    def test(value: Any, path: str) -> None:
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "an object")
        for name, inner, needed in fields:
            place = f"{path}.{name}" if path else name
            if name in value:
                inner(value[name], place)
            elif needed:
                raise ValueError(f"{place} is missing")

    return test


def _is_needed(hint: Any) -> bool:
    return typing.get_origin(hint) is Annotated and NEEDED in typing.get_args(hint)[1:]


def _wrong(path: str, value: Any, wanted: str) -> ValueError:
    shown = ascii(value)  # whatever it holds must not reach a terminal as it is
    return ValueError(f"{path or 'it'} is {shown if len(shown) <= 60 else shown[:57] + '...'}; it should be {wanted}")
