"""Plain data (JSON, TOML, ``--set`` text) to typed values, so that 1e6, 1000000 and "1e6" are one value."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from bench.errors import near_miss, shown

T = TypeVar("T")


class UnknownField(ValueError):
    """A spec with a field that this version of the suite does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(f"its field '{name}' is unknown here: a newer version of the suite wrote it. Update the suite")


def hints(cls: type) -> dict[str, Any]:
    """The types of a dataclass's fields. Working them out is slow, so each class's are kept."""
    if cls not in _hints:
        _hints[cls] = typing.get_type_hints(cls)
    return _hints[cls]


_hints: dict[type, dict[str, Any]] = {}
_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def cast(value: Any, hint: Any, name: str) -> Any:
    """``value`` as the type ``hint`` says, so that 1e6, 1000000 and "1e6" give one key.

    Raises:
        ValueError: a sentence naming the setting when the value does not fit the type.
    """
    if type(value) is hint and (hint in (str, bool) or (hint is int and abs(value) < 2**53)):
        return value  # nothing to do, for nearly every field of thousands of stored specs
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() == "none" and type(None) in args):
            return None
        return cast(value, next(a for a in args if a is not type(None)), name)
    if origin is typing.Literal:
        for choice in args:
            if isinstance(choice, str) and value == choice:
                return choice
        raise ValueError(f"{name} is {shown(value)}.{near_miss(value, args)}")
    if origin is tuple:
        items = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"{name} is {shown(value)}: expected a list.")
        return tuple(cast(item, args[0], name) for item in items)
    if hint is bool:
        truths = {"true": True, "false": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in truths:
            return truths[value.lower()]
        raise _wrong(value, hint, name)
    if hint is str:
        if isinstance(value, str):
            return value
        raise _wrong(value, hint, name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _wrong(value, hint, name)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _wrong(value, hint, name) from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{name} is {shown(value)}: expected a finite number.")
    if hint is int:
        if number != int(number):
            raise _wrong(value, hint, name)
        exact = isinstance(value, int) or value.lstrip("+-").isdigit() if isinstance(value, int | str) else False
        return int(value) if exact else int(number)
    return number + 0.0  # -0.0 is 0.0: equal values have one text, and so one key


def _wrong(value: Any, hint: Any, name: str) -> ValueError:
    return ValueError(f"{name} is {shown(value)}: expected {_WORDS.get(hint, hint)}.")


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """A dataclass from plain data (JSON or TOML), each number cast to its field's type.

    Raises:
        UnknownField: the data has a field that this version of the suite does not know.
        ValueError: a value does not fit its field's type.
    """
    types_of = hints(cls)
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types_of:
            raise UnknownField(f"{prefix}{name}")
        hint = types_of[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            made[name] = build(hint, value, f"{prefix}{name}.")
        elif (nested := _items(hint)) is not None:
            made[name] = tuple(build(nested, item) for item in value)
        elif name == "options":
            made[name] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        else:
            made[name] = cast(value, hint, f"{prefix}{name}")
    return cls(**made)


def _items(hint: Any) -> type | None:
    """The dataclass that a ``tuple[X, ...]`` field holds, if it holds one."""
    args = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    return args[0] if args and isinstance(args[0], type) and dataclasses.is_dataclass(args[0]) else None
