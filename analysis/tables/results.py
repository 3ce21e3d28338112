"""The results in the paper's layout: one block per metric, methods down, tasks across, then their average.

A cell is the mean over seeds, its standard error, and in parentheses the change against the baseline. The best
displayed mean of a column is bold; references (nothing trained) and rows with a disqualifying flag
(``analysis.records.origin``) are never best. A missing run is a gap. Runs scored on another task than they were trained
on have another table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from analysis.records.groups import Group, Section
from analysis.records.order import BASELINE, row_names
from analysis.records.published import AVERAGE, task_order
from analysis.statistics.differences import compare
from analysis.statistics.metric import metric_of, metric_order
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from analysis.tables.formats.markdown import GAP, Markup, bold, heading, table
from analysis.tables.formats.marks import MARKS, marks, unmarked
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value
from bench.metrics import Metric

COLUMNS = (
    "protocol", "model", "variant", "metric", "method", "task", "mean", "sem", "n_seeds", "change", "best", "flags",
)  # fmt: skip
Blocks = list[tuple[Section, list["Block"]]]


@dataclasses.dataclass(frozen=True)
class Cell:
    """A mean in the metric's own units; ``ranked`` says whether it may be best."""

    mean: float
    sem: float | None = None
    n: int | None = None  # of an average: the fewest of its tasks
    ranked: bool = True
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Block:
    """One metric: cells by (row, column). The average is a separate column, where no task is missing."""

    metric: Metric
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    baseline: str | None  # the row to which changes are taken

    def best(self, row: str, column: str) -> bool:
        """Whether a cell shows the best mean of its column; False without a choice or a known direction."""
        cell = self.cells.get((row, column))
        return cell is not None and cell.ranked and self._best.get(column) == self.metric.show(cell.mean)

    @cached_property
    def _best(self) -> Mapping[str, str]:
        found = {}
        for column in self.columns:
            means = [c.mean for row in self.rows if (c := self.cells.get((row, column))) is not None and c.ranked]
            if len(means) > 1 and self.metric.better:
                found[column] = self.metric.show(max(means, key=lambda mean: mean * self.metric.better))
        return found

    def change(self, row: str, column: str) -> float | None:
        """A cell's mean less the baseline's in its column."""
        cell, base = self.cells.get((row, column)), self.cells.get((self.baseline or "", column))
        return None if cell is None or base is None or row == self.baseline else cell.mean - base.mean

    def signed(self, row: str, column: str) -> str:
        """The change as text, with its sign; blank where there is none."""
        change = self.change(row, column)
        text = "" if change is None else self.metric.show(change)
        return text if not text or text.startswith("-") or float(text) == 0 else f"+{text}"

    def seeds(self, row: str, column: str) -> str:
        """``2 of 3 seeds`` where a cell has fewer seeds than another of its column; else blank."""
        counts = [cell.n for (_, place), cell in self.cells.items() if place == column and cell.n is not None]
        cell = self.cells.get((row, column))
        short = cell is not None and cell.n is not None and cell.n < max(counts)
        return f"{cell.n} of {max(counts)} seeds" if cell is not None and short else ""


def blocks(groups: Sequence[Group], baseline: str = BASELINE) -> list[Block]:
    """The blocks of one section, a block per metric; runs scored out of distribution are not in them."""
    inside = [group for group in groups if not group.away]
    names = {name for group in inside for record in group.records for name in record.metrics}
    return [_block(inside, metric_of(name), baseline) for name in sorted(names, key=metric_order)]


def _block(groups: Sequence[Group], metric: Metric, baseline: str) -> Block:
    there = {(group.name, group.task): group for group in groups if group.having(metric.name)}
    tasks = sorted({task for _, task in there}, key=task_order)
    rows = [name for name in row_names(groups, baseline) if any((name, task) in there for task in tasks)]
    bases = list(dict.fromkeys(group.name for group in there.values() if group.spec.method == baseline))
    cells = {place: _cell(group, metric) for place, group in there.items()}
    columns = tasks
    if len(tasks) > 1 and len(tasks) == len({group.task for group in groups}):
        columns = [*tasks, AVERAGE]
        cells.update({(row, AVERAGE): cell for row in rows if (cell := average([cells.get((row, t)) for t in tasks]))})
    return Block(metric, tuple(rows), tuple(columns), cells, bases[0] if len(bases) == 1 else None)


