"""OpenBookQA: elementary science questions with four options. Mihaylov et al. 2018."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bench.registry import register_task
from bench.task import LETTERS, Example, MalformedRow, Row, Task
from tasks.prompts import choose_sentence


@register_task
class OpenBookQA(Task):
    name: ClassVar[str] = "obqa"
    title: ClassVar[str] = "OBQA"
    source: ClassVar[str] = "allenai/openbookqa"
    config: ClassVar[str | None] = "main"
    revision: ClassVar[str] = "388097ea7776314e93a529163e0fea805b8a6454"
    licence: ClassVar[str] = "unknown (as its hub page says)"
    citation: ClassVar[str] = "Mihaylov et al. 2018, arXiv 1809.02789"
    answers: ClassVar[tuple[str, ...]] = LETTERS[:4]
    rows: ClassVar[Mapping[str, int]] = {"train": 4957, "validation": 500, "test": 500}

    def example(self, row: Row) -> Example:
        options, labels = row.texts("choices", "text"), row.labels("choices")
        if len(options) != 4 or len(labels) != 4:
            raise MalformedRow(f"field 'choices' has {len(options)} texts and {len(labels)} labels, not four of each")
        return Example(choose_sentence(row.text("question_stem"), options), row.position("answerKey", labels))
