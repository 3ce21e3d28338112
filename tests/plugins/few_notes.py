"""The synthetic tasks with few rows, for contracts that hold whatever the number of rows is."""

from bench.task import register_task
from tasks.notes.tasks import NotesFour, NotesTwo

ROWS = {"train": 64, "validation": 48}


@register_task
class FewTwo(NotesTwo):
    name, title, rows = "few_two", "Few notes, two answers", ROWS
    fingerprints = {}


@register_task
class FewFour(NotesFour):
    name, title, rows = "few_four", "Few notes, four answers", ROWS
    fingerprints = {}
