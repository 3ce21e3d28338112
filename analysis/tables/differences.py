"""Differences to a baseline, method by method and task by task, on the same examples and seeds."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from analysis.records.groups import Group, Runs, Section
from analysis.records.order import BASELINE, row_names
from analysis.records.predictions import read_predictions
from analysis.statistics.bootstrap import LEVEL, TERMS, Estimate, Scored, paired_difference, score_resamples
from analysis.statistics.metric import metric_of
from analysis.tables.files import csv_text, number
from analysis.tables.markdown import GAP, table
from bench.store.records import DamagedRecord

COLUMNS = (
    "protocol", "model", "variant", "task", "method", "baseline", "metric", "difference", "low", "high",
    "seeds_agreeing", "n_seeds", "covers", "p", "p_holm", "verdict",
)  # fmt: skip


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
        if self.p_holm > 1 - LEVEL + 1e-12:
            return "no difference shown"
        return "better" if self.estimate.mean * metric_of(self.metric).better > 0 else "worse"


class _Run(NamedTuple):
    examples: tuple[tuple[str, int], ...]  # ids and labels: what must be equal for runs to be paired
    scored: Scored


def compare(runs: Runs, baseline: str = BASELINE) -> tuple[list[Difference], list[str]]:
    """All differences to the method named ``baseline``, and a sentence for each comparison that could not be made."""
    found: list[Difference] = []
    notes: list[str] = []
    for section in runs.sections:
        for task in sorted({group.task for group in runs.of(section)}):
            groups = [group for group in runs.of(section) if group.task == task]
            bases = [group for group in groups if group.spec.method == baseline]
            others = [group for group in groups if group.spec.method != baseline]
            scored = _score([*bases, *others] if bases else [], notes)
            for base in bases:
                for group in others:
                    found += _pair(group, base, scored, notes)
    if not any(group.spec.method == baseline for group in runs.results):
        notes.append(f"No differences: there is no result of the baseline '{baseline}'.")
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


def _score(groups: Sequence[Group], notes: list[str]) -> dict[str, _Run]:
    """The scores of all runs by key; the damaged ones are left out and noted."""
    scored = {}
    for record in (record for group in groups for record in group.records):
        try:
            given = read_predictions(record)
        except DamagedRecord as error:
            print(f"left out of the differences: {error}", file=sys.stderr)
            notes.append(f"Left out of the differences: {error}")
            continue
        examples = tuple(zip(given.ids, given.labels.tolist(), strict=True))
        scored[record.key] = _Run(examples, score_resamples(given))
    return scored


def _pair(group: Group, base: Group, scored: Mapping[str, _Run], notes: list[str]) -> Iterator[Difference]:
    """The differences of a method to the baseline, over the seeds for which both predict the same examples."""
    bases = {record.spec.fit.seed: scored.get(record.key) for record in base.records}
    pairs = [(scored.get(record.key), bases.get(record.spec.fit.seed)) for record in group.records]
    both = [(ours, theirs) for ours, theirs in pairs if ours and theirs and ours.examples == theirs.examples]
    if both and len(both[0][0].examples) < 2:
        notes.append(f"No difference of {group.name} to {base.name} on {group.task}: one example has no spread.")
        return
    if not both or any(ours.examples != both[0][0].examples for ours, _ in both):
        notes.append(
            f"No difference of {group.name} to {base.name} on {group.task} ({group.section.title}): "
            "they do not share seeds on the same examples."
        )
        return
    for metric in TERMS:
        estimate = paired_difference(metric, [ours.scored for ours, _ in both], [theirs.scored for _, theirs in both])
        yield Difference(group, base, metric, estimate)


def differences(found: Sequence[Difference], baseline: str = BASELINE) -> str:
    """Markdown: a table per section and baseline; rows are tasks and methods, columns metrics; bold leaves 0 out."""
    parts = []
    sections: list[tuple[Section, str]] = sorted({(d.group.section, d.baseline.name) for d in found})
    for section, base in sections:
        here = {
            (d.group.task, d.group.name, d.metric): d
            for d in found
            if (d.group.section, d.baseline.name) == (section, base)
        }
        names = row_names([d.group for d in here.values()], baseline)
        pairs = [(task, name) for task in sorted({t for t, _, _ in here}) for name in names]
        rows = [
            [task, name, *(_cell(here.get((task, name, metric))) for metric in TERMS)]
            for task, name in pairs
            if any((task, name, metric) in here for metric in TERMS)
        ]
        header = ["task", f"method less {base}", *(metric_of(metric).heading for metric in TERMS)]
        parts.append(f"### {section.title}: differences to {base}\n\n{table(header, rows)}")
    shown = sum(d.verdict != "no difference shown" for d in found)
    method = (
        "Mean difference over seeds [95 % interval], and in how many seeds the sign is that of the mean. Intervals are "
        "for one comparison each, over seeds and examples: t with one degree of freedom less than seeds for what "
        "varies between seeds, and a paired bootstrap of examples (`analysis/statistics/bootstrap.py`); "
        "two seeds can hardly show a difference, three only a large one. *Examples only* marks a single seed: that "
        "interval compares two fits, not two methods. p is Holm-corrected over the methods and tasks of a metric, "
        "references apart. "
        f"**Bold** with the word better or worse: p is at most 0.05 ({shown} of {len(found)} comparisons). All others "
        "are not distinguishable from zero.\n"
    )
    return "\n".join([method, *parts]) if found else ""


def _cell(difference: Difference | None) -> str:
    if difference is None:
        return GAP
    metric, estimate = metric_of(difference.metric), difference.estimate
    mean, low, high = (_signed(metric.show(value)) for value in (estimate.mean, estimate.low, estimate.high))
    clear = difference.verdict in ("better", "worse")
    text = f"**{mean}** [{low}, {high}] {difference.verdict}" if clear else f"{mean} [{low}, {high}]"
    only = "" if estimate.seeds > 1 else f" {difference.covers}"
    return f"{text} {estimate.agree}/{estimate.seeds}{only} p={difference.p_holm:.2g}"


def _signed(text: str) -> str:
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def differences_csv(found: Sequence[Difference]) -> str:
    """The differences as CSV, in fractions and nats."""
    rows = []
    for d in found:
        e = d.estimate
        values = [number(value) for value in (e.mean, e.low, e.high)]
        where = (*d.group.section, d.group.task, d.group.name, d.baseline.name, d.metric)
        rows.append([*where, *values, str(e.agree), str(e.seeds), d.covers, number(e.p), number(d.p_holm), d.verdict])
    return csv_text(COLUMNS, rows)
