"""Accuracy and NLL against the number of draws: the mixture over the first k of the S stored draws."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis.figures.panels import (
    ACROSS,
    Drawn,
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
from analysis.records.predictions import read_predictions
from analysis.statistics.metric import metric_of
from bench.metrics import METRICS as SCORES
from bench.metrics import mixture
from bench.store.records import DamagedRecord

METRICS = ("accuracy", "nll")

ByDraws = list[list[dict[str, float]]]  # a run's metrics with its first 1, 2, ... draws, for each run


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section: a line for every method that predicts with several draws."""
    drawn, notes = [], []
    for section in runs.sections:
        found: list[tuple[Group, ByDraws]] = []
        for group in runs.of(section):
            if all(record.facts["draws"] > 1 for record in group.records):
                try:
                    found.append((group, by_draws(group)))
                except DamagedRecord as error:
                    print(f"left out of the figure of draws: {error}", file=sys.stderr)
                    notes.append(f"Left out of the figure of draws: {error}")
        if found:
            drawn.append(_figure(runs, runs.of(section), found, baseline, f"draws-{section.slug}", section.title))
        else:
            notes.append(f"No figure of draws for {section.title}: no method predicts with more than one draw.")
    return drawn, notes


def by_draws(group: Group) -> ByDraws:
    """The metrics of every run with its first 1, 2, ... draws, recomputed from the stored predictions.

    Raises:
        DamagedRecord: predictions are missing or damaged.
    """
    found: ByDraws = []
    for given in map(read_predictions, group.records):
        assert given.draws is not None  # what is read from a file has them
        mixed = [mixture(given.draws[:count]) for count in range(1, len(given.draws) + 1)]
        found.append([{name: SCORES[name](log_probs, given.labels) for name in METRICS} for log_probs in mixed])
    return found


def _figure(
    runs: Runs, results: Sequence[Group], found: Sequence[tuple[Group, ByDraws]], baseline: str, name: str, title: str
) -> Drawn:
    from matplotlib.ticker import NullLocator

    tasks = sorted({group.task for group, _ in found})
    style, far = looks(runs, baseline), set[str]()
    with styled():
        figure, panels = task_panels(tasks, len(METRICS))
        for number, (task, column) in enumerate(panels.items()):
            here = [(group, scores) for group, scores in found if group.task == task]
            most = max(len(run) for _, scores in here for run in scores)
            ticks = [2**power for power in range(most.bit_length())]
            for metric, axes in zip(map(metric_of, METRICS), column, strict=True):
                for group, scores in here:
                    counts = range(1, min(map(len, scores)) + 1)
                    points = [scaled([run[count - 1][metric.name] for run in scores], metric) for count in counts]
                    marked = [count - 1 for count in ticks if count <= len(counts)]
                    line_with_band(axes, list(counts), points, group.name, {**style[group.name], "markevery": marked})
                level = [group for group in results if group.task == task]
                far |= level_lines(axes, level, lambda g, m=metric: scaled(g.values(m.name), m), runs, baseline)  # type: ignore[misc]
                axes.set_xscale("log", base=2)
                axes.set_xticks(ticks, [str(tick) for tick in ticks])
                axes.xaxis.set_minor_locator(NullLocator())
                if number % ACROSS == 0:
                    axes.set_ylabel(metric.heading)
            column[-1].set_xlabel("draws")
        figure.align_ylabels()
        legend_below(figure)
    caption = (
        f"{title}. Accuracy and NLL of the mixture over the first draws or members, against their number. Mean over "
        f"{seeds_text([group for group, _ in found])}; bands are ± one standard error. {levels_text(far)}"
    )
    return Drawn(name, caption, figure)
