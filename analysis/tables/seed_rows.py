"""Tables of what is recomputed from predictions: further metrics, and detection out of distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.records.order import row_order
from analysis.records.published import task_order
from analysis.statistics.metric import metric_of
from analysis.statistics.seed_values import Row, detections, further
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from analysis.tables.formats.markdown import GAP, heading, table
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value, joined

COLUMNS = (
    "protocol", "model", "variant", "task", "eval_task", "method", "metric", "mean", "sd", "sem", "n_seeds", "seeds",
)  # fmt: skip


def rows_table(study: Study, rows: Sequence[Row]) -> str:
    """Markdown: a table per section; tasks and methods down, metrics across; mean ± standard error over seeds."""
    parts = []
    for section in study.sections:
        here = _ordered([row for row in rows if row.group.section == section], study.baseline)
        names = list(dict.fromkeys(name for row in here for name in row.values))
        lines = [[row.group.task, row.group.name, *(_cell(row, name) for name in names)] for row in here]
        if lines and names:
            header = ["task", "method", *(metric_of(name).heading for name in names)]
            parts.append(f"{heading(3, section.title)}\n{table(header, lines)}")
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
    seeds = len(row.group.records)
    return f"{text} ({len(values)} of {seeds} seeds)" if len(values) < seeds else text


def csv_rows(study: Study, rows: Sequence[Row]) -> Iterator[dict[str, Value]]:
    """In fractions and nats."""
    for section in study.sections:
        for row in _ordered([row for row in rows if row.group.section == section], study.baseline):
            spec = row.group.spec
            for name, values in row.values.items():
                summary = summarize(list(values.values()))
                yield {
                    **section._asdict(),
                    "task": spec.fit.data.task,
                    "eval_task": spec.data.task,
                    "method": row.group.name,
                    "metric": name,
                    "mean": summary.mean,
                    "sd": summary.sd,
                    "sem": summary.sem,
                    "n_seeds": summary.n,
                    "seeds": joined(values),
                }


FURTHER_TEXT = (
    "Recomputed from the stored predictions (mean ± standard error over seeds); `analysis/statistics/quality.py` "
    "has the definitions and sources. Bins are 15 unless a heading says otherwise; the debiased ECE may be negative.\n"
)
DETECTION_TEXT = (
    "A fit scored on another task than it was trained on (trained → scored). Detection tells the examples of its own "
    "task (the positive class) from those of the other; FPR95 is the false positive rate at the threshold that keeps "
    "95 % of its own. Scores: entropy of the mixture, its largest probability, and mutual information (MI), which "
    "needs more than one draw.\n"
)
FURTHER = Table("Further metrics", FURTHER_TEXT, further, rows_table, Csv("metrics.csv", COLUMNS, csv_rows))
DETECTION = Table(
    "Out of distribution", DETECTION_TEXT, detections, rows_table, Csv("ood.csv", COLUMNS, csv_rows), always=False
)
