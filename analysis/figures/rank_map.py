"""The rank of every method on every task, by metric, as a heat map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from analysis.figures.panels import Drawn, seeds_text
from analysis.figures.style import PAGE, blank_figure, entitle, styled
from analysis.records.groups import Group, Section
from analysis.records.order import row_names
from analysis.statistics.ranks import displayed
from analysis.statistics.study import Study
from bench.metrics import METRICS, Metric

SHOWN = ("accuracy", "ece", "nll")


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """The figure of a section in which at least two methods were trained."""
    groups = [group for group in study.of(section) if not (group.away or group.reference) and group.origin.ranked]
    if len({group.name for group in groups}) < 2:
        return [], [f"No rank map for {section.title}: it needs two trained methods without a disqualifying flag."]
    return [_figure(study, groups, section)], []


def ranks(groups: Sequence[Group], metric: Metric) -> dict[str, dict[str, float]]:
    """Task to method to rank: 1 is the best mean over seeds as displayed, ties share the mean of their ranks."""
    from scipy.stats import rankdata

    found: dict[str, dict[str, float]] = {}
    for task in sorted({group.task for group in groups}):
        here = {g.name: displayed(g, metric) for g in groups if g.task == task and g.having(metric.name)}
        placed = rankdata([-metric.better * mean for mean in here.values()])
        found[task] = dict(zip(here, map(float, placed), strict=True))
    return found


def _figure(study: Study, groups: Sequence[Group], section: Section) -> Drawn:
    names = row_names(groups, study.baseline)
    titles = {group.name: group.title for group in groups}
    tasks = sorted({group.task for group in groups})
    columns = [*tasks, "mean"] if len(tasks) > 1 else tasks
    letters = max(map(len, titles.values()))
    with styled():
        width = min(PAGE, 0.062 * letters + 0.3 + len(SHOWN) * max(0.34 * len(columns), 1.1))
        figure = blank_figure(width, 0.19 * len(names) + 0.055 * max(map(len, columns)) + 0.7)
        panels = figure.subplots(1, len(SHOWN), sharey=True)
        for axes, metric in zip(panels, [METRICS[name] for name in SHOWN], strict=True):
            table = _table(names, columns, ranks(groups, metric))
            axes.imshow(table, cmap="cividis_r", vmin=1, vmax=max(2, len(names)), aspect="auto")
            axes.set_title(metric.heading)
            axes.set_xticks(range(len(columns)), columns, rotation=90)
            axes.set_yticks(range(len(names)), [titles[name] for name in names])
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
        entitle(figure, section.title)
    caption = (
        f"{section.title}. Rank of the mean of each trained method without a disqualifying flag over "
        f"{seeds_text(groups)}: 1 is the best; ties share a rank. "
        "Blank: a missing run. The mean over tasks is given where no task is missing. Ranks say nothing of the size of "
        "a difference, nor whether there is one."
    )
    return Drawn(f"rank-map-{section.slug}", caption, figure)


def _table(names: Sequence[str], columns: Sequence[str], found: Mapping[str, Mapping[str, float]]) -> list[list[float]]:
    """Rows of ranks in the order of ``names``; NaN where a run is missing."""
    rows = []
    for name in names:
        placed = [by_name.get(name, math.nan) for by_name in found.values()]
        mean = [sum(placed) / len(placed)] if len(columns) > len(placed) else []  # NaN where one is missing
        rows.append([*placed, *mean])
    return rows
