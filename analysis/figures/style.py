"""One look for all figures: Okabe-Ito colours (safe for colour-blind readers), sizes for a printed page."""

from __future__ import annotations

import colorsys
import contextlib
import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.8  # widths in inches
DOTS = 200  # per inch, of PNG files
SHADES = 128  # colours of a PNG file: a third of the space, and it looks the same
# Okabe and Ito 2008, in the order of use; for their yellow, too pale for a line, the olive of Tol 2021. Then
# colours that are neither grey nor too pale for a line, each as far as possible from all before it in CIELAB.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999933", "#0000FF", "#FF00E0", "#00CC00",
    "#47148F", "#FF005C", "#700A14", "#C285FF", "#EBA385", "#1F4700", "#AD0085", "#52295C", "#0052FF", "#FF0000",
    "#704700", "#148500", "#A3B899", "#007AF5",
)  # fmt: skip
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
    "pdf.fonttype": 42,  # TrueType, as publishers require
    "text.parse_math": False,  # a name may hold a dollar sign
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Matplotlib with this style."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def preload() -> None:
    """Import what drawing and saving need: processes that are forked afterwards share its memory."""
    for module in (
        "fontTools.subset",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_pdf",
        "matplotlib.collections",
        "PIL.Image",
    ):
        importlib.import_module(module)


def colour(number: int) -> str:
    """The n-th colour; no two numbers share one."""
    if number < len(COLOURS):
        return COLOURS[number]
    turn = (number * 0.618034) % 1  # the golden ratio keeps hues apart, however many there are
    red, green, blue = colorsys.hls_to_rgb(turn, 0.3 + 0.25 * (number % 3) / 2, 0.75)
    return f"#{round(255 * red):02X}{round(255 * green):02X}{round(255 * blue):02X}"


def look(number: int) -> dict[str, Any]:
    """Colour, marker and line of the n-th method. Each has its own colour; after every seven, lines and fill change."""
    shift = number // len(MARKERS)
    hollow = {"markerfacecolor": "white"} if shift % 2 else {}
    line = ("-", *DASHES)[shift % (1 + len(DASHES))]
    return {
        "color": colour(number), "marker": MARKERS[(number + shift) % len(MARKERS)], "linestyle": line, **hollow
    }  # fmt: skip


def blank_figure(width: float, height: float) -> Figure:
    """An empty figure, made without pyplot, so that nothing global is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def entitle(figure: Figure, title: str) -> None:
    """A title over the whole figure, on as many lines as its width asks for."""
    lines = textwrap.wrap(title, max(20, int(figure.get_figwidth() / 0.066)))
    figure.suptitle("\n".join(lines), fontsize=8)


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
    """Write PNG and PDF, without dates in them. The figure is laid out once, and drawn once for each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from PIL import Image

    stem.parent.mkdir(parents=True, exist_ok=True)
    png, pdf = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    with styled():
        if (layout := figure.get_layout_engine()) is not None:
            layout.execute(figure)
            figure.set_layout_engine("none")
        figure.set_dpi(DOTS)
        raster: Any = FigureCanvasAgg(figure)
        raster.draw()
        image = Image.fromarray(np.asarray(raster.buffer_rgba())).convert("RGB")
        image.quantize(SHADES).save(png, dpi=(DOTS, DOTS))
        vector: Any = FigureCanvasPdf(figure)
        vector.print_pdf(pdf, metadata={"CreationDate": None})
    return [png, pdf]
