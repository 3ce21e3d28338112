"""The results in the paper's layout: one block per metric, methods down, tasks across, then their average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.labels import BASELINE, row_names
from analysis.load import Group, Runs
from analysis.markdown import GAP, table
from analysis.metric import Metric, metric_of, metric_order
from analysis.summary import summarize


def results(runs: Runs, baseline: str = BASELINE) -> str:
    """Markdown: a section per protocol, model and variant; mean ± standard error over seeds; best in bold.

    A missing run is a gap; a cell with fewer seeds than its neighbours says so.
    """
    parts = []
    for section in runs.sections:
        groups = runs.of(section)
        parts.append(f"### {section.title}\n")
        names = {name for group in groups for record in group.records for name in record.metrics}
        parts += [block(groups, metric_of(name), baseline) for name in sorted(names, key=metric_order)]
    return "\n".join(parts)


def block(groups: Sequence[Group], metric: Metric, baseline: str = BASELINE) -> str:
    """One metric: rows are methods, columns are tasks. The average is over tasks, where none is missing."""
    cells = {(group.name, group.task): group for group in groups if group.having(metric.name)}
    tasks = sorted({task for _, task in cells})
    rows = [name for name in row_names(groups, baseline) if any((name, task) in cells for task in tasks)]
    columns = [{row: cells[row, task] for row in rows if (row, task) in cells} for task in tasks]
    shown = [_column(column, metric) for column in columns]
    if len(tasks) > 1:
        shown.append(_average(rows, columns, metric))
    header = ["method", *tasks, *(["average"] if len(tasks) > 1 else [])]
    lines = [[row, *(column.get(row, GAP) for column in shown)] for row in rows]
    return f"**{metric.heading}**\n\n{table(header, lines)}"


def _column(column: Mapping[str, Group], metric: Metric) -> dict[str, str]:
    summaries = {row: summarize(group.values(metric.name)) for row, group in column.items()}
    best = _best({row: summaries[row].mean for row, group in column.items() if not group.reference}, metric)
    most = max(summary.n for summary in summaries.values())
    shown = {}
    for row, summary in summaries.items():
        mean = metric.show(summary.mean)
        spread = "" if summary.sem is None else f" ± {metric.show(summary.sem)}"
        missing = "" if summary.n == most else f" ({summary.n} of {most} seeds)"
        shown[row] = (f"**{mean}**" if row in best else mean) + spread + missing
    return shown


def _average(rows: Sequence[str], columns: Sequence[Mapping[str, Group]], metric: Metric) -> dict[str, str]:
    """Plain mean over tasks of the means over seeds. No spread: tasks are not a sample."""
    whole = [row for row in rows if all(row in column for column in columns)]
    means = {
        row: summarize([summarize(column[row].values(metric.name)).mean for column in columns]).mean for row in whole
    }
    trained = {row: mean for row, mean in means.items() if not any(column[row].reference for column in columns)}
    best = _best(trained, metric)
    return {row: f"**{metric.show(mean)}**" if row in best else metric.show(mean) for row, mean in means.items()}


def _best(means: Mapping[str, float], metric: Metric) -> set[str]:
    """The rows whose displayed mean is the best; none where there is no choice or no known direction."""
    if metric.better == 0 or len(means) < 2:
        return set()
    best = metric.show(max(means.values(), key=lambda mean: mean * metric.better))
    return {row for row, mean in means.items() if metric.show(mean) == best}
