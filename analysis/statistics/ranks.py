"""Ranks of the methods on each task, and whether they differ: Friedman's test and Nemenyi's critical difference.

Blocks are tasks; a method's value on a task is its mean over seeds; rank 1 is best, ties share their mean rank. Ranked
are trained methods without a disqualifying flag that have every task (Demsar 2006, JMLR 7):

    CD = q_alpha sqrt(k (k + 1) / (6 T)),   q_alpha the studentized range's quantile / sqrt(2), k methods, T tasks

With the few tasks of this field both have little power: no difference shown is not no difference.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from analysis.records.groups import Group, Section
from analysis.records.order import row_names
from analysis.records.published import task_order
from analysis.statistics.study import Study
from bench.metrics import METRICS, Metric

ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The (T, k) ranks of k methods on T tasks by one metric; tests are None where they are not defined."""

    section: Section
    metric: Metric
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    ranks: NDArray[np.float64]
    friedman: float | None  # the statistic; needs 3 methods and 2 tasks, and not all methods tied everywhere
    p: float | None
    critical: float | None

    @property
    def means(self) -> dict[str, float]:
        """The mean rank of each method, best first."""
        found = dict(zip(self.methods, self.ranks.mean(axis=0).tolist(), strict=True))
        return dict(sorted(found.items(), key=lambda pair: (pair[1], self.methods.index(pair[0]))))

    @property
    def cliques(self) -> list[tuple[str, ...]]:
        """The largest runs of at least two methods, in the order of their mean ranks, that differ by less than CD."""
        if self.critical is None:
            return []
        names = list(self.means)
        ends: list[tuple[int, int]] = []
        for start, first in enumerate(names):
            within = [n for n, name in enumerate(names) if self.means[name] - self.means[first] < self.critical]
            if within[-1] > start and (not ends or within[-1] > ends[-1][1]):
                ends.append((start, within[-1]))
        return [tuple(names[start : end + 1]) for start, end in ends]


def rankings(study: Study) -> tuple[list[Ranking], list[str]]:
    """A ranking per section and metric of the protocol, and a sentence for each method that could not be ranked."""
    found, notes = [], []
    for section in study.sections:
        groups = [g for g in study.of(section) if not g.away and not g.reference]
        for metric in (metric for metric in METRICS.values() if metric.better):
            ranking, left_out = _ranking(section, [g for g in groups if g.having(metric.name)], metric, study.baseline)
            found += [ranking] if ranking is not None else []
            notes += [f"Not ranked ({section.title}): {sentence}" for sentence in left_out]
    return found, list(dict.fromkeys(notes))


def _ranking(
    section: Section, groups: Sequence[Group], metric: Metric, baseline: str
) -> tuple[Ranking | None, list[str]]:
    from scipy.stats import rankdata

    cells = {(group.name, group.task): group for group in groups}
    tasks = sorted({task for _, task in cells}, key=task_order)
    methods, notes = [], []
    for name in row_names(groups, baseline):
        missing = [task for task in tasks if (name, task) not in cells]
        flags = {flag for task in tasks if (name, task) in cells for flag in _flags(cells[name, task])}
        if missing or flags:
            why = f"has no run on {', '.join(missing)}" if missing else f"is flagged {', '.join(sorted(flags))}"
            notes.append(f"{name} {why}.")
        else:
            methods.append(name)
    if len(methods) < 2:
        return None, notes
    shown = [[displayed(cells[name, task], metric) for name in methods] for task in tasks]
    ranks = rankdata(-metric.better * np.array(shown), axis=1)
    statistic, p = _friedman(ranks)
    return Ranking(section, metric, tuple(tasks), tuple(methods), ranks, statistic, p, _critical(*ranks.shape)), notes


def displayed(group: Group, metric: Metric) -> float:
    """The mean over seeds as tables show it: figures that look equal share their rank."""
    return float(metric.show(fmean(group.values(metric.name))))


def _flags(group: Group) -> tuple[str, ...]:
    source = group.origin
    return () if source.ranked else source.flags


def _friedman(ranks: NDArray[np.float64]) -> tuple[float | None, float | None]:
    from scipy.stats import friedmanchisquare

    tasks, methods = ranks.shape
    if methods < 3 or tasks < 2 or bool((ranks == ranks[:, :1]).all()):
        return None, None
    found = friedmanchisquare(*ranks.T)
    return float(found.statistic), float(found.pvalue)


@functools.lru_cache  # the quantile takes long to find
def _critical(tasks: int, methods: int) -> float | None:
    from scipy.stats import studentized_range

    if tasks < 2:
        return None
    q = studentized_range.isf(ALPHA, methods, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * tasks)))
