"""Differences to a baseline, method by method and task by task, on the same examples and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from analysis.records.evaluation import Evaluation
from analysis.records.groups import Group, Section
from analysis.statistics.bootstrap import LEVEL, Estimate, Scored, paired_difference
from analysis.statistics.metric import metric_of
from analysis.statistics.study import Study


@dataclasses.dataclass(frozen=True)
class Difference:
    """A method's metric less the baseline's: mean over seeds and 95 % interval."""

    group: Group
    baseline: Group
    metric: str
    estimate: Estimate
    p_holm: float = 1.0  # p, corrected for the number of comparisons

    @property
    def covers(self) -> str:
        """What interval and p are over; the choice of a single seed has no spread."""
        return "seeds and examples" if self.estimate.seeds > 1 else "examples only"

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the corrected p is at most 0.05, else ``no difference shown``."""
        direction = metric_of(self.metric).better
        if self.p_holm > 1 - LEVEL + 1e-12 or not direction:
            return "no difference shown"
        return "better" if self.estimate.mean * direction > 0 else "worse"


def compare(study: Study) -> tuple[list[Difference], list[str]]:
    """All differences to the study's baseline, and a sentence for each comparison that could not be made."""
    found: list[Difference] = []
    notes: list[str] = []
    for section in study.runs.sections:
        cells: dict[str, list[Group]] = {}
        for group in study.of(section):
            cells.setdefault(group.task, []).append(group)
        for task in sorted(cells):
            bases = [group for group in cells[task] if group.spec.method == study.baseline]
            others = [group for group in cells[task] if group.spec.method != study.baseline]
            for base in bases:
                for group in others:
                    found += _pair(study, group, base, notes)
    if not any(group.spec.method == study.baseline for group in study.runs.results):
        notes.append(f"No differences: there is no result of the baseline '{study.baseline}'.")
    return _corrected(found), notes


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """Holm's correction, over the methods and tasks of each section, baseline and metric; references apart."""
    from statsmodels.stats.multitest import multipletests

    families: dict[tuple[Section, str, str, bool], list[int]] = {}
    for place, d in enumerate(found):
        families.setdefault((d.group.section, d.baseline.name, d.metric, d.group.reference), []).append(place)
    corrected = list(found)
    for places in families.values():
        adjusted = multipletests([found[place].estimate.p for place in places], method="holm")[1]
        for place, p in zip(places, adjusted, strict=True):
            corrected[place] = dataclasses.replace(found[place], p_holm=float(p))
    return corrected


def _pair(study: Study, group: Group, base: Group, notes: list[str]) -> Iterator[Difference]:
    """The differences of a method to the baseline, over the seeds for which both predict the same examples."""
    what = f"No difference of {group.name} to {base.name} on {group.task} ({group.section.title})"
    bases = {record.seed: record for record in base.records}
    shared = [(record, bases[record.seed]) for record in group.records if record.seed in bases]
    agreeing = [pair for pair in shared if study.runs.data.agree(*pair)]
    if shared and not agreeing:
        notes.append(f"{what}: they were trained or scored on unlike rows (mixed-data).")
        return
    both = [pair for pair in agreeing if _examples(study, pair[0]) == _examples(study, pair[1])]
    if not both or len({_examples(study, pair[0]) for pair in both}) > 1:
        notes.append(f"{what}: they do not share seeds on the same examples.")
        return
    scored = [(_scored(study, one), _scored(study, other)) for one, other in both]
    pairs = [(one, other) for one, other in scored if one is not None and other is not None]
    if not pairs:
        notes.append(f"{what}: one example has no spread.")
        return
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for metric in ours[0].whole:
        yield Difference(group, base, metric, paired_difference(metric, ours, theirs))


def _examples(study: Study, record: Evaluation) -> str:
    return study.measured[record.key].examples


def _scored(study: Study, record: Evaluation) -> Scored | None:
    return study.measured[record.key].scored
