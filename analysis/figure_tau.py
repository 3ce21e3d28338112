"""Figure 1 of the paper: error and NLL against tau, the scale of the posterior's covariance at prediction."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures import (
    ACROSS,
    Drawn,
    few_ticks,
    line_with_band,
    looks,
    reference_looks,
    scaled,
    seeds_text,
    task_panels,
)
from analysis.labels import distinguish, flatten
from analysis.load import Group, Runs
from analysis.metric import Metric, metric_of
from analysis.style import legend_below, styled

OPTION = "options.tau"
ROWS = (Metric("error", "Error (%)", -1, 100, 1), metric_of("nll"))

Curve = list[tuple[float, Group]]  # by tau


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section with a curve for every method whose runs differ in the prediction option ``tau`` only."""
    drawn = []
    for section in runs.sections:
        here = [curve for curve in curves([*runs.results, *runs.sweeps]) if curve[0][1].section == section]
        if here:
            drawn.append(_figure(runs, runs.of(section), here, baseline, f"tau-{section.slug}", section.title))
    return drawn, [] if drawn else ["No tau curves: no method has runs with two values of the option tau."]


def curves(groups: Sequence[Group]) -> list[Curve]:
    """Groups that are alike but for tau (and their purpose), where there are at least two values of it."""
    found: dict[tuple[tuple[str, str], ...], dict[float, Group]] = {}
    for group in groups:
        if "tau" in group.spec.options:
            rest = flatten(group.settings, ignore=(OPTION, "purpose"))
            points = found.setdefault(tuple(sorted(rest.items())), {})
            points.setdefault(float(str(group.spec.options["tau"])), group)
    return [sorted(points.items()) for points in found.values() if len(points) > 1]


def _figure(runs: Runs, results: Sequence[Group], here: Sequence[Curve], baseline: str, name: str, title: str) -> Drawn:
    entries = [
        (curve[0][1].spec.method, curve[0][1].task, flatten(curve[0][1].settings, ignore=(OPTION, "purpose")))
        for curve in here
    ]
    labels = distinguish(entries)
    tasks = sorted({curve[0][1].task for curve in here})
    style, references = looks(runs, baseline, labels), reference_looks(runs, baseline)
    with styled():
        figure, panels = task_panels(tasks, len(ROWS))
        for task, column in panels.items():
            level = [g for g in results if g.task == task and (g.reference or g.spec.method == baseline)]
            for metric, axes in zip(ROWS, column, strict=True):
                for curve, label in zip(here, labels, strict=True):
                    if curve[0][1].task == task:
                        look = style[label]
                        points = [scaled(_values(group, metric), metric) for _, group in curve]
                        line_with_band(axes, [tau for tau, _ in curve], points, label, look)
                        at_one = [point.mean for (tau, _), point in zip(curve, points, strict=True) if tau == 1]
                        axes.plot([1] * len(at_one), at_one, "o", markersize=8, fillstyle="none", color=look["color"])
                for group in level:
                    look = references.get(group.name) or {"color": style[group.name]["color"], "linestyle": "-."}
                    height = scaled(_values(group, metric), metric).mean
                    axes.axhline(height, label=group.name, linewidth=1, **look)
                few_ticks(axes)
                if tasks.index(task) % ACROSS == 0:
                    axes.set_ylabel(metric.heading)
            column[-1].set_xlabel("τ")
        figure.align_ylabels()
        legend_below(figure)
    caption = (
        f"{title}. Error and NLL against τ, which scales the posterior's covariance at prediction: 0 is the mean, 1 "
        f"(ringed) the posterior. Mean over {seeds_text([g for c in here for _, g in c])}; bands are ± one standard "
        "error. Horizontal lines: the baseline and what needs no training."
    )
    return Drawn(name, caption, figure)


def _values(group: Group, metric: Metric) -> list[float]:
    return [1 - value for value in group.values("accuracy")] if metric.name == "error" else group.values(metric.name)
