"""A method's hyperparameters: dataclass fields that say what they mean and who reads them, the fit or prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import BrokenPlugin, near_miss
from bench.specs import Option, cast, hints

if TYPE_CHECKING:
    from bench.method import Method


def fit_option(default: Option, doc: str, choices: tuple[str, ...] = (), *, least: float | None = None) -> Any:
    """A hyperparameter that training reads: part of the fit's key. ``doc`` gives meaning, unit and source.

    ``choices`` are the only values it takes, where there are a few; ``least`` is the smallest of a number. A range of
    another kind is for ``__post_init__`` to check.
    """
    metadata = {"doc": doc, "reader": "fit", "choices": choices, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


def predict_option(default: Option, doc: str, choices: tuple[str, ...] = (), *, least: float | None = None) -> Any:
    """A hyperparameter that only prediction reads: changing it cannot cause retraining."""
    metadata = {"doc": doc, "reader": "predict", "choices": choices, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


def option_fields(cls: type[Method]) -> list[dataclasses.Field[Any]]:
    """The hyperparameter fields of a method class, in order.

    Raises:
        BrokenPlugin: a field was declared without :func:`fit_option` or :func:`predict_option`.
    """
    if any(isinstance(value, dataclasses.Field) for value in vars(cls).values()):
        raise BrokenPlugin(
            f"{cls.__qualname__} is no dataclass: decorate it with @dataclass(frozen=True, kw_only=True)."
        )
    fields = list(dataclasses.fields(cls))
    for field in fields:
        if "reader" not in field.metadata:
            raise BrokenPlugin(
                f"{cls.__qualname__}.{field.name}: declare it with fit_option(...) or predict_option(...), "
                "so that the suite knows whether changing it needs a new training."
            )
    return fields


def make_method(cls: type[Method], values: Mapping[str, Any]) -> Method:
    """An instance with ``values`` cast to the fields' types.

    Raises:
        LookupError: a name that is no hyperparameter of the method, with the near miss.
        ValueError: a value of the wrong type or outside its range.
    """
    types = hints(cls)
    names = [field.name for field in option_fields(cls)]
    for name in values:
        if name not in names:
            hint = near_miss(name, names) if names else " It has none."
            raise LookupError(f"'{cls.name}' has no hyperparameter '{name}'.{hint}")
    # defaults are cast too, so that `x: float = fit_option(1, ...)` and --set m.x=1 are one key
    given = {**{field.name: field.default for field in option_fields(cls)}, **values}
    made = {name: cast(value, types[name], f"{cls.name}.{name}") for name, value in given.items()}
    for field in option_fields(cls):
        value, choices, least = made[field.name], field.metadata["choices"], field.metadata["least"]
        if value is None:
            continue
        if choices and value not in choices:
            raise ValueError(f"{cls.name}.{field.name} is '{value}'.{near_miss(value, choices)}")
        if least is not None and value < least:
            raise ValueError(f"{cls.name}.{field.name} is {value}: give at least {least}.")
    return cls(**made)


def options_of(method: Method, reader: str) -> dict[str, Option]:
    """Name to value of the hyperparameters that the fit (``"fit"``) or prediction (``"predict"``) reads."""
    return {f.name: getattr(method, f.name) for f in option_fields(type(method)) if f.metadata["reader"] == reader}
