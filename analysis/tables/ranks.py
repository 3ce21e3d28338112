"""Ranks as tables: one per section and metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from analysis.statistics.ranks import Ranking, rankings
from analysis.statistics.study import Study
from analysis.tables.formats.markdown import GAP, heading, table
from analysis.tables.formats.table import Csv, Table
from analysis.tables.formats.text import Value

COLUMNS = (
    "protocol", "model", "variant", "metric", "method", "task", "rank", "n_methods", "n_tasks", "friedman", "p",
    "critical_difference",
)  # fmt: skip


def ranks(study: Study, found: Sequence[Ranking]) -> str:
    """Markdown: methods down, best first; ranks by task, then their mean."""
    parts = []
    for ranking in found:
        places = {name: ranking.methods.index(name) for name in ranking.means}
        lines = [
            [name, *(f"{rank:g}" for rank in ranking.ranks[:, places[name]]), f"{mean:.2f}"]
            for name, mean in ranking.means.items()
        ]
        title = heading(3, f"{ranking.section.title}: {ranking.metric.title}")
        parts.append(f"{title}\n{table(['method', *ranking.tasks, 'mean rank'], lines)}\n{_tests(ranking)}\n")
    return "\n".join(parts)


def _tests(ranking: Ranking) -> str:
    if ranking.friedman is None or ranking.p is None:
        return f"Friedman's test: {GAP} (it needs three methods that are not all tied, and two tasks)."
    critical = GAP if ranking.critical is None else f"{ranking.critical:.2f}"
    return (
        f"Friedman's test: χ² = {ranking.friedman:.2f}, p = {ranking.p:.2g}. Critical difference (Nemenyi): {critical}."
    )


def _rows(study: Study, found: Sequence[Ranking]) -> Iterator[dict[str, Value]]:
    """The task ``mean`` holds the mean ranks."""
    for r in found:
        tests: dict[str, Value] = {
            "n_methods": len(r.methods),
            "n_tasks": len(r.tasks),
            "friedman": r.friedman,
            "p": r.p,
            "critical_difference": r.critical,
        }
        for place, name in enumerate(r.methods):
            by_task = {**dict(zip(r.tasks, r.ranks[:, place].tolist(), strict=True)), "mean": r.means[name]}
            where = {**r.section._asdict(), "metric": r.metric.name, "method": name}
            yield from ({**where, "task": task, "rank": rank, **tests} for task, rank in by_task.items())


TEXT = (
    "Ranks by displayed means over seeds; 1 is best, ties share their mean rank. Ranked are trained methods that have "
    "every task and no disqualifying flag.\n"
)
TABLE = Table("Ranks", TEXT, rankings, ranks, Csv("ranks.csv", COLUMNS, _rows))
