"""OpenBookQA: elementary science questions with four options. Mihaylov et al. 2018."""

from __future__ import annotations

from bench.task import LETTERS, Example, MalformedRow, Row, Task, register_task
from tasks.prompts import choose_sentence


@register_task
class OpenBookQA(Task):
    name = "obqa"
    title = "OBQA"
    source = "allenai/openbookqa"
    config = "main"
    revision = "388097ea7776314e93a529163e0fea805b8a6454"
    licence = "unknown (as its hub page says)"
    citation = "Mihaylov et al. 2018, arXiv 1809.02789"
    answers = LETTERS[:4]
    rows = {"train": 4957, "validation": 500, "test": 500}
    fingerprints = {"train": "e52d23d2e39f60ce", "validation": "e63542e3b56be708", "test": "41fee4ae6cb3665c"}

    def example(self, row: Row) -> Example:
        options, labels = row.texts("choices", "text"), row.labels("choices")
        if len(options) != 4 or len(labels) != 4:
            raise MalformedRow(f"field 'choices' has {len(options)} texts and {len(labels)} labels, not four of each")
        return Example(choose_sentence(row.text("question_stem"), options), row.position("answerKey", labels))
