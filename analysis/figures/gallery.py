"""Draws and saves all figures of a report, in as many processes as there are cores: drawing is most of its time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from analysis.figures.panels import Draw
from analysis.figures.style import save
from analysis.records.groups import Runs
from analysis.records.order import BASELINE


class Picture(NamedTuple):
    """A saved figure: the stem of its files, what it shows, and its width in inches."""

    name: str
    caption: str
    width: float


class Kind(NamedTuple):
    """The figures of one kind, and a sentence for each that could not be drawn."""

    heading: str
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def draw_all(kinds: Mapping[str, Draw], runs: Runs, out: Path, baseline: str = BASELINE) -> list[Kind]:
    """The figures of all kinds in their order, saved in ``out`` as PNG and PDF."""
    count = len(kinds)
    if not count:
        return []
    with ProcessPoolExecutor(min(count, os.cpu_count() or 1, 8)) as pool:
        given = (kinds, kinds.values(), [runs] * count, [out] * count, [baseline] * count)
        return list(pool.map(_draw, *given))


def _draw(heading: str, draw: Draw, runs: Runs, out: Path, baseline: str) -> Kind:
    drawn, notes = draw(runs, baseline)
    files = [file for item in drawn for file in save(item.figure, out / item.name)]
    pictures = [Picture(item.name, item.caption, item.figure.get_figwidth()) for item in drawn]
    return Kind(heading, tuple(pictures), tuple(notes), tuple(files))
