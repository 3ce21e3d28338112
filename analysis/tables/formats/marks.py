"""The marks of significant differences to the baseline, as tables show them next to a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.records.groups import Section
from analysis.statistics.differences import Difference
from bench.metrics import EXCESS_NLL, METRICS

MARKS = {"better": "▲", "worse": "▼"}
JUDGED_BY = {**{name: name for name in METRICS}, EXCESS_NLL.name: "nll"}
"""Metrics of the main tables, each with the one whose differences it shares: the optimum cancels in a difference."""
UNMARKED = (
    "an unmarked number is not distinguishable from it, or not compared (averages, and rows that share fewer than two "
    "seeds with it)"
)

Marks = Mapping[tuple[Section, str, str, str], str]  # section, row, task and metric to the mark


def marks(found: Sequence[Difference]) -> Marks:
    """A mark for every difference that is shown over several seeds, where a task has one row of the baseline."""
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
    """Sentences on numbers without a mark: several rows are the baseline's, or one seed is shared with it."""
    places: dict[tuple[Section, str], list[str]] = {}
    for (section, task), names in _baselines(found).items():
        if len(names) > 1:
            places.setdefault((section, " and ".join(sorted(names))), []).append(task)
    several = [
        f"{section.title}: no number on {', '.join(tasks)} is marked as better or worse, because {names} are all rows "
        "of the baseline. The differences list each."
        for (section, names), tasks in places.items()
    ]
    alone: dict[Section, dict[str, dict[str, None]]] = {}
    for one in found:
        if one.estimate.seeds < 2:
            alone.setdefault(one.group.section, {}).setdefault(one.group.name, {})[one.group.task] = None
    single = []
    for section, rows in alone.items():
        which = ", ".join(f"{name} ({', '.join(tasks)})" for name, tasks in rows.items())
        single.append(
            f"{section.title}: no mark on the numbers of {which}. They share one seed with the baseline, so "
            "a difference is one of two fits, not of two methods."
        )
    return several + single


def _baselines(found: Sequence[Difference]) -> dict[tuple[Section, str], set[str]]:
    """The rows of the baseline that others are compared to, by section and task."""
    names: dict[tuple[Section, str], set[str]] = {}
    for one in found:
        names.setdefault((one.group.section, one.group.task), set()).add(one.baseline.name)
    return names
