"""MMLU's college subjects: evaluation only, the distribution shift of a model trained on OBQA. Hendrycks et al. 2021.

The field evaluates on the 4-answer prompt that it trained on; so does the suite.
"""

from __future__ import annotations

from bench.task import LETTERS, Example, MalformedRow, Row, Task, register_task
from tasks.prompts import choose_sentence


class CollegeSubject(Task):
    """The test split of one subject; ``answer`` counts from 0."""

    source = "cais/mmlu"
    revision = "c30699e8356da336a370243923dbaf21066bb9fe"
    licence = "MIT"
    citation = "Hendrycks et al. 2021, arXiv 2009.03300"
    answers = LETTERS[:4]

    def example(self, row: Row) -> Example:
        options = row.options("choices")
        if len(options) != 4:
            raise MalformedRow(f"field 'choices' has {len(options)} options: it should have 4")
        return Example(choose_sentence(row.text("question"), options), row.position("answer", "0123"))


@register_task
class CollegeBiology(CollegeSubject):
    name = "mmlu_college_biology"
    title = "MMLU-Bio"
    config = "college_biology"
    rows = {"test": 144}
    fingerprints = {"test": "6c088bea0336e5ab"}


@register_task
class CollegeChemistry(CollegeSubject):
    name = "mmlu_college_chemistry"
    title = "MMLU-Chem"
    config = "college_chemistry"
    rows = {"test": 100}
    fingerprints = {"test": "b3e4d7baec87e040"}


@register_task
class CollegeComputerScience(CollegeSubject):
    name = "mmlu_college_computer_science"
    title = "MMLU-CS"
    config = "college_computer_science"
    rows = {"test": 100}
    fingerprints = {"test": "56bf1adb8e9851b1"}


@register_task
class CollegeMathematics(CollegeSubject):
    name = "mmlu_college_mathematics"
    title = "MMLU-Math"
    config = "college_mathematics"
    rows = {"test": 100}
    fingerprints = {"test": "c5f0bddcea066262"}


@register_task
class CollegePhysics(CollegeSubject):
    name = "mmlu_college_physics"
    title = "MMLU-Phys"
    config = "college_physics"
    rows = {"test": 102}
    fingerprints = {"test": "ed6ab5b8400eaae0"}
