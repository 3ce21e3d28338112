"""A method's hyperparameters: annotated dataclass fields that say what they mean and who reads them.

    lr: Annotated[float, Fit("peak learning rate", ge=0)] = 0.03
    link: Annotated[Literal["draws", "probit"], Predict("how logits become probabilities")] = "draws"

``Fit`` marks what training reads: it is part of the fit's key. ``Predict`` marks what only prediction reads: changing
it cannot cause retraining. Choices are a ``Literal``, ranges the markers' bounds; a range that depends on other options
is for ``__post_init__`` to check.

An option that is added to a method after results were stored is marked ``since="0.2"``: while it has its default it is
left out of the specs, so no earlier key changes.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from bench.errors import BrokenPlugin, near_miss, one_line
from bench.specs import Option, cast

T = TypeVar("T")
Reader = Literal["fit", "predict"]


@dataclasses.dataclass(frozen=True)
class Marker:
    """Common base of :class:`Fit` and :class:`Predict`.

    Attributes:
        doc: its meaning, unit and source.
        ge, gt, le, lt: bounds of a number: at least, more than, at most, less than.
        since: the version that added it to a method with stored results; specs leave it out while it has its default.
    """

    doc: str
    _: dataclasses.KW_ONLY
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    since: str | None = None
    reader: ClassVar[Reader]

    def check(self, value: Option, name: str) -> None:
        """Raise ValueError with a sentence if a number is out of bounds; None, as in ``float | None``, has none.

        Bounds of a tuple are those of its numbers.
        """
        if isinstance(value, tuple):
            for place, one in enumerate(value):
                self.check(one, f"{name}[{place}]")
        if not isinstance(value, int | float):
            return
        limits = (
            ("at least", self.ge, operator.ge),
            ("more than", self.gt, operator.gt),
            ("at most", self.le, operator.le),
            ("less than", self.lt, operator.lt),
        )
        for words, bound, holds in limits:
            if bound is not None and not holds(value, bound):
                raise ValueError(f"{name} is {value}: must be {words} {bound:g}.")


class Fit(Marker):
    """Marks a hyperparameter that training reads: part of the fit's key."""

    reader = "fit"


class Predict(Marker):
    """Marks a hyperparameter that only prediction reads: changing it cannot cause retraining."""

    reader = "predict"


