"""Figure 1 of the paper: error and NLL against tau, the scale of the posterior's covariance at prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis.figures.panels import (
    Drawn,
    few_ticks,
    level_lines,
    levels_text,
    line_with_band,
    looks,
    panel_figure,
    scaled,
    seeds_text,
)
from analysis.records.groups import Group, Section, titled
from analysis.records.labels import distinguish
from analysis.statistics.curves import Curve, all_curves, but_for_tau, mean_rows
from analysis.statistics.study import Study
from analysis.statistics.summary import Summary
from bench.metrics import METRICS, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = (Metric("error", "Error (%)", -1, 100, 1), METRICS["nll"])


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """The figure of a section: a curve for every method whose runs differ in the prediction option ``tau`` only."""
    here = [curve for curve in study.once(all_curves) if curve[0][1].section == section]
    here = [curve for curve in here if all(g.having("accuracy") and g.having("nll") for _, g in curve)]
    if not here:
        return [], [f"No tau curves for {section.title}: no method has runs with two values of the option tau."]
    return [_figure(study, here, section)], []


def _figure(study: Study, here: Sequence[Curve], section: Section) -> Drawn:
    results = study.of(section)
    labels = distinguish([(c[0][1].spec.method, c[0][1].task, but_for_tau(c[0][1])) for c in here])
    style, far = looks(study, labels), set[str]()
    at_mean = [mean_rows(curve, results) for curve in here]

    def fill(axes: Axes, task: str, metric: Metric) -> None:
        for curve, label, means in zip(here, labels, at_mean, strict=True):
            if curve[0][1].task != task:
                continue
            points = [_points(group, metric) for _, group in curve]
            look = {**style[label], "markersize": 2}
            shown = titled(label, curve[0][1].spec.method, study.runs.titles)
            line_with_band(axes, [tau for tau, _ in curve], points, shown, look)
            for place, ((tau, group), point) in enumerate(zip(curve, points, strict=True)):
                shape = "o" if group.spec.purpose == "result" else "s" if place == 0 and means else ""
                if shape:
                    axes.plot([tau], [point.mean], shape, markersize=7, fillstyle="none", color=look["color"])
        level = [group for group in results if group.task == task and group.having("accuracy") and group.having("nll")]
        far.update(level_lines(axes, study, level, lambda group: _points(group, metric)))
        few_ticks(axes)

    tasks = sorted({curve[0][1].task for curve in here})
    figure = panel_figure(section.title, tasks, ROWS, fill, "τ")
    squared = sorted({group.title for means in at_mean for group in means})
    squares = f"; squares are the rows {', '.join(squared)}, which predict at the mean" if squared else ""
    caption = (
        f"{section.title}. Error and NLL against τ, which scales the posterior's covariance at prediction: 0 is the "
        f"mean, 1 the posterior. Circles are the rows of the results{squares}. "
        f"Mean over {seeds_text([g for c in here for _, g in c])}; bands are ± one standard "
        f"error. {levels_text(far)}"
    )
    return Drawn(f"tau-{section.slug}", caption, figure)


def _points(group: Group, metric: Metric) -> Summary:
    values = [1 - value for value in group.values("accuracy")] if metric.name == "error" else group.values(metric.name)
    return scaled(values, metric)
