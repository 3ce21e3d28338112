"""Accuracy, ECE and NLL of every method, task by task, with standard errors."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.panels import Drawn, few_ticks, reference_looks, scaled, seeds_text
from analysis.figures.style import PAGE, blank_figure, legend_below, look, styled
from analysis.records.groups import Group, Runs, slug
from analysis.records.order import row_names
from analysis.statistics.metric import metric_of

METRICS = ("accuracy", "ece", "nll")
TALLEST = 8.5  # inches of panels in one figure


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per protocol and model, or more where it would be too tall: a row of panels per task, methods on y."""
    drawn = []
    for protocol, model in sorted({section[:2] for section in runs.sections}):
        groups = [group for group in runs.results if group.section[:2] == (protocol, model)]
        trained = [group for group in groups if not group.reference]
        variants = sorted({group.section.variant for group in trained})
        height = 0.16 * len(row_names(trained, baseline)) * (1 + 0.3 * (len(variants) - 1)) + 0.5
        tasks = sorted({group.task for group in groups})
        fit = max(1, int(TALLEST / height))  # tasks on a page
        for start in range(0, len(tasks) if trained else 0, fit):
            name = f"results-{slug(protocol, model)}" + (f"-{start // fit + 1}" if len(tasks) > fit else "")
            here = tasks[start : start + fit]
            drawn.append(
                _figure(runs, groups, here, variants, baseline, f"Protocol {protocol}, model {model}", name, height)
            )
    return drawn, []


def _figure(
    runs: Runs,
    groups: Sequence[Group],
    tasks: Sequence[str],
    variants: Sequence[str],
    baseline: str,
    title: str,
    name: str,
    height: float,
) -> Drawn:
    names = row_names([group for group in groups if not group.reference], baseline)
    references = reference_looks(runs, baseline)
    step = 0.5 / max(1, len(variants))
    with styled():
        figure = blank_figure(PAGE, height * len(tasks) + 0.5)
        panels = figure.subplots(len(tasks), len(METRICS), sharey=True, squeeze=False)
        for row, task in zip(panels, tasks, strict=True):
            for axes, metric in zip(row, map(metric_of, METRICS), strict=True):
                for group in (g for g in groups if g.task == task and g.having(metric.name)):
                    summary = scaled(group.values(metric.name), metric)
                    if group.reference:
                        axes.axvline(summary.mean, label=group.name, linewidth=1, **references[group.name])
                        continue
                    number = variants.index(group.section.variant)
                    place = names.index(group.name) + (number - (len(variants) - 1) / 2) * step
                    axes.errorbar(
                        [summary.mean],
                        [place],
                        xerr=None if summary.sem is None else [summary.sem],
                        label=group.section.variant or "results",
                        capsize=2,
                        **{**look(number), "linestyle": "none"},
                    )
                few_ticks(axes, x=4)
                axes.set_title(f"{task}: {metric.heading}" if metric.name == METRICS[0] else metric.heading)
        panels[0, 0].set_yticks(range(len(names)), names)  # all panels share the axis
        panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
        legend_below(figure)
    caption = (
        f"{title}. Mean over {seeds_text(groups)}; bars are ± one standard error, and say "
        "nothing of the examples (see the differences for that). Vertical lines: what needs no training."
    )
    return Drawn(name, caption, figure)
