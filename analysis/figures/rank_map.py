"""The rank of every method on every task, by metric, as a heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from analysis.figures.panels import Drawn, seeds_text
from analysis.figures.style import PAGE, blank_figure, styled
from analysis.records.groups import Group, Runs
from analysis.records.order import row_names
from analysis.statistics.metric import Metric, metric_of
from analysis.statistics.summary import summarize

METRICS = ("accuracy", "ece", "nll")


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section in which at least two methods were trained."""
    drawn, notes = [], []
    for section in runs.sections:
        groups = [group for group in runs.of(section) if not group.reference]
        if len({group.name for group in groups}) > 1:
            drawn.append(_figure(groups, baseline, f"rank-map-{section.slug}", section.title))
        else:
            notes.append(f"No rank map for {section.title}: it needs two trained methods.")
    return drawn, notes


def ranks(groups: Sequence[Group], metric: Metric) -> dict[str, dict[str, float]]:
    """Task to method to rank: 1 is the best mean over seeds, ties share the mean of their ranks."""
    from scipy.stats import rankdata

    found: dict[str, dict[str, float]] = {}
    for task in sorted({group.task for group in groups}):
        here = {
            g.name: summarize(g.values(metric.name)).mean for g in groups if g.task == task and g.having(metric.name)
        }
        placed = rankdata([-metric.better * mean for mean in here.values()])
        found[task] = dict(zip(here, map(float, placed), strict=True))
    return found


def _figure(groups: Sequence[Group], baseline: str, name: str, title: str) -> Drawn:
    names = row_names(groups, baseline)
    tasks = sorted({group.task for group in groups})
    columns = [*tasks, "mean"] if len(tasks) > 1 else tasks
    letters = max(map(len, names))
    with styled():
        width = min(PAGE, 0.062 * letters + 0.3 + len(METRICS) * max(0.34 * len(columns), 1.1))
        figure = blank_figure(width, 0.19 * len(names) + 0.055 * max(map(len, columns)) + 0.5)
        panels = figure.subplots(1, len(METRICS), sharey=True)
        for axes, metric in zip(panels, map(metric_of, METRICS), strict=True):
            table = _table(names, columns, ranks(groups, metric))
            axes.imshow(table, cmap="cividis_r", vmin=1, vmax=max(2, len(names)), aspect="auto")
            axes.set_title(metric.heading)
            axes.set_xticks(range(len(columns)), columns, rotation=90)
            axes.set_yticks(range(len(names)), names)
            axes.grid(False)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            for row, line in enumerate(table):
                for column, rank in enumerate(line):
                    if not math.isnan(rank):
                        dark = rank > (len(names) + 1) / 2
                        text = f"{rank:.1f}" if columns[column] == "mean" or rank % 1 else f"{rank:.0f}"
                        color = "white" if dark else "black"
                        axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
            if len(tasks) > 1:
                axes.axvline(len(tasks) - 0.5, color="white", linewidth=2)
    caption = (
        f"{title}. Rank of each trained method's mean over {seeds_text(groups)}: 1 is the best; ties share a rank. "
        "Blank: a missing run. The mean over tasks is given where no task is missing. Ranks say nothing of the size of "
        "a difference, nor whether there is one."
    )
    return Drawn(name, caption, figure)


def _table(names: Sequence[str], columns: Sequence[str], found: Mapping[str, Mapping[str, float]]) -> list[list[float]]:
    """Rows of ranks in the order of ``names``; NaN where a run is missing."""
    rows = []
    for name in names:
        placed = [by_name.get(name, math.nan) for by_name in found.values()]
        mean = [sum(placed) / len(placed)] if len(columns) > len(placed) else []  # NaN where one is missing
        rows.append([*placed, *mean])
    return rows
