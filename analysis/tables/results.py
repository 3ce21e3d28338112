"""The results in the paper's layout: one block per metric, methods down, tasks across, then their average.

A cell is the mean over seeds, its standard error, and in parentheses the change against the baseline. The best
displayed mean of a column is bold; references (nothing trained) and rows with a disqualifying flag
(``analysis.origin``) are never best. A missing run is a gap. Runs scored on another task than they were trained on are
in ``analysis.ood``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property

from analysis.records.groups import Group, Runs, Section
from analysis.records.order import BASELINE, row_names
from analysis.records.published import AVERAGE, task_order
from analysis.statistics.metric import Metric, metric_of, metric_order
from analysis.statistics.summary import summarize
from analysis.tables.files import csv_text, number
from analysis.tables.markdown import GAP, table

COLUMNS = (
    "protocol", "model", "variant", "metric", "method", "task", "mean", "sem", "n_seeds", "change", "best", "flags",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """A mean in the metric's own units; ``ranked`` says whether it may be best."""

    mean: float
    sem: float | None = None
    n: int | None = None
    ranked: bool = True
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Block:
    """One metric: cells by (row, column). The average is a column of its own, where no task is missing."""

    metric: Metric
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    baseline: str | None  # the row to which changes are taken

    def best(self, row: str, column: str) -> bool:
        """Whether a cell shows the best mean of its column; never where there is no choice or no known direction."""
        cell = self.cells.get((row, column))
        return cell is not None and cell.ranked and self._best.get(column) == self.metric.show(cell.mean)

    @cached_property
    def _best(self) -> Mapping[str, str]:
        found = {}
        for column in self.columns:
            means = [cell.mean for (_, place), cell in self.cells.items() if place == column and cell.ranked]
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
    inside = [group for group in groups if group.spec.fit.data.task == group.spec.data.task]
    names = {name for group in inside for record in group.records for name in record.metrics}
    return [_block(inside, metric_of(name), baseline) for name in sorted(names, key=metric_order)]


def _block(groups: Sequence[Group], metric: Metric, baseline: str) -> Block:
    there = {(group.name, group.task): group for group in groups if group.having(metric.name)}
    tasks = sorted({task for _, task in there}, key=task_order)
    rows = [name for name in row_names(groups, baseline) if any((name, task) in there for task in tasks)]
    bases = list(dict.fromkeys(group.name for group in there.values() if group.spec.method == baseline))
    cells = {place: _cell(group, metric) for place, group in there.items()}
    columns = tasks
    if len(tasks) > 1:
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
    return Cell(mean, ranked=all(cell.ranked for cell in there), flags=tuple(flags))


def sections(runs: Runs, baseline: str = BASELINE) -> list[tuple[Section, list[Block]]]:
    """The blocks of every section that has results in distribution."""
    found = [(section, blocks(runs.of(section), baseline)) for section in runs.sections]
    return [(section, inner) for section, inner in found if inner]


def results(runs: Runs, baseline: str = BASELINE) -> str:
    """Markdown: a part per protocol, model and variant."""
    parts = []
    for section, inner in sections(runs, baseline):
        parts += [f"### {section.title}\n", *map(markdown, inner)]
    return "\n".join(parts)


def markdown(block: Block) -> str:
    """A block as a Markdown table: mean ± standard error (change) [what is amiss]."""
    lines = [[row, *(_text(block, row, column) for column in block.columns)] for row in block.rows]
    return f"**{block.metric.heading}**\n\n{table(['method', *block.columns], lines)}"


def _text(block: Block, row: str, column: str) -> str:
    cell = block.cells.get((row, column))
    if cell is None:
        return GAP
    mean = block.metric.show(cell.mean)
    text = f"**{mean}**" if block.best(row, column) else mean
    text += "" if cell.sem is None else f" ± {block.metric.show(cell.sem)}"
    text += f" ({change})" if (change := block.signed(row, column)) else ""
    amiss = ", ".join(filter(None, [block.seeds(row, column), *cell.flags]))
    return f"{text} [{amiss}]" if amiss else text


def table1_csv(runs: Runs, baseline: str = BASELINE) -> str:
    """The same as CSV, in fractions and nats: a row for every method and task of a block, blank where it is missing."""
    rows: list[tuple[str, ...]] = []
    for section, inner in sections(runs, baseline):
        for block in inner:
            rows += [
                (*section, block.metric.name, row, column, *_numbers(block, row, column))
                for row in block.rows
                for column in block.columns
            ]
    return csv_text(COLUMNS, rows)


def _numbers(block: Block, row: str, column: str) -> tuple[str, ...]:
    cell = block.cells.get((row, column))
    if cell is None:
        return "", "", "0", "", "", ""
    return (
        number(cell.mean),
        number(cell.sem),
        "" if cell.n is None else str(cell.n),
        number(block.change(row, column)),
        "yes" if block.best(row, column) else "",
        " ".join(cell.flags),
    )
