"""Which of a paper's differences from its baseline hold in a store: the sign of each, with our interval.

A figure alone does not carry over to another base, the order of two methods may. An ordering is a method, a task and a
metric for which the paper prints both the method and its first row. It

    holds         our difference has the paper's sign, and its Holm-corrected p is at most 0.05
    is reversed   it has the other sign, at most 0.05 too
    is open       anything else: so many seeds and examples do not tell, and one seed tells of two fits only

The paper's own differences are taken as printed, whatever their standard errors. An equal pair is no ordering.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence

from analysis.records.groups import Section
from analysis.records.published import METRICS, TABLE1, digits, methods, published, tasks
from analysis.statistics.differences import Difference, compare
from analysis.statistics.metric import metric_of
from analysis.statistics.study import Study
from analysis.tables.differences import signed
from analysis.tables.formats.markdown import GAP, Markup, bold, table
from analysis.tables.formats.text import Value

COLUMNS = (
    "protocol", "model", "variant", "metric", "method", "baseline", "task", "published_difference", "difference", "low",
    "high", "n_seeds", "p_holm", "verdict",
)  # fmt: skip
HOLDS, REVERSED, OPEN = "holds", "reversed", "open"


@dataclasses.dataclass(frozen=True)
class Ordering:
    """A method less the baseline: ours, and as published."""

    ours: Difference
    theirs: float

    @property
    def verdict(self) -> str:
        """``holds``, ``reversed`` or ``open``."""
        if not self.ours.shown:
            return OPEN
        return HOLDS if (self.ours.estimate.mean > 0) == (self.theirs > 0) else REVERSED


def orderings(study: Study, name: str = TABLE1) -> list[Ordering]:
    """Every published ordering of which the store has both methods, on the same examples and seeds."""
    baseline = methods(name)[0]
    chosen = study if study.baseline == baseline else dataclasses.replace(study, baseline=baseline, _known={})
    found = []
    for ours in chosen.once(compare)[0]:
        task = ours.group.task
        method = published(name).get((ours.metric, ours.group.spec.method, task))
        base = published(name).get((ours.metric, baseline, task))
        if method is not None and base is not None and method.mean != base.mean:
            found.append(Ordering(ours, method.mean - base.mean))
    return found


def section_text(section: Section, found: Sequence[Ordering], name: str = TABLE1) -> str:
    """Markdown: for each row of the baseline a sentence with the counts, and a table per metric; "" without any."""
    by_baseline: dict[str, list[Ordering]] = {}
    for one in found:
        if one.ours.group.section == section:
            by_baseline.setdefault(one.ours.baseline.name, []).append(one)
    if not by_baseline:
        return ""
    explained = (
        "### The paper's orderings\n\n"
        "Ours [95 % interval] vs the paper's; p is Holm-corrected, and *open* says that so many seeds and examples do "
        "not tell the sign.\n"
    )
    return "\n".join([explained, *(_against(base, here, name) for base, here in by_baseline.items())])


def _against(base: str, here: Sequence[Ordering], name: str) -> str:
    """The orderings against one row of the baseline."""
    counts = Counter(one.verdict for one in here)
    parts = [
        f"Of {len(here)} published differences from {base}, {counts[HOLDS]} hold here, {counts[REVERSED]} are "
        f"reversed, and {counts[OPEN]} are open.\n"
    ]
    for metric in METRICS.values():
        cells = {(o.ours.group.name, o.ours.group.task): o for o in here if o.ours.metric == metric}
        columns = [task for task in tasks(name) if any(task == place[1] for place in cells)]
        lines = [
            [row, *(_cell(cells.get((row, task)), name) for task in columns)]
            for row in dict.fromkeys(row for row, _ in cells)
        ]
        if lines:
            header = [f"method less {base}", *columns]
            parts.append(f"{bold(metric_of(metric).heading)}\n\n{table(header, lines)}")
    return "\n".join(parts)


def _cell(found: Ordering | None, name: str) -> str:
    if found is None:
        return GAP
    metric = dataclasses.replace(metric_of(found.ours.metric), digits=digits(found.ours.metric, name))
    e = found.ours.estimate
    mean, low, high, theirs = (signed(metric.show(value)) for value in (e.mean, e.low, e.high, found.theirs))
    verdict = found.verdict if found.verdict == OPEN else bold(found.verdict)
    return Markup(f"{mean} [{low}, {high}] vs {theirs} {verdict}")


def rows(found: Sequence[Ordering]) -> Iterator[dict[str, Value]]:
    """In fractions and nats."""
    for one in found:
        e = one.ours.estimate
        yield {
            **one.ours.group.section._asdict(),
            "metric": one.ours.metric,
            "method": one.ours.group.name,
            "baseline": one.ours.baseline.name,
            "task": one.ours.group.task,
            "published_difference": one.theirs,
            "difference": e.mean,
            "low": e.low,
            "high": e.high,
            "n_seeds": e.seeds,
            "p_holm": one.ours.p_holm,
            "verdict": one.verdict,
        }