def _cell(group: Group, metric: Metric) -> Cell:
    summary, source = summarize(group.values(metric.name)), group.origin
    return Cell(summary.mean, summary.sem, summary.n, source.ranked and not group.reference, source.flags)


def average(cells: Sequence[Cell | None]) -> Cell | None:
    """Plain mean over tasks of the means over seeds, if none is missing. No spread: tasks are not a sample."""
    there = [cell for cell in cells if cell is not None]
    if len(there) < len(cells):
        return None
    flags = dict.fromkeys(flag for cell in there for flag in cell.flags)
    mean = summarize([cell.mean for cell in there]).mean
    fewest = min((cell.n for cell in there if cell.n is not None), default=None)
    return Cell(mean, n=fewest, ranked=all(cell.ranked for cell in there), flags=tuple(flags))


def sections(study: Study) -> Blocks:
    """The blocks of every section that has results in distribution."""
    found = [(section, blocks(study.of(section), study.baseline)) for section in study.sections]
    return [(section, inner) for section, inner in found if inner]


def compute(study: Study) -> tuple[Blocks, list[str]]:
    """The blocks of every section, and where they bear no marks."""
    return sections(study), unmarked(study.once(compare)[0])


def results(study: Study, found: Blocks) -> str:
    """Markdown: a part per protocol, model and variant."""
    parts, shown = [], marks(study.once(compare)[0])
    for section, inner in found:
        here = {place[1:]: mark for place, mark in shown.items() if place[0] == section}
        parts += [heading(3, section.title), *(markdown(block, here) for block in inner)]
    return "\n".join(parts)


def markdown(block: Block, shown: Mapping[tuple[str, str, str], str] | None = None) -> str:
    """A block as a Markdown table: mean ± standard error (change) and mark [missing seeds and flags].

    ``shown`` has the marks of significant differences by row, column and metric.
    """
    lines = [[row, *(_text(block, row, column, shown or {}) for column in block.columns)] for row in block.rows]
    return f"{bold(block.metric.heading)}\n\n{table(['method', *block.columns], lines)}"


def _text(block: Block, row: str, column: str, shown: Mapping[tuple[str, str, str], str]) -> str:
    cell = block.cells.get((row, column))
    if cell is None:
        return GAP
    mean = block.metric.show(cell.mean)
    text = bold(mean) if block.best(row, column) else mean
    text += "" if cell.sem is None else f" ± {block.metric.show(cell.sem)}"
    text += f" ({change})" if (change := block.signed(row, column)) else ""
    text += f" {mark}" if (mark := shown.get((row, column, block.metric.name))) else ""
    remarks = ", ".join(filter(None, [block.seeds(row, column), *cell.flags]))
    return Markup(f"{text} [{remarks}]" if remarks else text)


def _rows(study: Study, found: Blocks) -> Iterator[dict[str, Value]]:
    """In fractions and nats: a row for every method and task of a block, blank where it is missing."""
    for section, inner in found:
        for block in inner:
            for row in block.rows:
                for column in block.columns:
                    where = {**section._asdict(), "metric": block.metric.name, "method": row, "task": column}
                    yield {**where, **_numbers(block, row, column)}


def _numbers(block: Block, row: str, column: str) -> dict[str, Value]:
    cell = block.cells.get((row, column))
    if cell is None:
        return {"n_seeds": 0}
    return {
        "mean": cell.mean,
        "sem": cell.sem,
        "n_seeds": None if column == AVERAGE else cell.n,
        "change": block.change(row, column),
        "best": "yes" if block.best(row, column) else "",
        "flags": " ".join(cell.flags),
    }


TEXT = (
    "Mean ± standard error over seeds (change against {baseline}); `-` is a missing run. Bold is the best displayed "
    "mean of a trained method without a disqualifying flag, which says nothing of chance; "
    f"{MARKS['better']} better and {MARKS['worse']} worse than {{baseline}} do: p at most 0.05, Holm-corrected (see "
    "the differences). In brackets: missing seeds, and flags, which the warnings above explain.\n"
)
TABLE = Table("Results", TEXT, compute, results, Csv("table1.csv", COLUMNS, _rows))
