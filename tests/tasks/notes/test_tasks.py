"""The synthetic tasks: pinned data, short prompts; and real prompts of usable length in the embedded tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bench.data.splits import DataSource, load_split
from bench.model.formats import EMBEDDED
from bench.task import get_task


def lengths(task: str, split: str, source: DataSource) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED)
    examples = load_split(get_task(task), split, source).examples
    return sorted(len(tokenizer(example.prompt)["input_ids"]) for example in examples)


@pytest.mark.parametrize(
    ("task", "fingerprints"),
    [
        ("notes_two", ("16d29eb63b7b12de", "b1ec5f08e0f7d0f5", "7d4614c5e14a4ba5")),
        ("notes_four", ("91d00fd9192dd7c5", "b608024e75097b8a", "a4f75fd1b58a83c0")),
        ("notes_bool", ("2f320c9b959ab10b", "56431853f765be4a", "486048c8903901d7")),
    ],
)
def test_the_data_never_change_without_their_revision(task: str, fingerprints: tuple[str, ...]) -> None:
    notes = get_task(task)
    pinned = tuple(notes.fingerprints[split] for split in ("train", "validation", "test"))
    assert pinned == fingerprints, "raise `revision` in tasks/notes/tasks.py when the notes change"
    assert {split: load_split(notes, split, DataSource()).fingerprint for split in notes.rows} == notes.fingerprints


@pytest.mark.parametrize("task", ["notes_two", "notes_four", "notes_bool"])
def test_note_prompts_are_short(task: str) -> None:
    assert lengths(task, "validation", DataSource())[-1] <= 48


def test_real_arc_prompts_have_a_median_under_150_tokens(real_data: Path) -> None:
    found = lengths("arc_e", "validation", DataSource(real_data))
    assert found[len(found) // 2] < 150
