"""Quality against cost: accuracy and NLL against all the seconds that a method takes, its bases' included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from analysis.figures.panels import (
    ACROSS,
    Drawn,
    few_ticks,
    level_lines,
    levels_text,
    looks,
    point_with_bars,
    scaled,
    seeds_text,
    task_panels,
)
from analysis.figures.style import legend_below, styled
from analysis.records.fits import chain_facts, machine
from analysis.records.groups import Group, Runs
from analysis.records.order import row_names
from analysis.statistics.metric import metric_of
from analysis.statistics.summary import Summary, summarize

METRICS = ("accuracy", "nll")


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section. Refuses to draw seconds of unlike machines beside each other."""
    drawn, notes = [], []
    for section in runs.sections:
        groups = runs.of(section)
        found, machines = {}, set[str]()
        for group in (group for group in groups if not group.reference):
            seconds = seconds_of(runs, group, machines)
            if seconds is None:
                notes.append(
                    f"{group.name} on {group.task} is not in the cost figure for {section.title}: "
                    "a fit that it was made from is not in the store."
                )
            else:
                found[group.name, group.task] = (group, seconds)
        if len(machines) > 1:
            notes.append(f"No cost figure for {section.title}: it mixes machines ({', '.join(sorted(machines))}).")
        elif found:
            title = f"{section.title}, {machines.pop()}"
            drawn.append(_figure(runs, groups, found, baseline, f"cost-{section.slug}", title))
    return drawn, notes


def seconds_of(runs: Runs, group: Group, machines: set[str]) -> Summary | None:
    """Seconds of training, posterior and prediction, over seeds; None when a fit behind them is not known.

    The machines that they were measured on are added to ``machines``.
    """
    totals = []
    for record in group.records:
        chain = chain_facts(runs.folder, record)
        if chain is None:
            return None
        fitting = sum(facts["seconds"]["train"] + facts["seconds"]["posterior"] for facts in chain)
        totals.append(fitting + record.facts["seconds"]["predict"])
        machines |= {machine(facts["provenance"]) for facts in (record.facts, *chain) if "provenance" in facts}
    return summarize(totals)


def _figure(
    runs: Runs,
    results: Sequence[Group],
    found: Mapping[tuple[str, str], tuple[Group, Summary]],
    baseline: str,
    name: str,
    title: str,
) -> Drawn:
    style, far = looks(runs, baseline), set[str]()
    tasks = sorted({task for _, task in found})
    names = row_names([group for group, _ in found.values()], baseline)
    with styled():
        figure, panels = task_panels(tasks, len(METRICS))
        for number, (task, column) in enumerate(panels.items()):
            for metric, axes in zip(map(metric_of, METRICS), column, strict=True):
                for method in names:
                    if (method, task) in found:
                        group, seconds = found[method, task]
                        point_with_bars(axes, seconds, scaled(group.values(metric.name), metric), method, style[method])
                references = [group for group in results if group.task == task and group.reference]
                far |= level_lines(axes, references, lambda g, m=metric: scaled(g.values(m.name), m), runs, baseline)  # type: ignore[misc]
                few_ticks(axes, x=4)
                if number % ACROSS == 0:
                    axes.set_ylabel(metric.heading)
            column[-1].set_xlabel("cost (s)")
        figure.align_ylabels()
        legend_below(figure)
    caption = (
        f"{title}. Accuracy and NLL against seconds of training, posterior and prediction, those of the fits that a "
        f"method starts from included. Mean over {seeds_text([group for group, _ in found.values()])}; bars are ± one "
        f"standard error. {levels_text(far, baseline=False)}"
    )
    return Drawn(name, caption, figure)
