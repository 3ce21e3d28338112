"""A task from examples that the caller has in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.specs import canonical
from bench.task import TASKS, Example, Row, Task

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

    def generate(self, split: str) -> Iterable[Mapping[str, Any]]:
        return self.given


def as_examples(given: Iterable[Given], answers: Sequence[str]) -> tuple[Example, ...]:
    """Examples of (prompt, answer) pairs; an :class:`bench.task.Example` stays as it is.

    Raises:
        ValueError: one is neither, or its answer is not one of ``answers``.
    """
    made = []
    for number, one in enumerate(given):
        if isinstance(one, Example):
            made.append(one)
            continue
        if not (isinstance(one, tuple | list) and len(one) == 2 and all(isinstance(part, str) for part in one)):
            raise ValueError(f"Example {number} is {one!r}: give (prompt, answer), two texts, or an Example.")
        prompt, answer = one
        if answer not in answers:
            raise ValueError(f"Example {number} has the answer {answer!r}: the answers are {', '.join(answers)}.")
        made.append(Example(prompt, list(answers).index(answer), str(number)))
    return tuple(made)


def given_task(examples: Sequence[Example], answers: Sequence[str]) -> str:
    """Register a task with these training examples; returns its name, a hash of them."""
    rows = [{"prompt": example.prompt, "label": example.label} for example in examples]
    if not rows:
        raise ValueError("There are no examples: give at least one.")
    name = PREFIX + hashlib.sha256(canonical([rows, list(answers)]).encode()).hexdigest()[:12]
    _register(name, answers, rows)
    return name


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
