"""Figure 1 of the paper: error and NLL against tau, the scale of the posterior's covariance at prediction."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.panels import (
    ACROSS,
    Drawn,
    few_ticks,
    level_lines,
    levels_text,
    line_with_band,
    looks,
    scaled,
    seeds_text,
    task_panels,
)
from analysis.figures.style import legend_below, styled
from analysis.records.groups import Group, Runs
from analysis.records.labels import distinguish
from analysis.statistics.curves import Curve, but_for_tau, curves, mean_rows
from analysis.statistics.metric import Metric, metric_of
from analysis.statistics.summary import Summary

ROWS = (Metric("error", "Error (%)", -1, 100, 1), metric_of("nll"))


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section with a curve for every method whose runs differ in the prediction option ``tau`` only."""
    found = curves([*runs.results, *runs.sweeps])
    drawn = []
    for section in runs.sections:
        here = [curve for curve in found if curve[0][1].section == section]
        if here:
            drawn.append(_figure(runs, runs.of(section), here, baseline, f"tau-{section.slug}", section.title))
    return drawn, [] if drawn else ["No tau curves: no method has runs with two values of the option tau."]


def _figure(runs: Runs, results: Sequence[Group], here: Sequence[Curve], baseline: str, name: str, title: str) -> Drawn:
    labels = distinguish([(c[0][1].spec.method, c[0][1].task, but_for_tau(c[0][1])) for c in here])
    tasks = sorted({curve[0][1].task for curve in here})
    style, far = looks(runs, baseline, labels), set[str]()
    with styled():
        figure, panels = task_panels(tasks, len(ROWS))
        for task, column in panels.items():
            for metric, axes in zip(ROWS, column, strict=True):
                for curve, label in zip(here, labels, strict=True):
                    if curve[0][1].task == task:
                        points = [_points(group, metric) for _, group in curve]
                        look = {**style[label], "markersize": 2}
                        line_with_band(axes, [tau for tau, _ in curve], points, label, look)
                        for (tau, group), point in zip(curve, points, strict=True):
                            shape = _mark(group, curve, results)
                            if shape:
                                axes.plot(
                                    [tau], [point.mean], shape, markersize=7, fillstyle="none", color=look["color"]
                                )
                level = [group for group in results if group.task == task]
                far |= level_lines(axes, level, lambda g, m=metric: _points(g, m), runs, baseline)  # type: ignore[misc]
                few_ticks(axes)
                if tasks.index(task) % ACROSS == 0:
                    axes.set_ylabel(metric.heading)
            column[-1].set_xlabel("τ")
        figure.align_ylabels()
        legend_below(figure)
    means = sorted({group.name for curve in here for group in mean_rows(curve, results)})
    squares = f"; squares are the rows {', '.join(means)}, which predict at the mean" if means else ""
    caption = (
        f"{title}. Error and NLL against τ, which scales the posterior's covariance at prediction: 0 is the mean, 1 "
        f"the posterior. Circles are the rows of the results{squares}. "
        f"Mean over {seeds_text([g for c in here for _, g in c])}; bands are ± one standard "
        f"error. {levels_text(far)}"
    )
    return Drawn(name, caption, figure)


def _mark(group: Group, curve: Curve, results: Sequence[Group]) -> str:
    """Matplotlib's shape for a point that is a row of the results: a circle, or a square for a row at the mean."""
    if group.spec.purpose == "result":
        return "o"
    return "s" if group is curve[0][1] and mean_rows(curve, results) else ""


def _points(group: Group, metric: Metric) -> Summary:
    values = [1 - value for value in group.values("accuracy")] if metric.name == "error" else group.values(metric.name)
    return scaled(values, metric)
