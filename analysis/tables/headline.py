"""The one table that opens a report: methods by tasks for the main variant, and which differences are not chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from analysis.records.groups import Section
from analysis.records.order import row_names
from analysis.statistics.differences import Difference, compare
from analysis.statistics.study import Study
from analysis.tables.formats.markdown import GAP, Markup, bold, escape, heading, table
from analysis.tables.formats.marks import JUDGED_BY, MARKS, UNMARKED, Marks, marks
from analysis.tables.formats.table import Table
from analysis.tables.results import Block, blocks


@dataclasses.dataclass(frozen=True)
class Line:
    """A row: the metric's heading where it is the metric's first, the method's title, and a cell per column."""

    metric: str
    method: str
    cells: tuple[tuple[str, bool, str], ...]  # mean as text, whether it is best, its mark


@dataclasses.dataclass(frozen=True)
class Headline:
    """The table of one section of the main variant."""

    section: Section
    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def headline(study: Study, found: Sequence[Difference]) -> list[Headline]:
    """The opening tables: one per protocol and model that the main variant has results of."""
    shown = marks(found)
    tables = []
    for section in study.sections:
        inner = [block for block in blocks(study.of(section), study.baseline) if block.metric.name in JUDGED_BY]
        if section.variant == study.main_variant and inner:
            columns = max((block.columns for block in inner), key=len)
            titles = {group.name: group.title for group in study.of(section)}
            order = row_names(study.of(section), study.baseline)
            lines = [
                _line(block, name, columns, section, titles, shown, first=place == 0)
                for block in inner
                for place, name in enumerate(name for name in order if name in block.rows)
            ]
            tables.append(Headline(section, columns, tuple(lines)))
    return tables


def _line(
    block: Block,
    name: str,
    columns: Sequence[str],
    section: Section,
    titles: Mapping[str, str],
    shown: Marks,
    first: bool,
) -> Line:
    cells = []
    for column in columns:
        cell = block.cells.get((name, column))
        text = GAP if cell is None else block.metric.show(cell.mean)
        cells.append((text, block.best(name, column), shown.get((section, name, column, block.metric.name), "")))
    return Line(block.metric.heading if first else "", titles[name], tuple(cells))


def markdown(study: Study, found: Sequence[Headline]) -> str:
    """The opening tables as Markdown."""
    parts = []
    for part in found:
        rows = [[line.metric, line.method, *(_cell(*cell) for cell in line.cells)] for line in part.lines]
        parts.append(f"{heading(3, part.section.title)}\n{table(['metric', 'method', *part.columns], rows)}")
    return "\n".join(parts)


def _cell(shown: str, best: bool, mark: str) -> Markup:
    text = bold(shown) if best else escape(shown)
    return Markup(f"{text} {mark}" if mark else text)


def _compute(study: Study) -> tuple[list[Headline], list[str]]:
    return headline(study, study.once(compare)[0]), []


TEXT = (
    "Means over seeds. **Bold** is the best mean of a trained method without a disqualifying flag. "
    f"{MARKS['better']} better and {MARKS['worse']} worse than {{baseline}}: p at most 0.05, Holm-corrected over "
    f"methods and tasks; {UNMARKED}. Standard errors, missing seeds, other variants and flags are below.\n"
)
TABLE = Table("Methods by tasks", TEXT, _compute, markdown)
