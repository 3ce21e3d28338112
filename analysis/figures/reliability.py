"""Reliability diagrams: how often predictions are right, against how sure they are, and how many there are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.figures.panels import Drawn, looks, seeds_text
from analysis.figures.style import GREY, PAGE, blank_figure, entitle, styled, wrapped
from analysis.records.groups import Group, Section
from analysis.records.names import slug
from analysis.records.order import row_names
from analysis.statistics.reliability import Reliability, pooled
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from bench.metrics import BINS, METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS = 5  # panels side by side
HIGH = 1.02  # confidence and accuracy at the far edges of a panel
TICKS = (0.0, 0.5, 1.0)
MARK = 0.03  # length of a tick mark, as a part of the panel


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """A figure per task, with a panel for every method."""
    cells: dict[str, list[Group]] = {}
    for group in study.of(section):
        cells.setdefault(group.task, []).append(group)
    return [_figure(study, section, task, groups) for task, groups in sorted(cells.items())], []


def bins_of(study: Study, group: Group) -> Reliability:
    """The bins of all runs of a group together."""
    return pooled([study.measured[record.key].bins for record in group.records])


@dataclasses.dataclass(frozen=True)
class Panel:
    """The place of a panel on the page, in inches from its lower left corner.

    ``low`` is the confidence at the left edge; the right edge, and the accuracy at the top, are ``HIGH``.
    """

    left: float
    bottom: float
    width: float
    height: float
    low: float

    @property
    def ticks(self) -> list[float]:
        """The ticks on its horizontal axis."""
        return [tick for tick in TICKS if tick >= self.low]

    def at(self, confidence: ArrayLike, accuracy: ArrayLike) -> NDArray[np.float64]:
        """(n, 2): where points lie on the page."""
        across = (np.asarray(confidence) - self.low) / (HIGH - self.low)
        return np.stack([self.left + self.width * across, self.bottom + self.height * np.asarray(accuracy) / HIGH], -1)


def _panels(size: tuple[float, float], shape: tuple[int, int], top: float, above: float, low: float) -> list[Panel]:
    """The places of (down, across) panels on a page, row by row.

    ``top`` and ``above`` are the inches over the first row and between two.
    """
    (width, height), (down, across) = size, shape
    left, right, bottom, gap = 0.5, 0.12, 0.5, 0.2
    wide = (width - left - right - gap * (across - 1)) / across
    high = (height - top - bottom - above * (down - 1)) / down
    return [
        Panel(left + column * (wide + gap), height - top - high - row * (high + above), wide, high, low)
        for row in range(down)
        for column in range(across)
    ]


def _draw_bins(canvas: Axes, panels: Sequence[Panel], found: Sequence[Reliability]) -> None:
    """The bars, diagonals and frames of all panels."""
    from matplotlib.collections import LineCollection, PolyCollection

    grid, frames, diagonals, bars = [], [], [], []
    for panel, bins in zip(panels, found, strict=False):
        low, ticks = panel.low, panel.ticks
        grid += [panel.at([tick, tick], [0, HIGH]) for tick in ticks]
        grid += [panel.at([low, HIGH], [tick, tick]) for tick in TICKS[1:]]
        frames += [panel.at([low, low, HIGH], [HIGH, 0, 0])]
        frames += [panel.at([tick, tick], [0, -MARK]) for tick in ticks]
        frames += [panel.at([low, low - MARK * (HIGH - low)], [tick, tick]) for tick in TICKS]
        diagonals += [panel.at([max(low, 0), 1], [max(low, 0), 1])]
        for number, share in enumerate(bins.counts / bins.counts.sum()):
            edges = [number / BINS, number / BINS, (number + 1) / BINS, (number + 1) / BINS]
            bars += [panel.at(edges, [0, share, share, 0])] if share else []
    for lines in (
        LineCollection(grid, colors="#DDDDDD", linewidths=0.5, zorder=0),
        PolyCollection(bars, facecolors="#CCCCCC", edgecolors="none", zorder=1),
        LineCollection(diagonals, colors=GREY, linewidths=0.8, linestyles="--", zorder=2),
        LineCollection(frames, colors="black", linewidths=0.8, zorder=2),
    ):
        canvas.add_collection(lines, autolim=False)


def _label_ticks(canvas: Axes, panel: Panel, bottom: bool, left: bool) -> None:
    """The numbers at the tick marks of a panel, under it and to its left."""
    for tick, (x, y) in zip(panel.ticks, panel.at(panel.ticks, [-MARK] * len(panel.ticks)), strict=True):
        if bottom:
            canvas.text(x, y - 0.04, f"{tick:.1f}", fontsize=7, ha="center", va="top")
    for tick, (x, y) in zip(TICKS, panel.at([panel.low] * len(TICKS), TICKS), strict=True):
        if left:
            canvas.text(x - 0.09, y, f"{tick:.1f}", fontsize=7, ha="right", va="center")


def _figure(study: Study, section: Section, task: str, groups: Sequence[Group]) -> Drawn:
    """All panels are drawn on one canvas: as axes of their own they would take three times as long."""
    style, by_name = looks(study), {group.name: group for group in groups}
    found = [(by_name[name], bins_of(study, by_name[name])) for name in row_names(groups, study.baseline)]
    title = f"{section.title}, {task}"
    down = -(-len(found) // ACROSS)
    across = -(-len(found) // down)  # as even as it gets
    low = min(int((bins.counts > 0).argmax()) for _, bins in found) / BINS - 0.02
    ece = METRICS["ece"]
    texts = []
    for group, bins in found:
        shown = ece.show(summarize(group.values(ece.name)).mean) if group.having(ece.name) else "-"
        texts.append(f"{wrapped(group.title, 20)}\nECE {shown}, n {bins.counts.sum()}")
    with styled():
        figure = blank_figure(PAGE * max(across, 2) / ACROSS, 1.5 * down + 0.45)
        figure.set_layout_engine("none")
        width, height = figure.get_size_inches()
        canvas = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), xticks=[], yticks=[])
        canvas.set_axis_off()
        entitle(figure, title)
        over = 0.12 * (1 + max(text.count("\n") for text in texts))  # a panel's title
        heading = 0.02 * height + 0.14 * (1 + figure.get_suptitle().count("\n"))
        panels = _panels((width, height), (down, across), heading + over + 0.14, over + 0.22, low)
        _draw_bins(canvas, panels, [bins for _, bins in found])
        for number, (panel, text, (group, bins)) in enumerate(zip(panels, texts, found, strict=False)):
            some = bins.counts > 0
            points = panel.at(bins.confidence[some], bins.accuracy[some])
            canvas.plot(*points.T, zorder=3, **style.get(group.name, {"color": GREY, "marker": "o"}))
            middle, top = panel.left + panel.width / 2, panel.bottom + panel.height
            canvas.text(middle, top + 0.07, text, fontsize=7, ha="center", va="bottom")
            _label_ticks(canvas, panel, bottom=number + across >= len(found), left=number % across == 0)
        figure.supxlabel("confidence", fontsize=8)
        figure.supylabel("accuracy", fontsize=8)
    caption = (
        f"{title}. Accuracy against mean confidence in {BINS} equal bins; on the dashed line a method is calibrated. "
        f"Grey bars: the share of the n predictions that falls into a bin. "
        f"{seeds_text([g for g, _ in found]).capitalize()} pooled; the ECE (× 100) is the mean over seeds, as in the "
        "tables."
    )
    spec = groups[0].spec
    words = dict.fromkeys((spec.fit.data.task, spec.data.task))
    return Drawn(f"reliability-{section.slug}--{slug(*words)}", caption, figure)
