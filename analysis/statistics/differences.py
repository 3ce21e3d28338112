"""Differences to a baseline, method by method and task by task, on the same examples and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from analysis.records.evaluation import Evaluation
from analysis.records.groups import Group, Section
from analysis.statistics.bootstrap import LEVEL, Estimate, Scorable, Scored, paired_difference, score_resamples
from analysis.statistics.metric import metric_of
from analysis.statistics.study import Study

TOGETHER = 32  # runs whose examples are resampled at once: faster than one by one, and still small


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
        """The source of variation behind interval and p; a single seed has no spread over seeds."""
        return "seeds and examples" if self.estimate.seeds > 1 else "examples only"

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the corrected p is at most 0.05, else ``no difference shown``.

        A metric of which neither more nor less is better ``differs`` instead.
        """
        direction = metric_of(self.metric).better
        if self.p_holm > 1 - LEVEL + 1e-12:
            return "no difference shown"
        if not self.judged:
            return "differs"
        return "better" if self.estimate.mean * direction > 0 else "worse"

    @property
    def judged(self) -> bool:
        """Whether more, or less, of the metric is better."""
        return metric_of(self.metric).better != 0

    @property
    def shown(self) -> bool:
        """Whether the methods differ: better or worse, over several seeds. One seed tells of two fits."""
        return self.verdict in ("better", "worse") and self.estimate.seeds > 1


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
            scored = _scored(study, cells[task]) if bases else {}
            for base in bases:
                for group in others:
                    found += _pair(study, group, base, scored, notes)
    if not any(group.spec.method == study.baseline for group in study.runs.results):
        notes.append(f"No differences: there is no result of the baseline '{study.baseline}'.")
    return _corrected(found), notes


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """Holm's correction, over the methods and tasks of each section, baseline and metric; references apart."""
    families: dict[tuple[Section, str, str, bool], list[int]] = {}
    for place, d in enumerate(found):
        families.setdefault((d.group.section, d.baseline.name, d.metric, d.group.reference), []).append(place)
    corrected = list(found)
    for places in families.values():
        for place, p in zip(places, holm([found[place].estimate.p for place in places]), strict=True):
            corrected[place] = dataclasses.replace(found[place], p_holm=p)
    return corrected


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m values of p times m - k + 1, never falling, at most 1.

    Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    order = np.argsort(ps)
    stepped = np.maximum.accumulate(np.asarray(ps)[order] * np.arange(len(ps), 0, -1))
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in adjusted]


def _pair(
    study: Study, group: Group, base: Group, known: Mapping[str, Scored], notes: list[str]
) -> Iterator[Difference]:
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
    if both[0][0].facts.scored < 2:
        notes.append(f"{what}: one example has no spread.")
        return
    ours, theirs = [known[one.key] for one, _ in both], [known[other.key] for _, other in both]
    for metric in ours[0].whole:
        yield Difference(group, base, metric, paired_difference(metric, ours, theirs))


def _examples(study: Study, record: Evaluation) -> str:
    return study.measured[record.key].examples


def _scored(study: Study, groups: Sequence[Group]) -> dict[str, Scored]:
    """The runs of one task, by key, with their metrics on resamples of its examples."""
    by_size: dict[int, list[tuple[str, Scorable]]] = {}
    for record in (record for group in groups for record in group.records):
        given = study.measured[record.key].given
        if given is not None:
            by_size.setdefault(len(given.labels), []).append((record.key, given))
    found: dict[str, Scored] = {}
    for runs in by_size.values():
        for start in range(0, len(runs), TOGETHER):
            part = runs[start : start + TOGETHER]
            found.update(zip([key for key, _ in part], score_resamples([given for _, given in part]), strict=True))
    return found
