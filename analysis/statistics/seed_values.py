"""Metrics that are not in records, seed by seed: further ones of each result, and detection out of distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from analysis.records.evaluation import Evaluation
from analysis.records.groups import Group
from analysis.statistics.detection import detection, pair
from analysis.statistics.quality import QUALITY
from analysis.statistics.study import Study
from bench.metrics import METRICS

Values = Mapping[str, Mapping[int, float]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A group and, by metric, the value of each seed that has it."""

    group: Group
    values: Values


def further(study: Study) -> tuple[list[Row], list[str]]:
    """The further metrics of every result."""
    rows = []
    for group in study.runs.results:
        measured = {record.seed: study.measured[record.key].quality for record in group.records}
        values = {
            name: {seed: quality[name] for seed, quality in measured.items() if name in quality} for name in QUALITY
        }
        rows.append(Row(group, {name: found for name, found in values.items() if found}))
    return rows, []


def detections(study: Study) -> tuple[list[Row], list[str]]:
    """A row per group that is scored out of distribution, and a sentence for each detection that could not be made."""
    results = study.runs.results
    at_home = {pair(record): record for group in results if not group.away for record in group.records}
    rows, notes = [], []
    for group in (group for group in results if group.away):
        values: dict[str, dict[int, float]] = {}
        for name in METRICS:
            values[name] = {record.seed: record.metrics[name] for record in group.having(name)}
        for record in group.records:
            twin = at_home.get(pair(record))
            why = _obstacle(study, record, twin)
            if twin is None or why:
                notes.append(f"No detection by {group.name} on {group.task}, seed {record.seed}: {why}.")
                continue
            inside, outside = study.measured[twin.key], study.measured[record.key]
            if inside.answers != outside.answers:
                notes.append(
                    f"{group.task}: the tasks have {inside.answers} and {outside.answers} answers, so their entropies "
                    "and probabilities are not on one scale."
                )
            for name in (name for name in inside.familiarity if name in outside.familiarity):
                auroc, fpr = detection(inside.familiarity[name], outside.familiarity[name])
                values.setdefault(f"auroc_{name}", {})[record.seed] = auroc
                values.setdefault(f"fpr95_{name}", {})[record.seed] = fpr
        rows.append(Row(group, {name: found for name, found in values.items() if found}))
    return rows, list(dict.fromkeys(notes))


def _obstacle(study: Study, record: Evaluation, twin: Evaluation | None) -> str:
    """Why a run and its twin cannot be compared; blank where they can."""
    if twin is None:
        return "there is no run of the same fit on its own task"
    return "" if study.runs.data.agree(record, twin) else "its fit is known with unlike rows (mixed-data)"
