"""WinoGrande, small and medium training sets: which of two nouns fills the blank. Sakaguchi et al. 2020."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bench.registry import register_task
from bench.task import Example, Row, Task
from tasks.prompts import SELECT


class WinoGrande(Task):
    """The official test split is unlabelled, so validation is what is reported."""

    source: ClassVar[str] = "allenai/winogrande"
    revision: ClassVar[str] = "01e74176c63542e6b0bcb004dcdea22d94fb67b5"
    licence: ClassVar[str] = "CC BY"
    citation: ClassVar[str] = "Sakaguchi et al. 2020, arXiv 1907.10641"
    answers: ClassVar[tuple[str, ...]] = ("A", "B")

    def example(self, row: Row) -> Example:
        first, second = row.text("option1"), row.text("option2")
        # no dot after B: as published
        prompt = f"{SELECT}{row.text('sentence')} Choices: A. {first}. B {second}. Answer:"
        return Example(prompt, row.position("answer", ("1", "2")))


@register_task
class WinoGrandeS(WinoGrande):
    name: ClassVar[str] = "wg_s"
    title: ClassVar[str] = "WG-S"
    config: ClassVar[str | None] = "winogrande_s"
    rows: ClassVar[Mapping[str, int]] = {"train": 640, "validation": 1267}


@register_task
class WinoGrandeM(WinoGrande):
    name: ClassVar[str] = "wg_m"
    title: ClassVar[str] = "WG-M"
    config: ClassVar[str | None] = "winogrande_m"
    rows: ClassVar[Mapping[str, int]] = {"train": 2558, "validation": 1267}
