"""Curves: runs that differ in the prediction option ``tau`` only, which scales the posterior's covariance."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.records.fits import fits
from analysis.records.groups import Group
from analysis.records.labels import flatten
from analysis.statistics.metric import metric_order
from analysis.statistics.summary import summarize
from analysis.tables.files import csv_text, number

OPTION = "options.tau"
COLUMNS = (
    "protocol", "model", "variant", "task", "method", "tau", "metric", "mean", "sd", "sem", "n_seeds", "seeds", "keys",
)  # fmt: skip

Curve = list[tuple[float, Group]]  # by tau, ascending


def curves(groups: Sequence[Group]) -> list[Curve]:
    """Groups that are alike but for tau (and their purpose), where there are at least two values of it.

    A result comes before the sweep point of the same tau when it is given before it.
    """
    found: dict[tuple[tuple[str, str], ...], dict[float, Group]] = {}
    for group in groups:
        if "tau" in group.spec.options:
            points = found.setdefault(tuple(sorted(but_for_tau(group).items())), {})
            points.setdefault(float(str(group.spec.options["tau"])), group)
    return [sorted(points.items()) for points in found.values() if len(points) > 1]


def but_for_tau(group: Group) -> dict[str, str]:
    """The settings that a curve's points have in common."""
    return dict(flatten(group.settings, ignore=(OPTION, "purpose")))


def mean_rows(curve: Curve, results: Sequence[Group]) -> list[Group]:
    """The results that are the curve's point tau = 0 under another name, such as IVON@mean.

    They predict once, from the same fit or one it was made from, and have exactly the metrics of tau = 0.
    """
    at_zero = dict(curve).get(0.0)
    if at_zero is None:
        return []
    chain = fits(at_zero.spec.fit)
    return [
        group
        for group in results
        if (group.section, group.task) == (at_zero.section, at_zero.task)
        and "tau" not in group.spec.options
        and group.spec.fit in chain
        and [dict(record.metrics) for record in group.records] == [dict(record.metrics) for record in at_zero.records]
    ]


def tau_csv(found: Sequence[Curve]) -> str:
    """All points of all curves as CSV, in fractions and nats."""
    rows = []
    for curve in found:
        for tau, group in curve:
            names = {name for record in group.records for name in record.metrics}
            for metric in sorted(names, key=metric_order):
                summary, records = summarize(group.values(metric)), group.having(metric)
                spread = [number(value) for value in (summary.mean, summary.sd, summary.sem)]
                seeds = " ".join(str(record.spec.fit.seed) for record in records)
                where = (*group.section, group.task, curve_name(curve), f"{tau:g}", metric)
                rows.append([*where, *spread, str(summary.n), seeds, " ".join(record.key for record in records)])
    return csv_text(COLUMNS, rows)


def curve_name(curve: Curve) -> str:
    """The name of the curve's result, if it has one, else of its first point."""
    return next((group.name for _, group in curve if group.spec.purpose == "result"), curve[0][1].name)
