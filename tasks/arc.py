"""ARC, Challenge and Easy: grade-school science questions with four options. Clark et al. 2018."""

from __future__ import annotations

from bench.task import LETTERS, Example, MalformedRow, Row, Task, register_task
from tasks.prompts import choose_sentence


class Arc(Task):
    """Only rows with four options are kept; labels, A-D or 1-4, are mapped by position."""

    source = "allenai/ai2_arc"
    revision = "210d026faf9955653af8916fad021475a3f00453"
    licence = "CC BY-SA 4.0"
    citation = "Clark et al. 2018, arXiv 1803.05457"
    answers = LETTERS[:4]

    def example(self, row: Row) -> Example | None:
        question, options, labels = row.text("question"), row.texts("choices", "text"), row.labels("choices")
        if len(labels) != len(options):
            raise MalformedRow(f"field 'choices' has {len(options)} texts and {len(labels)} labels")
        label = row.position("answerKey", labels)
        if len(options) != 4:
            return None
        return Example(choose_sentence(question, options), label)


@register_task
class ArcChallenge(Arc):
    name = "arc_c"
    title = "ARC-C"
    config = "ARC-Challenge"
    rows = {"train": 1119, "validation": 299, "test": 1172}
    fingerprints = {"train": "1fda783ec1efe88b", "validation": "dc78afe4248754d9", "test": "1dae1917066963fe"}


@register_task
class ArcEasy(Arc):
    name = "arc_e"
    title = "ARC-E"
    config = "ARC-Easy"
    rows = {"train": 2251, "validation": 570, "test": 2376}
    fingerprints = {"train": "7c7862ffaa82f3ac", "validation": "07045c793665b8c6", "test": "b618a77e37c038bb"}
