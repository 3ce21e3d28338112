"""What one variant of the settings shows and another does not: differences to the baseline, held against each other.

A comparison is a trained method, a task and a metric. It *shows* a difference where its Holm-corrected p is at most
0.05 (``analysis/statistics/differences.py``). Variants are held against each other over the comparisons that both have,
so a method that one of them leaves out counts in neither.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from analysis.records.groups import Section
from analysis.records.order import row_order
from analysis.records.published import task_order
from analysis.statistics.differences import compare
from analysis.statistics.metric import metric_order
from analysis.statistics.study import Study


class Place(NamedTuple):
    """Where two variants may differ."""

    method: str
    metric: str
    task: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """A method's metric less the baseline's on one task: mean over seeds, Holm-corrected p and verdict."""

    section: Section
    baseline: str
    place: Place
    difference: float
    seeds: int
    p: float
    verdict: str

    @property
    def shown(self) -> bool:
        """Whether a difference of the methods is shown: that of one seed is one of two fits."""
        return self.seeds > 1 and self.verdict in ("better", "worse")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The findings of one section against one baseline, in the order of the rows, metrics and tasks."""

    section: Section
    baseline: str
    found: Mapping[Place, Finding]

    @property
    def shown(self) -> list[Finding]:
        """The differences that are shown."""
        return [one for one in self.found.values() if one.shown]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The numbers of seeds behind the findings, ascending."""
        return tuple(sorted({one.seeds for one in self.found.values()}))


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Two variants of one protocol, model and baseline; the differences of the first are looked for in the second."""

    first: Outcome
    second: Outcome

    @cached_property
    def _pairs(self) -> list[tuple[Finding, Finding]]:
        return [
            (one, self.second.found[place]) for place, one in self.first.found.items() if place in self.second.found
        ]

    @property
    def common(self) -> int:
        """The number of comparisons that both variants have."""
        return len(self._pairs)

    @property
    def kept(self) -> list[Finding]:
        """Differences of the first that the second shows, too."""
        return [a for a, b in self._pairs if a.shown and b.shown and a.verdict == b.verdict]

    @property
    def reversed(self) -> list[Finding]:
        """Differences of the first that the second shows with the other sign."""
        return [a for a, b in self._pairs if a.shown and b.shown and a.verdict != b.verdict]

    @property
    def lost(self) -> list[Finding]:
        """Differences of the first that the second does not show."""
        return [a for a, b in self._pairs if a.shown and not b.shown]

    @property
    def gained(self) -> list[Finding]:
        """Differences of the second that the first does not show."""
        return [b for a, b in self._pairs if b.shown and not a.shown]


def outcomes(study: Study) -> tuple[list[Outcome], list[str]]:
    """The comparisons of every section and baseline, the main variant first; references are left out."""
    ordered = sorted(
        (d for d in study.once(compare)[0] if not d.group.reference and d.judged),
        key=lambda d: (
            study.sections.index(d.group.section),
            d.baseline.name,
            row_order(d.group, study.baseline),
            metric_order(d.metric),
            task_order(d.group.task),
        ),
    )
    return gather(
        Finding(
            d.group.section, d.baseline.name, Place(d.group.name, d.metric, d.group.task),
            d.estimate.mean, d.estimate.seeds, d.p_holm, d.verdict,
        )
        for d in ordered
    ), []  # fmt: skip


def gather(findings: Iterable[Finding]) -> list[Outcome]:
    """Findings by section and baseline, in their order."""
    found: dict[tuple[Section, str], dict[Place, Finding]] = {}
    for one in findings:
        found.setdefault((one.section, one.baseline), {})[one.place] = one
    return [Outcome(section, baseline, cells) for (section, baseline), cells in found.items()]


def contrasts(found: Sequence[Outcome]) -> list[Contrast]:
    """The first variant of each protocol, model and baseline against every other, where they share comparisons."""
    firsts: dict[tuple[str, str, str], Outcome] = {}
    pairs = []
    for outcome in found:
        place = (outcome.section.protocol, outcome.section.model, outcome.baseline)
        first = firsts.setdefault(place, outcome)
        if first is not outcome and (pair := Contrast(first, outcome)).common:
            pairs.append(pair)
    return pairs
