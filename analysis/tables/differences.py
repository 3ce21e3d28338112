"""Differences to the baseline as a table: one per section and baseline; bold leaves 0 out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.records.groups import Section
from analysis.records.order import row_names
from analysis.statistics.differences import Difference, compare
from analysis.statistics.metric import metric_of
from analysis.statistics.study import Study
from analysis.tables.formats.markdown import GAP, Markup, bold, heading, table
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value

COLUMNS = (
    "protocol", "model", "variant", "task", "method", "baseline", "metric", "difference", "low", "high",
    "seeds_agreeing", "n_seeds", "covers", "p", "p_holm", "verdict",
)  # fmt: skip


def differences(study: Study, found: Sequence[Difference]) -> str:
    """Markdown; rows are tasks and methods, columns metrics."""
    by_table: dict[tuple[Section, str], list[Difference]] = {}
    for d in found:
        by_table.setdefault((d.group.section, d.baseline.name), []).append(d)
    parts = []
    for section, base in sorted(by_table, key=lambda place: (study.sections.index(place[0]), place[1])):
        here = {(d.group.task, d.group.name, d.metric): d for d in by_table[section, base]}
        metrics = list(dict.fromkeys(d.metric for d in by_table[section, base]))
        names = row_names([d.group for d in here.values()], study.baseline)
        present = {(task, name) for task, name, _ in here}
        rows = [
            [task, name, *(_cell(here.get((task, name, metric))) for metric in metrics)]
            for task in sorted({task for task, _ in present})
            for name in names
            if (task, name) in present
        ]
        header = ["task", f"method less {base}", *(metric_of(metric).heading for metric in metrics)]
        parts.append(f"{heading(3, f'{section.title}: differences to {base}')}\n{table(header, rows)}")
    judged = [d for d in found if d.judged]
    shown, alone = sum(d.shown for d in judged), sum(d.estimate.seeds < 2 for d in judged)
    fits = f" or are of one seed ({alone}), which tells of two fits, not of two methods" if alone else ""
    count = (
        f"{shown} of {len(judged)} comparisons show a difference; all others are not distinguishable from zero{fits}.\n"
    )
    return "\n".join([count, *parts]) if found else ""


def _cell(difference: Difference | None) -> str:
    if difference is None:
        return GAP
    metric, estimate = metric_of(difference.metric), difference.estimate
    mean, low, high = (signed(metric.show(value)) for value in (estimate.mean, estimate.low, estimate.high))
    clear = difference.verdict in ("better", "worse")
    text = f"{bold(mean)} [{low}, {high}] {difference.verdict}" if clear else f"{mean} [{low}, {high}]"
    only = "" if estimate.seeds > 1 else f" {difference.covers}"
    return Markup(f"{text} {estimate.agree}/{estimate.seeds}{only} p={difference.p_holm:.2g}")


def signed(text: str) -> str:
    """A number as text, with its sign; 0 has none."""
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"


def _rows(study: Study, found: Sequence[Difference]) -> Iterator[dict[str, Value]]:
    """In fractions and nats."""
    for d in found:
        e = d.estimate
        yield {
            **d.group.section._asdict(),
            "task": d.group.task,
            "method": d.group.name,
            "baseline": d.baseline.name,
            "metric": d.metric,
            "difference": e.mean,
            "low": e.low,
            "high": e.high,
            "seeds_agreeing": e.agree,
            "n_seeds": e.seeds,
            "covers": d.covers,
            "p": e.p,
            "p_holm": d.p_holm,
            "verdict": d.verdict,
        }


TEXT = (
    "Mean difference over seeds [95 % interval], and in how many seeds the sign is that of the mean. Intervals are "
    "for one comparison each, over seeds and examples: t with one degree of freedom less than seeds for what "
    "varies between seeds, and a paired bootstrap of examples (`analysis/statistics/bootstrap.py`); "
    "two seeds can hardly show a difference, three only a large one. *Examples only* marks a single seed: that "
    "interval compares two fits, not two methods. p is Holm-corrected over the methods and tasks of a metric, "
    "references apart. **Bold** with the word better or worse: p is at most 0.05.\n"
)
TABLE = Table("Differences", TEXT, compare, differences, Csv("differences.csv", COLUMNS, _rows))
