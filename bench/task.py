"""A task: where its rows come from, how a row becomes a prompt, and which tokens answer it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from bench.errors import BrokenPlugin
from bench.registry import Registry

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclasses.dataclass(frozen=True)
class Example:
    """One question. ``label`` indexes the task's answers; ``truth`` is p(answer | prompt) where it is known exactly."""

    prompt: str
    label: int
    id: str = ""  # "<split>/<row>", filled in by the loader
    truth: tuple[float, ...] | None = None


class MalformedRow(ValueError):
    """A row that cannot become an example: the field and what is wrong with it. The loader adds file and row."""


class Row(Mapping[str, Any]):
    """A dataset row whose accessors check what they return and name the field when it is wrong."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, field: str) -> Any:
        value = self._values.get(field)
        if value is None:
            have = ", ".join(map(str, self._values))
            raise MalformedRow(f"field '{field}' is missing (the row has {have})")
        return value

    def get(self, field: str, default: Any = None) -> Any:
        """The field's value, or ``default`` where it is missing."""
        value = self._values.get(field)
        return default if value is None else value

    def __contains__(self, field: object) -> bool:
        return field in self._values

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def text(self, field: str) -> str:
        """A string field that is not blank."""
        return as_text(self[field], field)

    def texts(self, field: str, inner: str) -> list[str]:
        """The list of strings under ``field.inner`` (such as ``choices.text``), none of them blank."""
        return [as_text(value, f"{field}.{inner}[{i}]") for i, value in enumerate(self._list(field, inner))]

    def options(self, field: str) -> list[str]:
        """A list of strings, none of them blank."""
        values = self[field]
        if not isinstance(values, list | tuple):
            raise MalformedRow(f"field '{field}' is {values!r}: it should be a list")
        return [as_text(value, f"{field}[{i}]") for i, value in enumerate(values)]

    def position(self, field: str, labels: Iterable[str]) -> int:
        """The position of the field's value among ``labels``."""
        value, known = str(self[field]), [str(label) for label in labels]
        if value not in known:
            raise MalformedRow(f"field '{field}' is {value!r}: the labels are {', '.join(known)}")
        return known.index(value)

    def _list(self, field: str, inner: str) -> list[Any]:
        outer = self[field]
        if not isinstance(outer, Mapping) or not isinstance(outer.get(inner), list | tuple):
            raise MalformedRow(f"field '{field}.{inner}' is missing or not a list")
        return list(outer[inner])

    def labels(self, field: str, inner: str = "label") -> list[str]:
        """The list of option labels under ``field.inner``, as strings."""
        found = [as_text(str(value), f"{field}.{inner}") for value in self._list(field, inner)]
        if len(set(found)) < len(found) or "None" in found:
            raise MalformedRow(f"field '{field}.{inner}' is {found}: labels must be there and differ")
        return found


def lettered(answers: Sequence[str], options: Sequence[str]) -> list[tuple[str, str]]:
    """Each option with its answer letter: (A, first), (B, second), ...

    Raises:
        MalformedRow: there are more or fewer options than answers, so that some could not be chosen.
    """
    if len(options) != len(answers):
        raise MalformedRow(f"it has {len(options)} options, and the task has {len(answers)} answers")
    return list(zip(answers, options, strict=True))


def as_text(value: Any, field: str) -> str:
    """``value``, unchanged, if it is a string with something in it."""
    if not isinstance(value, str):
        raise MalformedRow(f"field '{field}' is {value!r}: it should be text")
    if not value.strip():
        raise MalformedRow(f"field '{field}' is empty")
    return value


class Task:
    """Base of all tasks: metadata and one hook, :meth:`example`. Subclass, decorate with ``register_task``.

    Attributes:
        name: what the command line calls it.
        title: what tables call it.
        source: hub path, ``owner/dataset``.
        config: hub configuration (a folder in a local mirror), or None.
        revision: the hub commit, pinned.
        licence, citation: as the owners state them.
        answers: the answer words in label order; each must be one token after the prompt.
        rows: official number of rows of each labelled split, before any are dropped.
        fingerprints: of the splits whose content is known (``Split.fingerprint`` in bench/data/splits.py), compared at
            every reading. Other rows, from a local mirror or made by the task, have their own data revision.
        files: local CSV, TSV, JSON Lines or parquet files by split, of a task that does not come from the hub.
        version: raise it when a prompt changes: every key of the task changes with it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    config: ClassVar[str | None] = None
    revision: ClassVar[str]
    licence: ClassVar[str]
    citation: ClassVar[str] = ""
    answers: ClassVar[tuple[str, ...]]
    rows: ClassVar[Mapping[str, int]]
    fingerprints: ClassVar[Mapping[str, str]] = {}
    files: ClassVar[Mapping[str, Path]] = {}
    version: ClassVar[int] = 1

    def example(self, row: Row) -> Example | None:
        """The example of one row, or None to drop it. Use the accessors of :class:`Row`: they check."""
        raise TypeError(f"{type(self).__qualname__} must define example(row).")

    def question(self, row: Row) -> Example | None:
        """The example of a row to be answered; its label is not read. A task that can do without one says so here."""
        return self.example(row)

    def generate(self, split: str) -> Iterable[Mapping[str, Any]] | None:
        """The rows of a split for a task that makes its own data; None (the default) loads ``source``."""
        return None

    @property
    def exact(self) -> bool:
        """Whether every example carries its exact answer distribution (synthetic tasks)."""
        return False


K = TypeVar("K", bound=type[Task])


def register_task(cls: K) -> K:
    """Class decorator: make a :class:`Task` known under its ``name``.

    Raises:
        BrokenPlugin: the class breaks the interface, or its name is malformed or taken.
    """
    TASKS.add(cls)
    return cls


def get_task(name: str) -> Task:
    """A task instance by name.

    Raises:
        LookupError: there is no such task; the message names the near misses.
    """
    return TASKS.get(name)()


def is_task(name: str) -> bool:
    """Whether :func:`get_task` knows the name."""
    return name in TASKS


def task_names() -> list[str]:
    """All registered task names, sorted."""
    return TASKS.names()


def _validate(cls: type[Task], where: str) -> None:
    if not issubclass(cls, Task):
        raise BrokenPlugin(f"{where} is not a Task: derive it from bench.task.Task.")
    answers = getattr(cls, "answers", None)
    if (
        not isinstance(answers, tuple | list)  # a set has no order, and a string is not a list of words
        or len(answers) < 2
        or not all(isinstance(answer, str) and answer.strip() for answer in answers)
        or len(set(answers)) < len(answers)
    ):
        raise BrokenPlugin(f"{where}: set `answers` to a tuple of two or more different words; it is {answers!r}.")
    cls.answers = tuple(answers)
    for name in ("title", "source", "revision", "licence"):
        text = getattr(cls, name, None)
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise BrokenPlugin(f"{where}: set `{name}` to a line of text; it is {text!r}.")
    rows = getattr(cls, "rows", None)
    if (
        not isinstance(rows, Mapping)
        or not rows
        or not all(isinstance(split, str) and split.isidentifier() for split in rows)
        or not all(isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in rows.values())
    ):
        raise BrokenPlugin(
            f'{where}: set `rows` to the number of rows of each labelled split, such as {{"train": 1000, '
            f'"validation": 100}}; it is {rows!r}.'
        )
    if isinstance(cls.version, bool) or not isinstance(cls.version, int) or cls.version < 1:
        raise BrokenPlugin(f"{where}: set `version` to a whole number of at least 1; it is {cls.version!r}.")


TASKS = Registry[Task]("task", "tasks", _validate)
