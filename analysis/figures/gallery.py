"""Draws and saves all figures of a report, in as many processes as there are cores: drawing is most of its time."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from analysis.figures.panels import Draw
from analysis.figures.style import preload, save
from analysis.records.groups import Section
from analysis.statistics.study import Study

MOST_PROCESSES = 8


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


def draw_all(kinds: Mapping[str, Draw], study: Study, out: Path) -> list[Kind]:
    """The figures of all kinds in their order, saved in ``out`` as PNG and PDF."""
    jobs = [(heading, section) for heading in kinds for section in study.sections]
    if not jobs:
        return []
    preload()
    count = min(len(jobs), os.cpu_count() or 1, MOST_PROCESSES)
    with ProcessPoolExecutor(count, initializer=_begin, initargs=(kinds, study, out)) as pool:
        parts = list(pool.map(_draw, *zip(*jobs, strict=True)))
    return [_joined(heading, [part for part in parts if part.heading == heading]) for heading in kinds]


def _joined(heading: str, parts: list[Kind]) -> Kind:
    return Kind(
        heading,
        tuple(picture for part in parts for picture in part.pictures),
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        tuple(file for part in parts for file in part.files),
    )


_given: tuple[Mapping[str, Draw], Study, Path]  # in a worker: what every figure of the report is drawn from


def _begin(kinds: Mapping[str, Draw], study: Study, out: Path) -> None:
    """Make a worker ready: it keeps what it draws from, and ends when its parent does, however that ends."""
    global _given
    _given = kinds, study, out
    gc.freeze()  # the parent's objects stay shared: the collector must not touch them
    gc.disable()  # it runs once after each job
    parent = os.getppid()
    watched = multiprocessing.parent_process()

    def watch() -> None:
        while os.getppid() == parent and watched is not None and watched.is_alive():
            watched.join(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw(heading: str, section: Section) -> Kind:
    kinds, study, out = _given
    drawn, notes = kinds[heading](study, section)
    files, pictures = [], []
    for item in drawn:
        pictures.append(Picture(item.name, item.caption, item.figure.get_figwidth()))
        files += save(item.figure, out / item.name)
        item.figure.clear()
    del drawn
    gc.collect()  # figures are full of cycles, and large
    return Kind(heading, tuple(pictures), tuple(notes), tuple(files))
