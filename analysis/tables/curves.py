"""Every point of every curve over tau, as a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from analysis.statistics.curves import Curve, all_curves, curve_name
from analysis.statistics.metric import metric_order
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value, joined

COLUMNS = (
    "protocol", "model", "variant", "task", "method", "tau", "metric", "mean", "sd", "sem", "n_seeds", "seeds", "keys",
)  # fmt: skip


def _compute(study: Study) -> tuple[list[Curve], list[str]]:
    return study.once(all_curves), []


def _rows(study: Study, found: Sequence[Curve]) -> Iterator[dict[str, Value]]:
    """In fractions and nats."""
    for curve in found:
        for tau, group in curve:
            names = {name for record in group.records for name in record.metrics}
            for metric in sorted(names, key=metric_order):
                summary, records = summarize(group.values(metric)), group.having(metric)
                yield {
                    **group.section._asdict(),
                    "task": group.task,
                    "method": curve_name(curve),
                    "tau": np.format_float_positional(tau, trim="-"),
                    "metric": metric,
                    "mean": summary.mean,
                    "sd": summary.sd,
                    "sem": summary.sem,
                    "n_seeds": summary.n,
                    "seeds": joined(record.seed for record in records),
                    "keys": " ".join(record.key for record in records),
                }


TABLE = Table("", "", _compute, csv=Csv("tau.csv", COLUMNS, _rows))
