"""What the figures share: the kinds of figure, panels, references and bands. One file per kind: ``figure_*.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analysis.figures.style import COLUMN, DASHES, GREY, PAGE, blank_figure, colours
from analysis.records.groups import Group, Runs
from analysis.records.order import BASELINE, row_names
from analysis.statistics.metric import Metric
from analysis.statistics.summary import Summary, summarize

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3  # panels side by side


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure, the name of its file, and what it shows."""

    name: str
    caption: str
    figure: Figure


Draw = Callable[[Runs, str], tuple[list[Drawn], list[str]]]  # (runs, baseline) -> figures, notes on what was not drawn


def task_panels(tasks: Sequence[str], rows: int, height: float = 1.6) -> tuple[Figure, dict[str, list[Axes]]]:
    """A figure with ``rows`` panels above each other for every task, at most three tasks side by side."""
    across = min(len(tasks), ACROSS)
    bands = -(-len(tasks) // across)
    figure = blank_figure(COLUMN if across == 1 else PAGE, height * rows * bands + 0.5)
    grid = figure.add_gridspec(rows * bands, across)
    panels: dict[str, list[Axes]] = {}
    for number, task in enumerate(tasks):
        band, column = divmod(number, across)
        panels[task] = [figure.add_subplot(grid[band * rows + row, column]) for row in range(rows)]
        panels[task][0].set_title(task)
    return figure, panels


def looks(runs: Runs, baseline: str = BASELINE, also: Sequence[str] = ()) -> Mapping[str, Mapping[str, Any]]:
    """The colour and marker of every trained method, the same in all figures of a report, and of other labels."""
    names = row_names([group for group in runs.results if not group.reference], baseline)
    return colours(list(dict.fromkeys([*names, *also])))


def reference_looks(runs: Runs, baseline: str = BASELINE) -> Mapping[str, Mapping[str, Any]]:
    """The line of every reference."""
    names = row_names([group for group in runs.results if group.reference], baseline)
    return {name: {"color": GREY, "linestyle": DASHES[n % len(DASHES)]} for n, name in enumerate(names)}


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


def level_lines(
    axes: Axes, groups: Sequence[Group], values: Callable[[Group], Summary], runs: Runs, baseline: str = BASELINE
) -> set[str]:
    """Horizontal lines, after all else is drawn: the baseline, and what needs no training where it is not far off.

    Returns:
        The names of the references that lie too far off to be drawn without flattening the panel.
    """
    style, references, far = looks(runs, baseline), reference_looks(runs, baseline), set()
    levels = {group.name: values(group).mean for group in groups if group.reference or group.spec.method == baseline}
    inside = [axes.dataLim.y0, axes.dataLim.y1, *(level for name, level in levels.items() if name not in references)]
    low, high = min(inside), max(inside)
    for name, level in levels.items():
        if name not in references:
            axes.axhline(level, label=name, linewidth=1, zorder=1, color=style[name]["color"], linestyle=(0, (6, 2)))
        elif near(level, low, high):
            axes.axhline(level, label=name, linewidth=1, zorder=1, **references[name])
        else:
            far.add(name)
    return far


def near(value: float, low: float, high: float) -> bool:
    """Whether a value can be shown beside those from low to high without squeezing them."""
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
