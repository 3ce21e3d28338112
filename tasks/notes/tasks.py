"""Notes: synthetic tasks for the embedded base, whose exact answer distribution is known (tasks.notes.world)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, ClassVar

from bench.specs import digest
from bench.task import LETTERS, Example, Row, Task, register_task
from tasks.notes.world import NOTES_BOOL, NOTES_FOUR, NOTES_TWO, NoteTask, note_world


class Notes(Task):
    """Rows are drawn from the generator with a seed of their split: the same rows on every machine."""

    asks: ClassVar[NoteTask]
    source = "generated"
    revision = "notes-2"
    licence = "Apache-2.0"
    rows = {"train": 256, "validation": 256, "test": 1000}

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
    name = "notes_two"
    title = "Notes-2"
    asks = NOTES_TWO
    answers = LETTERS[:2]
    fingerprints = {"train": "16d29eb63b7b12de", "validation": "b1ec5f08e0f7d0f5", "test": "7d4614c5e14a4ba5"}


@register_task
class NotesFour(Notes):
    name = "notes_four"
    title = "Notes-4"
    asks = NOTES_FOUR
    answers = LETTERS[:4]
    fingerprints = {"train": "91d00fd9192dd7c5", "validation": "b608024e75097b8a", "test": "a4f75fd1b58a83c0"}


@register_task
class NotesBool(Notes):
    name = "notes_bool"
    title = "Notes-TF"
    asks = NOTES_BOOL
    answers = ("False", "True")
    fingerprints = {"train": "2f320c9b959ab10b", "validation": "56431853f765be4a", "test": "486048c8903901d7"}
