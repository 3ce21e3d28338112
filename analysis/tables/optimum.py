"""The excess NLL over the Bayes-optimal predictive as a table: methods down, tasks across, one part per section."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.records.order import row_names
from analysis.statistics.metric import metric_of
from analysis.statistics.optimum import Excess, excesses
from analysis.statistics.study import Study
from analysis.tables.formats.markdown import GAP, heading, table
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value
from bench.metrics import EXCESS_NLL

COLUMNS = ("protocol", "model", "variant", "task", "method", "excess", "low", "high", "n_seeds")


def optimum(study: Study, found: Sequence[Excess]) -> str:
    """Markdown."""
    parts = []
    for section in study.sections:
        here = [one for one in found if one.group.section == section]
        cells = {(one.group.name, one.group.task): _cell(one) for one in here}
        tasks = list(dict.fromkeys(one.group.task for one in here))
        names = row_names([one.group for one in here], study.baseline)
        if here:
            lines = [[name, *(cells.get((name, task), GAP) for task in tasks)] for name in names]
            parts.append(f"{heading(3, section.title)}\n{table(['method', *tasks], lines)}")
    return "\n".join(parts)


def _cell(one: Excess) -> str:
    show, e = metric_of(EXCESS_NLL.name).show, one.estimate
    return f"{show(e.mean)} [{show(e.low)}, {show(e.high)}]"


def _rows(study: Study, found: Sequence[Excess]) -> Iterator[dict[str, Value]]:
    """In nats."""
    for one in found:
        yield {
            **one.group.section._asdict(),
            "task": one.group.task,
            "method": one.group.name,
            "excess": one.estimate.mean,
            "low": one.estimate.low,
            "high": one.estimate.high,
            "n_seeds": one.estimate.seeds,
        }


TEXT = (
    "NLL less that of the Bayes-optimal predictive, in nats: mean over seeds [95 % interval over seeds and examples]. "
    "Both are scored at the same label of each example, so the chance of the labels cancels; an interval that leaves "
    "0 out is a distance from the optimum. Only where the true answer distribution is known.\n"
)
TABLE = Table("Distance to the optimum", TEXT, excesses, optimum, Csv("optimum.csv", COLUMNS, _rows), always=False)
