"""Reliability diagrams: how often predictions are right, against how sure they are, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.figures.panels import Drawn, looks, seeds_text
from analysis.figures.style import GREY, PAGE, blank_figure, entitle, styled, wrapped
from analysis.records.groups import Group, Section
from analysis.records.names import slug
from analysis.records.order import row_names
from analysis.statistics.reliability import Reliability, pooled
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from bench.metrics import BINS, METRICS

ACROSS = 5  # panels side by side


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """A figure per task, with a panel for every method."""
    cells: dict[str, list[Group]] = {}
    for group in study.of(section):
        cells.setdefault(group.task, []).append(group)
    return [_figure(study, section, task, groups) for task, groups in sorted(cells.items())], []


def bins_of(study: Study, group: Group) -> Reliability:
    """The bins of all runs of a group together."""
    return pooled([study.measured[record.key].bins for record in group.records])


def _figure(study: Study, section: Section, task: str, groups: Sequence[Group]) -> Drawn:
    style, by_name = looks(study), {group.name: group for group in groups}
    found = [(by_name[name], bins_of(study, by_name[name])) for name in row_names(groups, study.baseline)]
    title = f"{section.title}, {task}"
    down = -(-len(found) // ACROSS)
    across = -(-len(found) // down)  # as even as it gets
    lowest = min(int((bins.counts > 0).argmax()) for _, bins in found) / BINS
    ece = METRICS["ece"]
    with styled():
        figure = blank_figure(PAGE * max(across, 2) / ACROSS, 1.5 * down + 0.45)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(found) :]:
            axes.remove()
        for axes, (group, bins) in zip(grid.flat, found, strict=False):
            look = style.get(group.name, {"color": GREY, "marker": "o"})
            edges = [number / BINS for number in range(BINS + 1)]
            axes.stairs(bins.counts / bins.counts.sum(), edges, fill=True, color="#CCCCCC", zorder=1)
            axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--", zorder=2)
            some = bins.counts > 0
            axes.plot(bins.confidence[some], bins.accuracy[some], zorder=3, **look)
            shown = ece.show(summarize(group.values(ece.name)).mean) if group.having(ece.name) else "-"
            axes.set_title(f"{wrapped(group.title, 20)}\nECE {shown}, n {bins.counts.sum()}", fontsize=7)
        for axes in grid.flat[len(found) - across : len(found)]:  # the lowest of each column
            axes.tick_params(labelbottom=True)
        grid[0, 0].set_xlim(lowest - 0.02, 1.02)
        grid[0, 0].set_ylim(0, 1.02)
        grid[0, 0].set_yticks([0, 0.5, 1])
        entitle(figure, title)
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
