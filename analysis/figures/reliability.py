"""Reliability diagrams: how often predictions are right, against how sure they are, and how many there are."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from analysis.figures.panels import Drawn, looks, seeds_text
from analysis.figures.style import GREY, PAGE, blank_figure, styled, wrapped
from analysis.records.groups import Group, Runs, slug
from analysis.records.order import row_names
from analysis.records.predictions import read_predictions
from analysis.statistics.metric import metric_of
from analysis.statistics.reliability import Reliability, reliability
from analysis.statistics.summary import summarize
from bench.metrics import BINS
from bench.store.records import DamagedRecord

ACROSS = 5  # panels side by side


def draw(runs: Runs, baseline: str) -> tuple[list[Drawn], list[str]]:
    """A figure per section and task, with a panel for every method."""
    drawn, notes = [], []
    for section in runs.sections:
        groups = runs.of(section)
        for task in sorted({group.task for group in groups}):
            here = {group.name: group for group in groups if group.task == task}
            found: list[tuple[Group, Reliability]] = []
            for name in row_names(list(here.values()), baseline):
                try:
                    found.append((here[name], reliability([read_predictions(r) for r in here[name].records])))
                except DamagedRecord as error:
                    print(f"left out of the reliability diagrams: {error}", file=sys.stderr)
                    notes.append(f"Left out of the reliability diagrams: {error}")
            if found:
                file = f"reliability-{section.slug}-{slug(task)}"
                drawn.append(_figure(runs, found, baseline, file, f"{section.title}, {task}"))
    return drawn, notes


def _figure(runs: Runs, found: Sequence[tuple[Group, Reliability]], baseline: str, name: str, title: str) -> Drawn:
    style = looks(runs, baseline)
    down = -(-len(found) // ACROSS)
    across = -(-len(found) // down)  # as even as it gets
    lowest = min(int((bins.counts > 0).argmax()) for _, bins in found) / BINS
    ece = metric_of("ece")
    with styled():
        figure = blank_figure(PAGE * max(across, 2) / ACROSS, 1.5 * down + 0.25)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(found) :]:
            axes.remove()
        for axes, (group, bins) in zip(grid.flat, found, strict=False):
            look = style.get(group.name, {"color": GREY, "marker": "o"})
            edges = [(number + 0.5) / BINS for number in range(BINS)]
            shares = bins.counts / bins.counts.sum()
            axes.bar(edges, shares, 0.9 / BINS, color="#CCCCCC", zorder=1)
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=2)
            some = bins.counts > 0
            axes.plot(bins.confidence[some], bins.accuracy[some], zorder=3, **look)
            shown = ece.show(summarize(group.values(ece.name)).mean) if group.having(ece.name) else "-"
            axes.set_title(f"{wrapped(group.name, 20)}\nECE {shown}, n {bins.counts.sum()}", fontsize=7)
        for axes in grid.flat[len(found) - across : len(found)]:  # the lowest of each column
            axes.tick_params(labelbottom=True)
        grid[0, 0].set_xlim(lowest - 0.02, 1.02)
        grid[0, 0].set_ylim(0, 1.02)
        grid[0, 0].set_yticks([0, 0.5, 1])
        figure.supxlabel("confidence", fontsize=8)
        figure.supylabel("accuracy", fontsize=8)
    caption = (
        f"{title}. Accuracy against mean confidence in {BINS} equal bins; on the dashed line a method is calibrated. "
        f"Grey bars: the share of the n predictions that falls into a bin. "
        f"{seeds_text([g for g, _ in found]).capitalize()} together; the ECE (× 100) is the mean over seeds, as in the "
        "tables."
    )
    return Drawn(name, caption, figure)