@dataclasses.dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter of a method class: its name, type, default and marker."""

    name: str
    type: Any
    default: Option
    marker: Marker

    @property
    def reader(self) -> Reader:
        """Whether the fit or only prediction reads it."""
        return self.marker.reader

    @property
    def doc(self) -> str:
        """The description shown to users."""
        return self.marker.doc

    def in_spec(self, value: Option) -> bool:
        """Whether a spec names this hyperparameter when it has ``value``."""
        return self.marker.since is None or value != self.default

    @property
    def choices(self) -> tuple[Option, ...]:
        """The only values that it takes, where there are a few."""
        for hint in (self.type, *typing.get_args(self.type)):
            if typing.get_origin(hint) is Literal:
                return typing.get_args(hint)
        return ()

    def cast(self, value: Any, called: str) -> Option:
        """``value`` as this hyperparameter's type, if it is within its bounds.

        Raises:
            ValueError: it is not; the message starts with ``called``.
        """
        made: Option = cast(value, self.type, called)
        self.marker.check(made, called)
        return made


_MARKER = "marker"  # in the metadata of a field declared in the form of version 0.1


def fit_option(default: Option, doc: str, choices: tuple[str, ...] = (), *, least: float | None = None) -> Any:
    """A hyperparameter that training reads, declared as plug-ins for version 0.1 do. Today's form of

        lr: float = fit_option(0.03, "peak learning rate", least=0)

    is ``lr: Annotated[float, Fit("peak learning rate", ge=0)] = 0.03``. Both are the same hyperparameter, and have the
    same keys.
    """
    return _earlier(Fit(doc, ge=least), default, choices)


def predict_option(default: Option, doc: str, choices: tuple[str, ...] = (), *, least: float | None = None) -> Any:
    """The same of one that only prediction reads; today ``Predict``."""
    return _earlier(Predict(doc, ge=least), default, choices)


def _earlier(marker: Marker, default: Option, choices: tuple[str, ...]) -> Any:
    kind = type(marker).__name__
    warnings.warn(
        f"{kind.lower()}_option: declare hyperparameters as Annotated[float, {kind}({marker.doc!r})] = {default!r}.",
        DeprecationWarning,
        stacklevel=3,
    )
    return dataclasses.field(default=default, metadata={_MARKER: marker, "choices": choices})


_known: dict[type, Mapping[str, Hyperparameter]] = {}


def hyperparameters(cls: type) -> Mapping[str, Hyperparameter]:
    """The hyperparameters of a method class by name, in order. Working them out is slow, so each class's are kept.

    Raises:
        BrokenPlugin: one is not declared as this module's docstring shows, or its default is not of its type.
    """
    if cls not in _known:
        _known[cls] = types.MappingProxyType(_read(cls))
    return _known[cls]


def _read(cls: type) -> dict[str, Hyperparameter]:
    where = cls.__qualname__
    try:
        types_of = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:  # of any kind: annotations are the author's code
        raise BrokenPlugin(f"{where}: its annotations cannot be evaluated ({one_line(error)}): fix them.") from error
    undecorated = "__dataclass_fields__" not in vars(cls)
    declared = any(isinstance(value, dataclasses.Field) for value in vars(cls).values())
    if undecorated and (declared or any(_marker(types_of[name]) for name in inspect.get_annotations(cls))):
        raise BrokenPlugin(f"{where} is not a dataclass: decorate it with @dataclass(frozen=True, kw_only=True).")
    found = {}
    for field in dataclasses.fields(cls):
        name = field.name
        called, marker = f"{where}.{name}", _marker(types_of[name])
        plain = typing.get_args(types_of[name])[0] if marker else types_of[name]
        if marker is None and (marker := field.metadata.get(_MARKER)) is not None:
            plain = _chosen(plain, field.metadata["choices"])
        if marker is None:
            raise BrokenPlugin(
                f'{called}: annotate it as Annotated[{_written(plain)}, Fit("its meaning")], or with Predict, so that '
                "the suite knows whether changing it needs a new training."
            )
        if not _supported(plain):
            raise BrokenPlugin(
                f"{called} is a {_written(plain)}: a hyperparameter is a bool, int, float, str, Literal, a tuple of "
                "one of them, or any of these | None."
            )
        if vars(cls).get(name, field.default) is not field.default:
            raise BrokenPlugin(
                f"{called}: the value in the class body is not the default of the inherited hyperparameter. Annotate "
                f'it again: `{name}: Annotated[{_written(plain)}, Fit("its meaning")] = ...`.'
            )
        if field.default is dataclasses.MISSING:
            raise BrokenPlugin(f"{called} has no default: write one, such as `{name}: ... = 1.0`.")
        found[name] = Hyperparameter(name, plain, field.default, marker)
        try:
            found[name].cast(field.default, called)
        except ValueError as error:
            raise BrokenPlugin(f"The default of {error}") from error
    return found


def make(cls: Callable[..., T], called: str, known: Mapping[str, Hyperparameter], values: Mapping[str, Any]) -> T:
    """An instance of a method class with ``values`` cast to the types of its hyperparameters, ``known``.

    Raises:
        LookupError: a name that is not a hyperparameter of the method, with the near miss.
        ValueError: a value of the wrong type or out of bounds.
        BrokenPlugin: ``__post_init__`` raised something else.
    """
    for name in values:
        if name not in known:
            hint = near_miss(name, known) if known else " It has none."
            raise LookupError(f"'{called}' has no hyperparameter '{name}'.{hint}")
    # defaults are cast too, so that `= 1` on a float and --set m.x=1 are one key
    made = {name: one.cast(values.get(name, one.default), f"{called}.{name}") for name, one in known.items()}
    try:
        return cls(**made)
    except (ValueError, BrokenPlugin):
        raise
    except Exception as error:  # of any kind: __post_init__ is the author's
        raise BrokenPlugin(f"{called}: its __post_init__ raised {one_line(error)}: fix it.") from error


def _marker(hint: Any) -> Marker | None:
    return next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Marker)), None)


def _chosen(hint: Any, choices: tuple[str, ...]) -> Any:
    """The type of an option in the form of version 0.1: its choices, if there are any, or None where it allows that."""
    if not choices:
        return hint
    literal: Any = Literal.__getitem__(choices)
    return literal | None if type(None) in typing.get_args(hint) else literal


def _supported(hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        return len(rest) == 1 and _supported(rest[0])
    if origin is tuple:
        return len(args) == 2 and args[1] is Ellipsis and _supported(args[0])
    return (origin is Literal and all(isinstance(arg, str) for arg in args)) or hint in (bool, int, float, str)


def _written(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
