"""Accuracy against ECE, task by task, and the Pareto front: the methods that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.figures.panels import (
    Drawn,
    few_ticks,
    looks,
    near,
    panel_figure,
    point_with_bars,
    reference_looks,
    scaled,
    seeds_text,
)
from analysis.figures.style import GREY
from analysis.records.groups import Group, Section
from analysis.records.order import row_names
from analysis.statistics.study import Study
from bench.metrics import METRICS, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X, Y = METRICS["accuracy"], METRICS["ece"]


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """The figure of a section in which at least two methods were trained."""
    groups = [group for group in study.of(section) if group.having(X.name) and group.having(Y.name)]
    if len({group.name for group in groups if not group.reference}) < 2:
        return [], [f"No trade-off figure for {section.title}: it needs two trained methods."]
    return [_figure(study, groups, section)], []


def pareto(points: Sequence[tuple[float, float]], better: tuple[int, int]) -> list[int]:
    """The places of the points that no other point equals or beats in both and beats in one, by their first value.

    ``better`` is 1 where higher is better, -1 where lower is.
    """
    signed = [(x * better[0], y * better[1]) for x, y in points]
    front = [
        place
        for place, (x, y) in enumerate(signed)
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in signed)
    ]
    return sorted(front, key=lambda place: points[place])


def _figure(study: Study, groups: Sequence[Group], section: Section) -> Drawn:
    style, stars, far = looks(study), reference_looks(study), set[str]()

    def fill(axes: Axes, task: str, metric: Metric) -> None:
        here = {group.name: group for group in groups if group.task == task}
        names = row_names(list(here.values()), study.baseline)
        trained = [name for name in names if not here[name].reference]
        means = [(_mean(here[name], X), _mean(here[name], Y)) for name in trained]
        front = [means[place] for place in pareto(means, (X.better, Y.better))]
        axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1, drawstyle="steps-pre", label="Pareto front")
        for name in (*trained, *(name for name in names if name not in trained)):
            group = here[name]
            at = scaled(group.values(X.name), X), scaled(group.values(Y.name), Y)
            if group.reference:
                limits = axes.dataLim
                if not (near(at[0].mean, limits.x0, limits.x1) and near(at[1].mean, limits.y0, limits.y1)):
                    far.add(group.title)
                    continue
            look = {**stars[name], "markersize": 6} if group.reference else style[name]
            point_with_bars(axes, *at, group.title, look)
        few_ticks(axes)
        axes.set_xlabel(X.heading)

    tasks = sorted({group.task for group in groups if not group.reference})
    figure = panel_figure(section.title, tasks, [Y], fill, X.heading, height=2.2)
    missing = f" Too far off to be shown in some panels: {', '.join(sorted(far))}." if far else ""
    caption = (
        f"{section.title}. ECE against accuracy; the lower right is better. The line is the Pareto front of the "
        f"trained methods' means; grey marks are what needs no training. Mean over {seeds_text(groups)}; bars are "
        f"± one standard error.{missing}"
    )
    return Drawn(f"tradeoff-{section.slug}", caption, figure)


def _mean(group: Group, metric: Metric) -> float:
    return scaled(group.values(metric.name), metric).mean
