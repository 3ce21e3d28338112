"""Costs as tables: one per section; in parentheses how many times the baseline's cost it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.records.groups import Group, Section
from analysis.statistics.costs import COSTS, Row, cost_rows
from analysis.statistics.study import Study
from analysis.tables.formats.markdown import GAP, heading, table
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value

MIXED = "mixed machines"
COLUMNS = ("protocol", "model", "variant", "task", "method", "cost", "mean", "relative", "n_seeds", "machine")
Found = Sequence[tuple[Section, Sequence[Row]]]


def compute(study: Study) -> tuple[Found, list[str]]:
    """The costs of every section."""
    return [(section, cost_rows(study, section)) for section in study.sections], []


def costs(study: Study, found: Found) -> str:
    """Markdown."""
    parts = []
    for section, rows in found:
        shown = [name for name in COSTS if any(name in row.costs for row in rows)]
        lines = [
            [row.group.task, row.group.name, *(_cell(row, name) for name in shown), _draws(row.group), _machine(row)]
            for row in rows
        ]
        header = ["task", "method", *(COSTS[name].title for name in shown), "draws", "machine"]
        parts.append(f"{heading(3, section.title)}\n{table(header, lines)}")
    return "\n".join(parts)


def _cell(row: Row, name: str) -> str:
    if name not in row.costs:
        return GAP
    text = f"{row.costs[name]:.{COSTS[name].digits}f}"
    return f"{text} (×{row.relative[name]:.2f})" if name in row.relative else text


def _machine(row: Row) -> str:
    return row.machines[0] if len(row.machines) == 1 else f"{MIXED}: {', '.join(row.machines)}"


def _draws(group: Group) -> str:
    return ", ".join(dict.fromkeys(str(record.facts.draws) for record in group.records))


def _rows(study: Study, found: Found) -> Iterator[dict[str, Value]]:
    """A row per task, method and cost that is known."""
    for section, rows in found:
        for row in rows:
            for name, value in row.costs.items():
                yield {
                    **section._asdict(),
                    "task": row.group.task,
                    "method": row.group.name,
                    "cost": name,
                    "mean": value,
                    "relative": row.relative.get(name),
                    "n_seeds": len(row.group.records),
                    "machine": row.machines[0],
                }


TEXT = (
    "Means over seeds, from the records; in parentheses how many times the cost of {baseline}. Costs of a "
    "posterior include those of all fits it was made from (a base, an ensemble's members): seconds and passes add "
    "up, memory is the largest peak. Mid-run evaluation is not counted. A pass is one example passed forward.\n"
)
TABLE = Table("Costs", TEXT, compute, costs, Csv("costs.csv", COLUMNS, _rows))
