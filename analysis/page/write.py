"""``report.html``: the leaderboard, the tau slider and the figures in one file that opens offline.

Everything the page shows is computed here, numbers as the text that is shown; its script chooses, sorts and draws. What
comes from records is data to it: Jinja escapes it, the script sets text and never markup, and the page's own content
security policy runs no other script and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analysis.figures.gallery import Kind, Picture
from analysis.figures.panels import looks
from analysis.figures.style import GREY
from analysis.records.groups import Group, Runs
from analysis.records.labels import flatten
from analysis.records.order import BASELINE, row_order
from analysis.records.predictions import read_predictions
from analysis.statistics.curves import curves
from analysis.statistics.metric import metric_of, metric_order
from analysis.statistics.reliability import reliability
from analysis.statistics.summary import summarize
from analysis.tables.files import number, write_text
from analysis.tables.preamble import facts_and_warnings
from bench.metrics import BINS
from bench.store.records import DamagedRecord

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}


def write_page(runs: Runs, out: Path, kinds: Sequence[Kind], notes: Sequence[str], baseline: str = BASELINE) -> Path:
    """Write ``out/report.html``; the figures' PNG files are in ``out`` already."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    folder = files("analysis.page") / "template"
    scripts = [get_plotlyjs(), (folder / "page.js").read_text("utf-8")]
    environment = Environment(
        loader=PackageLoader("analysis.page", "template"), autoescape=True, undefined=StrictUndefined
    )
    facts, warnings = facts_and_warnings(runs)
    text = environment.get_template("page.html").render(
        style=Markup((folder / "page.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=[base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts],
        data=page_data(runs, out, baseline),
        facts=facts,
        warnings=warnings,
        notes=list(dict.fromkeys(notes)),
        figures=[
            {"heading": kind.heading, "images": [_image(picture, out) for picture in kind.pictures]}
            for kind in kinds
            if kind.pictures
        ],
    )
    return write_text(out / "report.html", text)


def _image(picture: Picture, out: Path) -> dict[str, str]:
    """The figure in 128 colours, which takes a third of the space and looks the same."""
    from PIL import Image

    stream = io.BytesIO()
    with Image.open(out / f"{picture.name}.png") as image:
        image.convert("RGB").quantize(128).save(stream, "png")
    width = round(100 * picture.width)  # CSS pixels: half of the file's
    encoded = base64.b64encode(stream.getvalue()).decode()
    return {
        "name": picture.name,
        "caption": picture.caption,
        "source": f"data:image/png;base64,{encoded}",
        "width": str(width),
    }


def page_data(runs: Runs, out: Path, baseline: str = BASELINE) -> dict[str, Any]:
    """What the page's script is given, as plain JSON data.

    ``rows`` are the results. A row that lies on a curve has the places of the curve's points; the others have one.
    """
    found = curves([*runs.results, *runs.sweeps])
    on_curve = {group.settings: curve for curve in found for _, group in curve}
    ordered = sorted(runs.results, key=lambda g: (g.section, g.task, *row_order(g, baseline)))
    groups: dict[str, Group] = {}
    for group in ordered:
        groups[group.settings] = group
        groups.update({point.settings: point for _, point in on_curve.get(group.settings, [])})
    place = {settings: number for number, settings in enumerate(groups)}
    style = looks(runs, baseline)
    names = {name for group in groups.values() for record in group.records for name in record.metrics}
    metrics = [metric_of(name) for name in sorted(names, key=metric_order)]
    return {
        "metrics": [{"name": m.name, "heading": m.heading, "better": m.better} for m in metrics],
        "rows": [
            {
                "method": group.name,
                "task": group.task,
                "protocol": group.section.protocol,
                "model": group.section.model,
                "variant": group.section.variant,
                "reference": group.reference,
                "colour": style[group.name]["color"] if group.name in style else GREY,
                "symbol": SYMBOLS[style[group.name]["marker"]] if group.name in style else "star",
                "point": place[group.settings],
                "curve": [place[point.settings] for _, point in on_curve.get(group.settings, [])],
            }
            for group in ordered
        ],
        "points": [_point(group, runs, out) for group in groups.values()],
        "bins": BINS,
    }


def _point(group: Group, runs: Runs, out: Path) -> dict[str, Any]:
    """A group's numbers, records and settings. ``csv`` is the text of the CSV files, ``text`` what the table shows."""
    names = sorted({name for record in group.records for name in record.metrics}, key=metric_order)
    warnings = dict.fromkeys(w for record in group.records for w in record.facts["fit"]["warnings"])
    tau = group.spec.options.get("tau")
    return {
        "id": group.hash,
        "tau": None if tau is None else float(str(tau)),
        "draws": sorted({record.facts["draws"] for record in group.records}),
        "flags": list(group.origin.flags),
        "warnings": list(warnings),
        "cells": {name: _cell(group, name) for name in names},
        "records": [
            {
                "seed": record.spec.fit.seed,
                "key": record.key,
                "folder": quote(Path(os.path.relpath(record.folder, out)).as_posix()),
                "fit": quote(Path(os.path.relpath(runs.folder / "fits" / record.facts["fit"]["key"], out)).as_posix()),
                "commit": str(record.facts["provenance"]["commit"] or "unknown")[:12],
                "metrics": {name: number(value) for name, value in record.metrics.items()},
            }
            for record in group.records
        ],
        "settings": sorted(flatten(group.settings).items()),
        "bins": _bins(group),
    }


def _cell(group: Group, name: str) -> dict[str, Any]:
    metric, summary = metric_of(name), summarize(group.values(name))
    spread = "" if summary.sem is None else f" ± {metric.show(summary.sem)}"
    return {
        "value": summary.mean,
        "shown": round(summary.mean * metric.scale, 9),  # what the plots use
        "text": metric.show(summary.mean),
        "spread": spread,
        "csv": number(summary.mean),
        "sem": number(summary.sem),
        "seeds": summary.n,
    }


def _bins(group: Group) -> list[list[float | None]] | None:
    """Rows of count, mean confidence and accuracy; None where predictions are damaged."""
    try:
        found = reliability([read_predictions(record) for record in group.records])
    except DamagedRecord as error:
        print(f"left out of the page's reliability diagrams: {error}", file=sys.stderr)
        return None
    rows = zip(found.counts.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    return [[None if math.isnan(value) else round(value, 6) for value in row] for row in rows]
