"""WinoGrande, small and medium training sets: which of two nouns fills the blank. Sakaguchi et al. 2020."""

from __future__ import annotations

from bench.task import Example, Row, Task, register_task
from tasks.prompts import SELECT


class WinoGrande(Task):
    """The official test split is unlabelled, so validation is what is reported."""

    source = "allenai/winogrande"
    revision = "01e74176c63542e6b0bcb004dcdea22d94fb67b5"
    licence = "CC BY"
    citation = "Sakaguchi et al. 2020, arXiv 1907.10641"
    answers = ("A", "B")

    def example(self, row: Row) -> Example:
        first, second = row.text("option1"), row.text("option2")
        # no dot after B: as published
        prompt = f"{SELECT}{row.text('sentence')} Choices: A. {first}. B {second}. Answer:"
        return Example(prompt, row.position("answer", ("1", "2")))


@register_task
class WinoGrandeS(WinoGrande):
    name = "wg_s"
    title = "WG-S"
    config = "winogrande_s"
    rows = {"train": 640, "validation": 1267}
    fingerprints = {"train": "9f8214a8c7ccf6ae", "validation": "aaa4e0ea7edee280"}


@register_task
class WinoGrandeM(WinoGrande):
    name = "wg_m"
    title = "WG-M"
    config = "winogrande_m"
    rows = {"train": 2558, "validation": 1267}
    fingerprints = {"train": "350c9c90339f2771", "validation": "aaa4e0ea7edee280"}
