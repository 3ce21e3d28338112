"""The marks of significant differences to the baseline, as tables show them next to a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.records.groups import Section
from analysis.statistics.differences import Difference
from bench.metrics import EXCESS_NLL, METRICS

MARKS = {"better": "▲", "worse": "▼"}
JUDGED_BY = {**{name: name for name in METRICS}, EXCESS_NLL.name: "nll"}
"""Metrics of the main tables, each with the one whose differences it shares: the optimum cancels in a difference."""

Marks = Mapping[tuple[Section, str, str, str], str]  # section, row, task and metric to the mark


def marks(found: Sequence[Difference]) -> Marks:
    """A mark for every difference that is shown, but where a task has several rows of the baseline to differ from."""
    bases = _baselines(found)
    shown = {
        (d.group.section, d.group.name, d.group.task, d.metric): MARKS[d.verdict]
        for d in found
        if d.shown and len(bases[d.group.section, d.group.task]) == 1
    }
    return {
        (section, name, task, metric): mark
        for (section, name, task, judged), mark in shown.items()
        for metric, by in JUDGED_BY.items()
        if by == judged
    }


def unmarked(found: Sequence[Difference]) -> list[str]:
    """A sentence for each section in which numbers bear no mark, because several rows are the baseline's."""
    places: dict[tuple[Section, str], list[str]] = {}
    for (section, task), names in _baselines(found).items():
        if len(names) > 1:
            places.setdefault((section, " and ".join(sorted(names))), []).append(task)
    return [
        f"{section.title}: no number on {', '.join(tasks)} is marked as better or worse, because {names} are all rows "
        "of the baseline. The differences list each."
        for (section, names), tasks in places.items()
    ]


def _baselines(found: Sequence[Difference]) -> dict[tuple[Section, str], set[str]]:
    """The rows of the baseline that others are compared to, by section and task."""
    names: dict[tuple[Section, str], set[str]] = {}
    for one in found:
        names.setdefault((one.group.section, one.group.task), set()).add(one.baseline.name)
    return names
