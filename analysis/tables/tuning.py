"""The runs of ``bench tune`` that a store holds: every candidate, and how it did on held-out training data.

Records do not say which criterion a grid asked for, so each that it may have been is shown: its choice is the lowest
mean of one column, on the same tasks and seeds for all candidates of a method. ``<grid>.tune.csv`` says which. A
candidate that lacks one of these runs, because it diverged or was not trained yet, has no mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.records.groups import Group, Section
from analysis.records.order import row_names
from analysis.records.published import task_order
from analysis.statistics.metric import metric_of
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from analysis.tables.formats.markdown import GAP, bold, heading, table
from analysis.tables.formats.table import Table
from bench.metrics import Metric

CRITERIA = ("nll", "brier", "ece")  # lower is better; the tasks are shown by the first


def compute(study: Study) -> tuple[dict[Section, list[Group]], list[str]]:
    """The tuning runs by section."""
    found: dict[Section, list[Group]] = {}
    for group in sorted(study.runs.tunes, key=lambda group: group.section):
        found.setdefault(group.section, []).append(group)
    return found, []


def tuning(study: Study, groups_of: Mapping[Section, Sequence[Group]]) -> str:
    """Markdown: a table per section; rows are candidates, columns tasks and means over them; blank if there is none."""
    parts = []
    for section, groups in groups_of.items():
        tasks = sorted({group.task for group in groups}, key=task_order)
        cells = {(group.name, group.task): group for group in groups}
        means = {metric: _means(metric_of(metric), cells, tasks) for metric in CRITERIA}
        methods = {group.name: group.spec.method for group in groups}
        rows = []
        for name in row_names(groups, study.baseline):
            own = [other for other, method in methods.items() if method == methods[name]]
            by_task = [_task(cells.get((name, task))) for task in tasks]
            by_metric = [_mean(metric_of(metric), means[metric], name, own) for metric in CRITERIA]
            rows.append(
                [name, _seeds([cells[name, task] for task in tasks if (name, task) in cells]), *by_task, *by_metric]
            )
        first = metric_of(CRITERIA[0]).title
        header = ["candidate", "seeds", *(f"{first}, {task}" for task in tasks)]
        header += [f"mean {metric_of(metric).heading}" for metric in CRITERIA]
        parts.append(f"{heading(3, section.title)}\n{table(header, rows)}")
    return "\n".join(parts)


def _means(metric: Metric, cells: Mapping[tuple[str, str], Group], tasks: Sequence[str]) -> dict[str, float]:
    """The mean over tasks of the means over seeds, of the candidates that have every task and seed of their method."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for (_, task), group in cells.items():
        seeds.setdefault((group.spec.method, task), set()).update(group.seeds)
    scored: dict[str, int] = {}
    for (name, task), group in cells.items():
        having = {record.seed for record in group.having(metric.name)}
        scored[name] = scored.get(name, 0) + (having == seeds[group.spec.method, task])
    whole = [name for name, count in scored.items() if count == len(tasks)]
    return {n: summarize([summarize(cells[n, t].values(metric.name)).mean for t in tasks]).mean for n in whole}


def _mean(metric: Metric, means: Mapping[str, float], name: str, own: Sequence[str]) -> str:
    """A candidate's mean; bold where it is the lowest of its method's."""
    if name not in means:
        return GAP
    shown = metric.show(means[name])
    lowest = min(means[other] for other in own if other in means)
    return bold(shown) if len(own) > 1 and means[name] == lowest else shown


def _task(group: Group | None) -> str:
    metric = metric_of(CRITERIA[0])
    return (
        GAP
        if group is None or not group.having(metric.name)
        else metric.show(summarize(group.values(metric.name)).mean)
    )


def _seeds(groups: Sequence[Group]) -> str:
    counts = sorted({len(group.records) for group in groups})
    return " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))


TEXT = (
    "What `bench tune` tried: each candidate trained on the training split less a hold-out, and scored on that; means "
    "over seeds. **Bold** is the lowest mean of a method's candidates; the grid's criterion (NLL unless it says "
    "otherwise) decides. A candidate that lacks a task or seed of its method, as one that diverged does, has no mean. "
    "No reported split is in it.\n"
)
TABLE = Table("Tuning", TEXT, compute, tuning)
