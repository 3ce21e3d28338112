"""``leaderboard.csv``: one row per method, task, model, protocol, variant and metric. Same records, same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.files import csv_text, number, write_text
from analysis.load import Group, load
from analysis.metric import metric_order
from analysis.summary import summarize

COLUMNS = (
    "method", "task", "eval_task", "split", "model", "protocol", "variant", "settings", "metric", "mean", "sd", "sem",
    "n_seeds", "seeds", "partial_data", "keys",
)  # fmt: skip


def write_leaderboard(runs: Path, out: Path) -> int:
    """Write the leaderboard of the results under ``runs``; returns its number of rows.

    Raises:
        ValueError: there is no result.
    """
    rows = leaderboard_rows(load(runs).results)
    write_text(out, csv_text(COLUMNS, rows))
    return len(rows)


def leaderboard_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """The rows in the order protocol, model, task, eval_task, split, variant, metric, method, settings.

    Metrics in the order of the protocol, others after them; all else alphabetical. Fractions, not percentages.
    """
    rows = []
    for group in groups:
        for metric in {name for record in group.records for name in record.metrics}:
            rows.append((_order(group, metric), _row(group, metric)))
    return [row for _, row in sorted(rows)]


def _order(group: Group, metric: str) -> tuple[object, ...]:
    spec = group.spec
    where = (spec.protocol, group.model, spec.fit.data.task, spec.data.task, spec.split, spec.variant)
    return (*where, metric_order(metric), spec.method, group.settings)


def _row(group: Group, metric: str) -> tuple[str, ...]:
    spec, records = group.spec, group.having(metric)
    summary = summarize(group.values(metric))
    return (
        spec.method,
        spec.fit.data.task,
        spec.data.task,
        spec.split,
        group.model,
        spec.protocol,
        spec.variant,
        group.hash,
        metric,
        number(summary.mean),
        number(summary.sd),
        number(summary.sem),
        str(summary.n),
        " ".join(str(record.spec.fit.seed) for record in records),
        "yes" if group.partial else "no",
        " ".join(record.key for record in records),
    )
