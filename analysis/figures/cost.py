"""Quality against cost: accuracy and NLL against all the seconds that a method takes, its bases' included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.figures.panels import (
    Drawn,
    few_ticks,
    level_lines,
    levels_text,
    looks,
    panel_figure,
    point_with_bars,
    scaled,
    seeds_text,
)
from analysis.records.groups import Group, Section
from analysis.records.order import row_names
from analysis.statistics.study import Study
from analysis.statistics.summary import Summary, summarize
from bench.metrics import METRICS, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = ("accuracy", "nll")

Placed = Mapping[tuple[str, str], tuple[Group, Summary]]  # (row, task) to the group and its seconds


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """The figure of a section; none where it would mix seconds of different machines."""
    found: dict[tuple[str, str], tuple[Group, Summary]] = {}
    notes, machines = [], set[str]()
    for group in (group for group in study.of(section) if not group.reference):
        seconds = seconds_of(study, group, machines)
        if seconds is None:
            notes.append(
                f"{group.name} on {group.task} is not in the cost figure for {section.title}: "
                "a fit that it was made from is not in the store."
            )
        else:
            found[group.name, group.task] = (group, seconds)
    if len(machines) > 1:
        notes.append(f"No cost figure for {section.title}: it mixes machines ({', '.join(sorted(machines))}).")
        return [], notes
    return [_figure(study, section, found, machines.pop())] if found else [], notes


def seconds_of(study: Study, group: Group, machines: set[str]) -> Summary | None:
    """Seconds of training, posterior and prediction, over seeds; None when a fit behind them is not known.

    The machines that they were measured on are added to ``machines``.
    """
    totals = []
    for record in group.records:
        chain = study.runs.fits.chain(record.spec.fit, record.facts)
        if chain is None:
            return None
        fitting = sum(facts.train_seconds + facts.posterior_seconds for facts in chain)
        totals.append(fitting + record.facts.predict_seconds)
        sources = [record.facts.provenance, *(fit.provenance for fit in chain if fit.provenance is not None)]
        machines |= {source.machine for source in sources}
    return summarize(totals)


def _figure(study: Study, section: Section, found: Placed, machine: str) -> Drawn:
    style, far = looks(study), set[str]()
    groups = [group for group, _ in found.values()]
    names = row_names(groups, study.baseline)

    def fill(axes: Axes, task: str, metric: Metric) -> None:
        for name in names:
            if (name, task) in found and found[name, task][0].having(metric.name):
                group, seconds = found[name, task]
                y = scaled(group.values(metric.name), metric)
                point_with_bars(axes, seconds, y, group.title, style[name])
        references = [g for g in study.of(section) if g.task == task and g.reference and g.having(metric.name)]
        far.update(level_lines(axes, study, references, lambda group: _level(group, metric)))
        few_ticks(axes, x=4)

    tasks: Sequence[str] = sorted({task for _, task in found})
    figure = panel_figure(section.title, tasks, [METRICS[name] for name in SHOWN], fill, "cost (s)")
    caption = (
        f"{section.title}, {machine}. Accuracy and NLL against seconds of training, posterior and prediction, those of "
        f"the fits that a method starts from included. Mean over {seeds_text(groups)}; bars are ± one standard error. "
        f"{levels_text(far, baseline=False)}"
    )
    return Drawn(f"cost-{section.slug}", caption, figure)


def _level(group: Group, metric: Metric) -> Summary:
    return scaled(group.values(metric.name), metric)
