"""Common parts of the figures: panels by task, the look of every method, lines, bars and captions. A file per kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures.style import (
    COLUMN,
    DASHES,
    GREY,
    PAGE,
    blank_figure,
    entitle,
    legend_below,
    look,
    styled,
)
from analysis.records.groups import Group, Section
from analysis.records.order import row_names
from analysis.statistics.study import Study
from analysis.statistics.summary import Summary, summarize
from bench.metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3  # panels side by side
STARS = ("*", "p", "h", "8")  # markers of what needs no training, all in grey

Looks = Mapping[str, Mapping[str, Any]]  # name of a row to matplotlib's colour, marker and line


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure, the stem of its files, and what it shows."""

    name: str
    caption: str
    figure: Figure


Draw = Callable[[Study, Section], tuple[list[Drawn], list[str]]]  # figures, and notes on what was not drawn


def panel_figure(
    title: str,
    tasks: Sequence[str],
    rows: Sequence[Metric],
    fill: Callable[[Axes, str, Metric], None],
    x_label: str,
    height: float = 1.6,
) -> Figure:
    """A column of panels for every task, one panel per metric, at most three tasks side by side; one legend for all.

    Args:
        title: over the whole figure.
        tasks: the columns, which wrap onto further bands.
        rows: what the y axes of a column show.
        fill: draws one panel, given its axes, task and metric.
        x_label: of the lowest panel of each column.
        height: of a panel, in inches.
    """
    across = min(len(tasks), ACROSS)
    bands = -(-len(tasks) // across)
    with styled():
        figure = blank_figure(COLUMN if across == 1 else PAGE, height * len(rows) * bands + 0.7)
        grid = figure.add_gridspec(len(rows) * bands, across)
        for number, task in enumerate(tasks):
            band, column = divmod(number, across)
            panels = [figure.add_subplot(grid[band * len(rows) + row, column]) for row in range(len(rows))]
            panels[0].set_title(task)
            for metric, axes in zip(rows, panels, strict=True):
                fill(axes, task, metric)
                if column == 0:
                    axes.set_ylabel(metric.heading)
            panels[-1].set_xlabel(x_label)
        entitle(figure, title)
        figure.align_ylabels()
        legend_below(figure)
    return figure


def _trained(study: Study) -> Looks:
    names = row_names([group for group in study.runs.results if not group.reference], study.baseline)
    return {name: look(number) for number, name in enumerate(names)}


def _references(study: Study) -> Looks:
    names = row_names([group for group in study.runs.results if group.reference], study.baseline)
    return {
        name: {"color": GREY, "linestyle": DASHES[n % len(DASHES)], "marker": STARS[n % len(STARS)]}
        for n, name in enumerate(names)
    }


def looks(study: Study, also: Sequence[str] = ()) -> Looks:
    """The colour and marker of every trained method, the same in all figures of a report, and of other labels."""
    known = study.once(_trained)
    new = [label for label in dict.fromkeys(also) if label not in known]
    return {**known, **{label: look(len(known) + number) for number, label in enumerate(new)}}


def reference_looks(study: Study) -> Looks:
    """The line and marker of every reference."""
    return study.once(_references)


def scaled(values: Sequence[float], metric: Metric) -> Summary:
    """The summary of values in the units in which a metric is shown."""
    return summarize([value * metric.scale for value in values])


def line_with_band(
    axes: Axes, x: Sequence[float], points: Sequence[Summary], label: str, look: Mapping[str, Any]
) -> None:
    """Means joined by a line; a band of one standard error where there are several seeds."""
    means = [point.mean for point in points]
    axes.plot(x, means, label=label, **look)
    low = [point.mean - (point.sem or 0) for point in points]
    high = [point.mean + (point.sem or 0) for point in points]
    axes.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)


def point_with_bars(axes: Axes, x: Summary, y: Summary, label: str, look: Mapping[str, Any]) -> None:
    """One marker, with a bar of one standard error on either side where there are several seeds."""
    axes.errorbar([x.mean], [y.mean], y.sem, x.sem, elinewidth=0.6, label=label, **{**look, "linestyle": "none"})


def level_lines(axes: Axes, study: Study, groups: Sequence[Group], values: Callable[[Group], Summary]) -> set[str]:
    """Horizontal lines, after all else is drawn: the baseline, and what needs no training where it is not far off.

    Returns:
        The titles of the references that lie too far off to be drawn without flattening the panel.
    """
    style, references, far = looks(study), reference_looks(study), set()
    levels = [(g, values(g).mean) for g in groups if g.reference or g.spec.method == study.baseline]
    inside = [axes.dataLim.y0, axes.dataLim.y1, *(level for g, level in levels if not g.reference)]
    low, high = min(inside), max(inside)
    for group, level in levels:
        if not group.reference:
            color = style[group.name]["color"]
            axes.axhline(level, label=group.title, linewidth=1, zorder=1, color=color, linestyle=(0, (6, 2)))
        elif near(level, low, high):
            look = {**references[group.name], "marker": "none"}
            axes.axhline(level, label=group.title, linewidth=1, zorder=1, **look)
        else:
            far.add(group.title)
    return far


def near(value: float, low: float, high: float) -> bool:
    """Whether a value can share an axis with those from low to high without squeezing them."""
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


def levels_text(far: set[str], baseline: bool = True) -> str:
    """The caption's sentence on horizontal lines."""
    missing = f", where it is not too far off ({', '.join(sorted(far))} is, in some panels)" if far else ""
    return f"Horizontal lines: {'the baseline, and ' if baseline else ''}what needs no training{missing}."


def few_ticks(axes: Axes, x: int = 5, y: int = 5) -> None:
    """At most so many ticks, at round numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(x))
    axes.yaxis.set_major_locator(MaxNLocator(y))


def seeds_text(groups: Sequence[Group]) -> str:
    """``3 seeds``, or a range when groups differ."""
    counts = sorted({len(group.records) for group in groups})
    text = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{text} seed{'s' if counts[-1] > 1 else ''}"
