"""Accuracy against ECE, task by task, and the Pareto front: the methods that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.panels import (
    ACROSS,
    Drawn,
    few_ticks,
    looks,
    near,
    point_with_bars,
    scaled,
    seeds_text,
    task_panels,
)
from analysis.figures.style import GREY, legend_below, styled
from analysis.records.groups import Group, Runs
from analysis.records.order import row_names
from analysis.statistics.metric import Metric, metric_of

X, Y = "accuracy", "ece"


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section in which at least two methods were trained."""
    drawn, notes = [], []
    for section in runs.sections:
        groups = [group for group in runs.of(section) if group.having(X) and group.having(Y)]
        if len({group.name for group in groups if not group.reference}) > 1:
            drawn.append(_figure(runs, groups, baseline, f"tradeoff-{section.slug}", section.title))
        else:
            notes.append(f"No trade-off figure for {section.title}: it needs two trained methods.")
    return drawn, notes


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


def _figure(runs: Runs, groups: Sequence[Group], baseline: str, name: str, title: str) -> Drawn:
    style, far = looks(runs, baseline), set[str]()
    x, y = metric_of(X), metric_of(Y)
    tasks = sorted({group.task for group in groups if not group.reference})
    with styled():
        figure, panels = task_panels(tasks, 1, height=2.2)
        for number, (task, (axes,)) in enumerate(panels.items()):
            here = {group.name: group for group in groups if group.task == task}
            names = row_names(list(here.values()), baseline)
            trained = [method for method in names if not here[method].reference]
            means = [(_mean(here[method], x), _mean(here[method], y)) for method in trained]
            front = [means[place] for place in pareto(means, (x.better, y.better))]
            axes.plot(*zip(*front, strict=True), color=GREY, linewidth=1, drawstyle="steps-pre", label="Pareto front")
            for method in (*trained, *(name for name in names if name not in trained)):
                at = scaled(here[method].values(X), x), scaled(here[method].values(Y), y)
                if here[method].reference:
                    limits = axes.dataLim
                    if not (near(at[0].mean, limits.x0, limits.x1) and near(at[1].mean, limits.y0, limits.y1)):
                        far.add(method)
                        continue
                look = {"color": GREY, "marker": "*", "markersize": 6} if here[method].reference else style[method]
                point_with_bars(axes, *at, method, look)
            few_ticks(axes)
            axes.set_xlabel(x.heading)
            if number % ACROSS == 0:
                axes.set_ylabel(y.heading)
        legend_below(figure)
    missing = f" Too far off to be shown in some panels: {', '.join(sorted(far))}." if far else ""
    caption = (
        f"{title}. ECE against accuracy; the lower right is better. The line is the Pareto front of the trained "
        f"methods' means; stars are what needs no training. Mean over {seeds_text(groups)}; bars are ± one standard "
        f"error.{missing}"
    )
    return Drawn(name, caption, figure)


def _mean(group: Group, metric: Metric) -> float:
    return scaled(group.values(metric.name), metric).mean
