"""One look for all figures: Okabe-Ito colours (safe for colour-blind readers), sizes for a printed page."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.8  # widths in inches
# Okabe and Ito 2008, in the order of use; for their yellow, too pale for a line, the olive of Tol 2021
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("--", ":", "-.")
GREY = "#555555"

SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.constrained_layout.h_pad": 0.05,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # what publishers ask for
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Matplotlib with this style."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line of the n-th method: seven colours, then hollow and dashed; all differ up to 49."""
    shift, colour = divmod(number, len(COLOURS))
    hollow = {"markerfacecolor": "white"} if shift % 2 else {}
    line = ("-", *DASHES)[shift % (1 + len(DASHES))]
    return {
        "color": COLOURS[colour], "marker": MARKERS[(number + shift) % len(MARKERS)], "linestyle": line, **hollow
    }  # fmt: skip


def colours(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A look for each name, in order."""
    return {name: look(number) for number, name in enumerate(names)}


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure, made without pyplot, so that nothing global is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend_below(figure: Figure) -> None:
    """One legend for all panels, under them, each label once, in as many columns as fit."""
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        letters = max(len(label) for label in entries)
        fit = max(1, int(figure.get_figwidth() / (0.062 * letters + 0.55)))
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=min(len(entries), fit))


def wrapped(text: str, letters: int) -> str:
    """A label on as many lines as it needs, broken at blanks and underscores where that is possible."""
    lines = textwrap.wrap(text.replace("_", "_ "), letters)
    return "\n".join(line.replace("_ ", "_") for line in lines) or text


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write PNG and PDF, without dates in them."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    with styled():
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")  # laid out once, for both files
        figure.savefig(png, metadata={"Software": None})
        figure.savefig(pdf, metadata={"CreationDate": None})
    return [png, pdf]
