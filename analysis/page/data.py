"""The data of the page's script as plain JSON; numbers are already formatted text."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from analysis.figures.panels import looks
from analysis.figures.reliability import bins_of
from analysis.figures.style import GREY
from analysis.records.evaluation import Evaluation
from analysis.records.groups import Group
from analysis.records.labels import flatten
from analysis.records.order import row_order
from analysis.statistics.curves import all_curves, tau_of
from analysis.statistics.metric import metric_of, metric_order
from analysis.statistics.study import Study
from analysis.statistics.summary import summarize
from analysis.tables.formats.text import number
from bench.metrics import BINS

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}


def page_data(study: Study, out: Path) -> dict[str, Any]:
    """Metrics, rows and points. Links to records are relative to the folder ``out``.

    ``rows`` are the results. A row that lies on a curve has the places of the curve's points; the others have one.
    """
    on_curve = {group.hash: curve for curve in study.once(all_curves) for _, group in curve}
    sections = {section: number for number, section in enumerate(study.sections)}
    ordered = sorted(
        study.runs.results, key=lambda g: (sections[g.section], g.task, *row_order(g, study.baseline), g.hash)
    )
    groups: dict[str, Group] = {}
    for group in ordered:
        groups[group.hash] = group
        groups.update({point.hash: point for _, point in on_curve.get(group.hash, [])})
    place = {name: number for number, name in enumerate(groups)}
    style = looks(study)
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
                "point": place[group.hash],
                "curve": [place[point.hash] for _, point in on_curve.get(group.hash, [])],
            }
            for group in ordered
        ],
        "points": [_point(study, group, out) for group in groups.values()],
        "bins": BINS,
    }


def _point(study: Study, group: Group, out: Path) -> dict[str, Any]:
    """A group's numbers, records and settings. ``csv`` is the text of the CSV files, ``text`` what the table shows."""
    names = sorted({name for record in group.records for name in record.metrics}, key=metric_order)
    return {
        "id": group.hash,
        "tau": tau_of(group),
        "draws": sorted({record.facts.draws for record in group.records}),
        "flags": list(group.origin.flags),
        "warnings": list(dict.fromkeys(w for record in group.records for w in record.facts.fit.warnings)),
        "cells": {name: _cell(group, name) for name in names},
        "records": [_record(record, study.runs.folder, out) for record in group.records],
        "settings": sorted(flatten(group.settings).items()),
        "bins": _bins(study, group),
    }


def _record(record: Evaluation, runs: Path, out: Path) -> dict[str, Any]:
    return {
        "seed": record.seed,
        "key": record.key,
        "folder": quote(Path(os.path.relpath(record.folder, out)).as_posix()),
        "fit": quote(Path(os.path.relpath(runs / "fits" / record.facts.fit_key, out)).as_posix()),
        "commit": (record.facts.provenance.commit or "unknown")[:12],
        "metrics": {name: number(value) for name, value in record.metrics.items()},
    }


def _cell(group: Group, name: str) -> dict[str, Any]:
    metric, summary = metric_of(name), summarize(group.values(name))
    spread = "" if summary.sem is None else f" ± {metric.show(summary.sem)}"
    return {
        "value": summary.mean,
        "shown": round(summary.mean * metric.scale, 9),  # used by the plots
        "text": metric.show(summary.mean),
        "spread": spread,
        "csv": number(summary.mean),
        "sem": number(summary.sem),
        "seeds": summary.n,
    }


def _bins(study: Study, group: Group) -> Sequence[Sequence[float | None]]:
    """Rows of count, mean confidence and accuracy; None for the means of an empty bin."""
    found = bins_of(study, group)
    rows = zip(found.counts.tolist(), found.confidence.tolist(), found.accuracy.tolist(), strict=True)
    return [[None if math.isnan(value) else round(value, 6) for value in row] for row in rows]
