"""Accuracy, ECE and NLL of every method, task by task, with standard errors."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.panels import Drawn, few_ticks, reference_looks, scaled, seeds_text
from analysis.figures.style import PAGE, blank_figure, entitle, legend_below, look, styled
from analysis.records.groups import Group, Section
from analysis.records.names import slug
from analysis.records.order import row_names
from analysis.statistics.study import Study
from bench.metrics import METRICS

SHOWN = ("accuracy", "ece", "nll")
TALLEST = 8.5  # inches of panels in one figure


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """A figure per protocol and model, at the first of its sections; more where it would be too tall.

    A row of panels per task, methods on y.
    """
    alike = [other for other in study.sections if other[:2] == section[:2]]
    groups = [group for other in alike for group in study.of(other)]
    trained = [group for group in groups if not group.reference]
    if section != alike[0] or not trained:
        return [], []
    variants = sorted({group.section.variant for group in trained}, key=lambda name: (name != study.main_variant, name))
    height = 0.16 * len(row_names(trained, study.baseline)) * (1 + 0.3 * (len(variants) - 1)) + 0.5
    tasks = sorted({group.task for group in groups})
    fit = max(1, int(TALLEST / height))  # tasks on a page
    title = f"Protocol {section.protocol}, model {section.model}"
    drawn = []
    for start in range(0, len(tasks), fit):
        page = (f"{start // fit + 1}",) if len(tasks) > fit else ()
        name = "-".join(("results", slug(*section[:2]), *page))
        drawn.append(_figure(study, groups, tasks[start : start + fit], variants, title, name, height))
    return drawn, []


def _figure(
    study: Study,
    groups: Sequence[Group],
    tasks: Sequence[str],
    variants: Sequence[str],
    title: str,
    name: str,
    height: float,
) -> Drawn:
    names = row_names([group for group in groups if not group.reference], study.baseline)
    titles, references = {group.name: group.title for group in groups}, reference_looks(study)
    step = 0.5 / max(1, len(variants))
    with styled():
        figure = blank_figure(PAGE, height * len(tasks) + 0.7)
        panels = figure.subplots(len(tasks), len(SHOWN), sharey=True, squeeze=False)
        for row, task in zip(panels, tasks, strict=True):
            here = [group for group in groups if group.task == task]
            for axes, metric in zip(row, [METRICS[name] for name in SHOWN], strict=True):
                shown = [group for group in here if group.having(metric.name)]
                for group in (group for group in shown if group.reference):
                    mean = scaled(group.values(metric.name), metric).mean
                    axes.axvline(mean, label=group.title, linewidth=1, **{**references[group.name], "marker": "none"})
                for number, variant in enumerate(variants):
                    trained = [group for group in shown if not group.reference and group.section.variant == variant]
                    points = [scaled(group.values(metric.name), metric) for group in trained]
                    shift = (number - (len(variants) - 1) / 2) * step
                    axes.errorbar(
                        [point.mean for point in points],
                        [names.index(group.name) + shift for group in trained],
                        xerr=[point.sem or 0.0 for point in points],
                        label=variant or "results",
                        capsize=2,
                        **{**look(number), "linestyle": "none"},
                    )
                few_ticks(axes, x=4)
                axes.set_title(f"{task}: {metric.heading}" if metric.name == SHOWN[0] else metric.heading)
        panels[0, 0].set_yticks(range(len(names)), [titles[name] for name in names])  # all panels share the axis
        panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
        entitle(figure, title)
        legend_below(figure)
    caption = (
        f"{title}. Mean over {seeds_text(groups)}; bars are ± one standard error, and say "
        "nothing of the examples (see the differences for that). Vertical lines: what needs no training."
    )
    return Drawn(name, caption, figure)
