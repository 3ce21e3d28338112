"""Critical-difference diagrams: mean ranks over tasks; a bar joins methods that Nemenyi's test does not tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.figures.panels import Drawn
from analysis.figures.style import GREY, PAGE, blank_figure, entitle, styled
from analysis.records.groups import Section
from analysis.statistics.ranks import ALPHA, Ranking, rankings
from analysis.statistics.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 6  # methods of which two panels fit side by side
LINE, BAR, LETTER = 0.14, 0.09, 0.058  # inches per label, per bar and per letter of a label


def draw(study: Study, section: Section) -> tuple[list[Drawn], list[str]]:
    """A panel per metric, where there are two tasks and three methods to rank."""
    found, _ = study.once(rankings)
    here = [ranking for ranking in found if ranking.section == section and ranking.friedman is not None]
    if not here:
        return [], [f"No critical-difference diagram for {section.title}: it needs two tasks and three methods."]
    titles = {group.name: group.title for group in study.of(section)}
    return [_figure(here, section, titles)], []


def _figure(here: Sequence[Ranking], section: Section, titles: Mapping[str, str]) -> Drawn:
    across = 2 if max(len(ranking.methods) for ranking in here) <= FEW and len(here) > 1 else 1
    bands = -(-len(here) // across)
    rows = max(-(-len(ranking.methods) // 2) for ranking in here)
    bars = max(len(ranking.cliques) for ranking in here) * BAR / LINE  # in lines
    side = LETTER * (6 + max(len(titles[name]) for ranking in here for name in ranking.methods))
    share = side / (PAGE / across - 0.1)
    with styled():
        figure = blank_figure(PAGE, bands * (LINE * (rows + bars) + 0.55) + 0.2)
        panels = figure.subplots(bands, across, squeeze=False).ravel()
        for axes, ranking in zip(panels, here, strict=False):
            _panel(axes, ranking, titles, rows, bars, share)
        for axes in panels[len(here) :]:
            axes.set_axis_off()
        entitle(figure, section.title)
    tasks = here[0].tasks
    caption = (
        f"{section.title}. Mean ranks over {len(tasks)} tasks ({', '.join(tasks)}); 1 is best. A bar joins methods "
        f"whose mean ranks differ by less than the critical difference (CD, Nemenyi, α = {ALPHA}). p is that of "
        "Friedman's test. With few tasks both have little power."
    )
    return Drawn(f"ranks-{section.slug}", caption, figure)


def _panel(axes: Axes, ranking: Ranking, titles: Mapping[str, str], rows: int, bars: float, share: float) -> None:
    """The axis of ranks on top, then bars, then labels: the better half from the left, the other from the right.

    ``share`` of the width is kept free for labels on either side; heights are in lines.
    """
    means, last = ranking.means, len(ranking.methods)
    side = (last - 1) * share / (1 - 2 * share)  # in ranks
    axes.set_title(f"{ranking.metric.title}, p = {ranking.p:.2g}")
    axes.set_xlim(1 - side, last + side)
    axes.set_ylim(rows + bars + 0.4, -2.0)
    axes.set_axis_off()
    axes.plot([1, last], [0, 0], color="black", linewidth=0.8)
    for rank in range(1, last + 1):
        axes.plot([rank, rank], [0, -0.25], color="black", linewidth=0.8)
        if last <= 8 or rank % 2 == 1 or rank == last:
            axes.text(rank, -0.35, str(rank), ha="center", va="bottom", fontsize=6)
    for level, clique in enumerate(ranking.cliques):
        ends = [means[clique[0]], means[clique[-1]]]
        axes.plot([ends[0] - 0.05, ends[1] + 0.05], [0.5 + level * BAR / LINE] * 2, color="black", linewidth=1.8)
    names = list(means)
    half = -(-last // 2)
    margin = 0.1 * side
    for place, name in enumerate(names):
        left = place < half
        height = bars + 0.6 + (place if left else last - 1 - place)
        edge = 1 - margin if left else last + margin
        axes.plot([means[name], means[name], edge], [0, height, height], color=GREY, linewidth=0.7)
        text = f"{titles[name]}  {means[name]:.2f}" if left else f"{means[name]:.2f}  {titles[name]}"
        axes.text(edge - margin / 2 if left else edge + margin / 2, height, text, ha="right" if left else "left",
                  va="center", fontsize=6.5)  # fmt: skip
    if ranking.critical is not None and ranking.critical <= last - 1:
        axes.plot([1, 1 + ranking.critical], [-1.6] * 2, color=GREY, linewidth=1.2)
        axes.text(1 + ranking.critical + margin / 2, -1.6, f"CD {ranking.critical:.2f}", va="center", fontsize=6,
                  color=GREY)  # fmt: skip
    elif ranking.critical is not None:
        axes.text(1, -1.6, f"CD {ranking.critical:.2f}: more than all ranks", va="center", fontsize=6, color=GREY)
