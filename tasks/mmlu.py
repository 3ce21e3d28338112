"""MMLU's college subjects: evaluation only, the distribution shift of a model trained on OBQA. Hendrycks et al. 2021.

The field evaluates on the 4-answer prompt that it trained on; so does the suite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bench.registry import register_task
from bench.task import LETTERS, Example, MalformedRow, Row, Task
from tasks.prompts import choose_sentence


class CollegeSubject(Task):
    """The test split of one subject; ``answer`` counts from 0."""

    source: ClassVar[str] = "cais/mmlu"
    revision: ClassVar[str] = "c30699e8356da336a370243923dbaf21066bb9fe"
    licence: ClassVar[str] = "MIT"
    citation: ClassVar[str] = "Hendrycks et al. 2021, arXiv 2009.03300"
    answers: ClassVar[tuple[str, ...]] = LETTERS[:4]

    def example(self, row: Row) -> Example:
        options = row.options("choices")
        if len(options) != 4:
            raise MalformedRow(f"field 'choices' has {len(options)} options: it should have 4")
        return Example(choose_sentence(row.text("question"), options), row.position("answer", "0123"))


@register_task
class CollegeBiology(CollegeSubject):
    name: ClassVar[str] = "mmlu_college_biology"
    title: ClassVar[str] = "MMLU-Bio"
    config: ClassVar[str | None] = "college_biology"
    rows: ClassVar[Mapping[str, int]] = {"test": 144}


@register_task
class CollegeChemistry(CollegeSubject):
    name: ClassVar[str] = "mmlu_college_chemistry"
    title: ClassVar[str] = "MMLU-Chem"
    config: ClassVar[str | None] = "college_chemistry"
    rows: ClassVar[Mapping[str, int]] = {"test": 100}


@register_task
class CollegeComputerScience(CollegeSubject):
    name: ClassVar[str] = "mmlu_college_computer_science"
    title: ClassVar[str] = "MMLU-CS"
    config: ClassVar[str | None] = "college_computer_science"
    rows: ClassVar[Mapping[str, int]] = {"test": 100}


@register_task
class CollegeMathematics(CollegeSubject):
    name: ClassVar[str] = "mmlu_college_mathematics"
    title: ClassVar[str] = "MMLU-Math"
    config: ClassVar[str | None] = "college_mathematics"
    rows: ClassVar[Mapping[str, int]] = {"test": 100}


@register_task
class CollegePhysics(CollegeSubject):
    name: ClassVar[str] = "mmlu_college_physics"
    title: ClassVar[str] = "MMLU-Phys"
    config: ClassVar[str | None] = "college_physics"
    rows: ClassVar[Mapping[str, int]] = {"test": 102}
