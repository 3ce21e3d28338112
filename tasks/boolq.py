"""BoolQ: yes/no questions about a passage. Clark et al. 2019; SuperGLUE."""

from __future__ import annotations

from bench.task import Example, Row, Task, register_task


@register_task
class BoolQ(Task):
    """The official test split is unlabelled, so validation is what is reported. The prompt has no answer cue."""

    name = "boolq"
    title = "BoolQ"
    source = "aps/super_glue"
    config = "boolq"
    revision = "3de24cf8022e94f4ee4b9d55a6f539891524d646"
    licence = "CC BY-SA 3.0"
    citation = "Clark et al. 2019, arXiv 1905.10044; Wang et al. 2019, arXiv 1905.00537"
    answers = ("False", "True")
    rows = {"train": 9427, "validation": 3270}
    # train is not pinned: no complete copy of it could be compared
    fingerprints = {"validation": "9907276d9c2bb97d"}

    def example(self, row: Row) -> Example:
        question, passage = row.text("question"), row.text("passage")
        prompt = f"Answer the question with only True or False: {question} Context: {passage}"
        return Example(prompt, row.position("label", ("0", "1")))
