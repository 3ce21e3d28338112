"""Tables of what is recomputed from stored predictions: further metrics, and detection out of distribution."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence

from analysis.records.groups import Group, Runs
from analysis.records.order import BASELINE, row_order
from analysis.records.predictions import read_predictions
from analysis.records.published import task_order
from analysis.statistics.metric import metric_of
from analysis.statistics.quality import QUALITY
from analysis.statistics.summary import summarize
from analysis.tables.files import csv_text, number
from analysis.tables.markdown import GAP, table
from bench.store.records import DamagedRecord

COLUMNS = (
    "protocol",
    "model",
    "variant",
    "task",
    "eval_task",
    "method",
    "metric",
    "mean",
    "sd",
    "sem",
    "n_seeds",
    "seeds",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """A group and, per metric, the value of each seed that has it."""

    group: Group
    values: Mapping[str, Mapping[int, float]]


def recompute(runs: Runs) -> tuple[list[Row], list[str]]:
    """The further metrics of every result, and a sentence for each run whose predictions are damaged."""
    rows, notes = [], []
    for group in runs.results:
        values: dict[str, dict[int, float]] = {name: {} for name in QUALITY}
        for record in group.records:
            try:
                given = read_predictions(record)
            except DamagedRecord as error:
                print(f"left out of the further metrics: {error}", file=sys.stderr)
                notes.append(f"Left out of the further metrics: {error}")
                continue
            for name, metric in QUALITY.items():
                value = metric(given)
                if value is not None:
                    values[name][record.spec.fit.seed] = value
        rows.append(Row(group, {name: found for name, found in values.items() if found}))
    return rows, notes


def rows_table(runs: Runs, rows: Sequence[Row], baseline: str = BASELINE) -> str:
    """Markdown: a table per section; tasks and methods down, metrics across; mean ± standard error over seeds."""
    parts = []
    for section in runs.sections:
        here = _ordered([row for row in rows if row.group.section == section], baseline)
        names = list(dict.fromkeys(name for row in here for name in row.values))
        lines = [[row.group.task, row.group.name, *(_cell(row, name) for name in names)] for row in here]
        if lines and names:
            header = ["task", "method", *(metric_of(name).heading for name in names)]
            parts.append(f"### {section.title}\n\n{table(header, lines)}")
    return "\n".join(parts)


def _ordered(rows: Sequence[Row], baseline: str) -> list[Row]:
    return sorted(
        rows,
        key=lambda row: (
            task_order(row.group.spec.fit.data.task),
            task_order(row.group.spec.data.task),
            row_order(row.group, baseline),
        ),
    )


def _cell(row: Row, name: str) -> str:
    values = row.values.get(name)
    if not values:
        return GAP
    metric, summary = metric_of(name), summarize(list(values.values()))
    text = metric.show(summary.mean) + ("" if summary.sem is None else f" ± {metric.show(summary.sem)}")
    short = len(values) < len(row.group.records)
    return f"{text} [{len(values)} of {len(row.group.records)} seeds]" if short else text


def rows_csv(runs: Runs, rows: Sequence[Row], baseline: str = BASELINE) -> str:
    """The same as CSV, in fractions and nats."""
    lines = []
    for section in runs.sections:
        for row in _ordered([row for row in rows if row.group.section == section], baseline):
            spec = row.group.spec
            for name, values in row.values.items():
                summary = summarize(list(values.values()))
                numbers = (number(summary.mean), number(summary.sd), number(summary.sem), str(summary.n))
                where = (*section, spec.fit.data.task, spec.data.task, row.group.name, name)
                lines.append((*where, *numbers, " ".join(map(str, values))))
    return csv_text(COLUMNS, lines)
