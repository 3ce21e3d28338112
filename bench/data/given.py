"""A task from examples that the caller has in memory."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.data.splits import checked
from bench.specs import DataSpec, canonical
from bench.task import TASKS, Example, MalformedRow, Row, Task, is_task

Given = Example | tuple[str, str]  # a prompt and its answer

PREFIX = "examples_"


class GivenTask(Task):
    """Base of the classes made from examples."""

    title = "Examples"
    source = "examples in memory"
    licence = "not stated"
    given: Sequence[Mapping[str, Any]] = ()

    def example(self, row: Row) -> Example:
        return Example(row.text("prompt"), row["label"])

    def question(self, row: Row) -> Example:
        return Example(row.text("prompt"), 0)

    def generate(self, split: str) -> Iterable[Mapping[str, Any]]:
        return self.given


def as_examples(given: Iterable[Given], answers: Sequence[str]) -> tuple[Example, ...]:
    """Examples of (prompt, answer) pairs; an :class:`bench.task.Example` keeps its id.

    Raises:
        ValueError: one is neither, its answer is not one of ``answers``, or its prompt is not text.
    """
    if isinstance(answers, str):
        raise ValueError(f"answers is a single string, {answers!r}: pass a list of strings.")
    made = []
    for number, one in enumerate(given):
        if isinstance(one, Example):
            made.append(_sound(one, number, answers))
            continue
        if not (isinstance(one, tuple | list) and len(one) == 2 and all(isinstance(part, str) for part in one)):
            raise ValueError(f"Example {number} is {one!r}: give (prompt, answer), two texts, or an Example.")
        prompt, answer = one
        if answer not in answers:
            raise ValueError(f"Example {number} has the answer {answer!r}: the answers are {', '.join(answers)}.")
        made.append(_sound(Example(prompt, list(answers).index(answer), str(number)), number, answers))
    return tuple(made)


def as_questions(given: Iterable[str | Example], answers: Sequence[str]) -> tuple[Example, ...]:
    """Examples of prompts; their labels are not read.

    Raises:
        ValueError: there is none, or one is not text.
    """
    if isinstance(given, str):
        raise ValueError("prompts is a single string: pass a list of strings.")
    made = [one if isinstance(one, Example) else Example(one, 0, str(number)) for number, one in enumerate(given)]
    if not made:
        raise ValueError("No prompts were given: pass at least one.")
    blank = (dataclasses.replace(one, label=0) for one in made)
    return tuple(_sound(one, number, answers) for number, one in enumerate(blank))


def _sound(example: Example, number: int, answers: Sequence[str]) -> Example:
    """The example, checked as a row of a task is."""
    try:
        return checked(example, example.id, len(answers))
    except MalformedRow as error:
        raise ValueError(f"Example {number}: {error}.") from error


def given_task(examples: Sequence[Example], answers: Sequence[str]) -> str:
    """Register a task with these training examples; returns its name, a hash of them."""
    rows = [{"prompt": example.prompt, "label": example.label} for example in examples]
    if not rows:
        raise ValueError("There are no examples: give at least one.")
    name = PREFIX + hashlib.sha256(canonical([rows, list(answers)]).encode()).hexdigest()[:12]
    _register(name, answers, rows)
    return name


def recall(data: DataSpec, key: str, answers: Sequence[str] | None) -> None:
    """Register the task of ``data`` for its ``answers``, where it was made from examples in an earlier process.

    Raises:
        LookupError: no answers are given. ValueError: they are not those that it had.
    """
    if is_task(data.task) or not data.task.startswith(PREFIX):
        return
    if answers is None:
        raise LookupError(
            f"{key} was fitted to examples given in Python: pass the answers that they had (--answers A,B)."
        )
    answers_only(data.task, answers, data.revision)


def answers_only(name: str, answers: Sequence[str], revision: str) -> None:
    """Register a task of an earlier process under its name, for its answers alone.

    Raises:
        ValueError: they are not those of the data ``revision``.
    """
    if revision.partition("+")[0] != _revision(answers):
        raise ValueError(f"The answers {', '.join(answers)} are not those that {name} had.")
    _register(name, answers, ())


def _revision(answers: Sequence[str]) -> str:
    return "memory:" + hashlib.sha256(canonical(list(answers)).encode()).hexdigest()[:8]


def _register(name: str, answers: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    attributes = {
        "name": name,
        "revision": _revision(answers),
        "answers": tuple(answers),
        "rows": {"train": max(1, len(rows))},
        "given": rows,
        "__qualname__": f"GivenTask.{name}",
    }
    TASKS.add(type(name, (GivenTask,), attributes), listed=False)
