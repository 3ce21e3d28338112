"""Curves: runs that differ in the prediction option ``tau`` only, which scales the posterior's covariance."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.records.fits import chain
from analysis.records.groups import Group
from analysis.records.labels import flatten
from analysis.statistics.study import Study

OPTION = "options.tau"

Curve = list[tuple[float, Group]]  # by tau, ascending


def tau_of(group: Group) -> float | None:
    """The tau that a group predicts with, if it has one."""
    tau = group.spec.options.get("tau")
    return float(tau) if isinstance(tau, int | float) and not isinstance(tau, bool) else None


def curves(groups: Sequence[Group]) -> list[Curve]:
    """Groups that are alike but for tau (and their purpose), where there are at least two values of it.

    A result comes before the sweep point of the same tau when it is given before it.
    """
    found: dict[tuple[object, ...], dict[float, Group]] = {}
    for group in groups:
        if (tau := tau_of(group)) is not None:
            points = found.setdefault((group.data, *sorted(but_for_tau(group).items())), {})
            points.setdefault(tau, group)
    return [sorted(points.items()) for points in found.values() if len(points) > 1]


def all_curves(study: Study) -> list[Curve]:
    """The curves of a study's results and sweeps."""
    return curves([*study.runs.results, *study.runs.sweeps])


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
    behind = chain(at_zero.spec.fit)
    return [
        group
        for group in results
        if (group.section, group.task) == (at_zero.section, at_zero.task)
        and "tau" not in group.spec.options
        and group.spec.fit in behind
        and [dict(record.metrics) for record in group.records] == [dict(record.metrics) for record in at_zero.records]
    ]


def curve_name(curve: Curve) -> str:
    """The name of the curve's result, if it has one, else of its first point."""
    return next((group.name for _, group in curve if group.spec.purpose == "result"), curve[0][1].name)
