"""Accuracy and NLL against the number of draws: the mixture over the first k of the S stored draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.panels import (
    Drawn,
    level_lines,
    levels_text,
    line_with_band,
    looks,
    panel_figure,
    scaled,
    seeds_text,
)
from analysis.records.groups import Group, Section
from analysis.statistics.measured import BY_DRAWS
from analysis.statistics.study import Study
from analysis.statistics.summary import Summary
from bench.metrics import METRICS, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """The figure of a section: a line for every method that predicts with several draws."""
    found = [group for group in study.of(section) if all(study.measured[r.key].by_draws for r in group.records)]
    if not found:
        return [], [f"No figure of draws for {section.title}: no method predicts with more than one draw."]
    style, far = looks(study), set[str]()

    def fill(axes: Axes, task: str, metric: Metric) -> None:
        from matplotlib.ticker import NullLocator

        here = [group for group in found if group.task == task]
        for group in here:
            counts = counts_of(study, group)
            points = [scaled(_values(study, group, metric, count), metric) for count in counts]
            marked = [place for place, count in enumerate(counts) if count & (count - 1) == 0]  # powers of two
            look = {**style.get(group.name, {"color": "black"}), "markevery": marked}
            line_with_band(axes, counts, points, group.title, look)
        level = [g for g in study.of(section) if g.task == task and g.having(metric.name)]
        far.update(level_lines(axes, study, level, lambda group: _level(group, metric)))
        most = max(counts_of(study, group)[-1] for group in here)
        ticks = [2**power for power in range(most.bit_length())]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())

    tasks = sorted({group.task for group in found})
    figure = panel_figure(section.title, tasks, [METRICS[name] for name in BY_DRAWS], fill, "draws")
    caption = (
        f"{section.title}. Accuracy and NLL of the mixture over the first draws or members, against their number. Mean "
        f"over {seeds_text(found)}; bands are ± one standard error. {levels_text(far)}"
    )
    return [Drawn(f"draws-{section.slug}", caption, figure)], []


def counts_of(study: Study, group: Group) -> list[int]:
    """The numbers of draws that every run of a group has, ascending."""
    return sorted(set.intersection(*(set(study.measured[record.key].by_draws) for record in group.records)))


def _values(study: Study, group: Group, metric: Metric, count: int) -> list[float]:
    return [study.measured[record.key].by_draws[count][metric.name] for record in group.records]


def _level(group: Group, metric: Metric) -> Summary:
    return scaled(group.values(metric.name), metric)
