"""Notes: synthetic tasks for the embedded base, whose exact answer distribution is known (tasks.notes.world)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from bench.registry import register_task
from bench.specs import digest
from bench.task import LETTERS, Example, Row, Task
from tasks.notes.world import NOTES_BOOL, NOTES_FOUR, NOTES_TWO, NoteTask, note_world


class Notes(Task):
    """Rows are drawn from the generator with a seed of their split: the same rows on every machine."""

    asks: ClassVar[NoteTask]
    source: ClassVar[str] = "generated"
    revision: ClassVar[str] = "notes-2"
    licence: ClassVar[str] = "Apache-2.0"
    rows: ClassVar[Mapping[str, int]] = {"train": 256, "validation": 256, "test": 1000}

    @property
    def exact(self) -> bool:
        return True

    def generate(self, split: str) -> Iterator[dict[str, Any]]:
        rng = random.Random(digest("notes", self.name, split))
        for _ in range(self.rows[split]):
            words, label = note_world().draw(rng, self.asks.topics)
            yield {"words": words, "label": label}

    def example(self, row: Row) -> Example:
        truth = note_world().posterior(row["words"], self.asks.topics)
        return Example(self.asks.prompt(row["words"]), row["label"], truth=tuple(truth))


@register_task
class NotesTwo(Notes):
    name: ClassVar[str] = "notes_two"
    title: ClassVar[str] = "Notes-2"
    asks: ClassVar[NoteTask] = NOTES_TWO
    answers: ClassVar[tuple[str, ...]] = LETTERS[:2]


@register_task
class NotesFour(Notes):
    name: ClassVar[str] = "notes_four"
    title: ClassVar[str] = "Notes-4"
    asks: ClassVar[NoteTask] = NOTES_FOUR
    answers: ClassVar[tuple[str, ...]] = LETTERS[:4]


@register_task
class NotesBool(Notes):
    name: ClassVar[str] = "notes_bool"
    title: ClassVar[str] = "Notes-TF"
    asks: ClassVar[NoteTask] = NOTES_BOOL
    answers: ClassVar[tuple[str, ...]] = ("False", "True")
