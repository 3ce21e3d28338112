"""The published figures as data: Table 1 of Cong et al. 2024 (arXiv 2411.04421), whose order is that of our rows and
columns, and other papers' tables as far as we have them.

Methods and tasks have the names of the registries; a figure that we do not have is blank. Accuracy and ECE are
percentages in the files and fractions here. In Table 1 every average lies within the rounding of its tasks and itself
of their mean; one (ECE of mc_dropout: 20.2) is not that mean rounded (20.27).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """A published table: the file of its figures, a title, the grid with its settings, and remarks for the reader."""

    file: Path
    title: str
    grid: str
    about: str


def _source(name: str, title: str, grid: str, about: str) -> Source:
    return Source(Path(__file__).with_name(f"published_{name}.csv"), title, grid, about)


TABLE1 = "table1"
TABLES = {
    TABLE1: _source(
        TABLE1, "the published Table 1", "paper.toml",
        "Published figures are those of Cong et al. 2024 (arXiv 2411.04421); `-` is a run that is missing or a figure "
        "that is illegible in our copy.",
    ),
    "polar": _source(
        "polar", "published averages for Llama-3.1-8B", "tfb.toml",
        "Partial: averages over six tasks of AdamW and BLoB, as reported for PoLAR-VBLL (arXiv 2604.03388), at second "
        "hand and without standard errors. So there is no verdict. `-` is a run or a figure that is missing.",
    ),
}  # fmt: skip
FILE = TABLES[TABLE1].file
METRICS = {"acc": "accuracy", "ece": "ece", "nll": "nll", "brier": "brier"}  # the paper's names to ours
SCALE = {"acc": 100, "ece": 100, "nll": 1, "brier": 1}
AVERAGE = "average"
TITLES = {
    "adamw": "AdamW",
    "mc_dropout": "MC dropout",
    "la_kfac": "LA (KFAC)",
    "la_diag": "LA (diag)",
    "swa": "SWA",
    "swag": "SWAG",
    "ivon_mean": "IVON (mean)",
    "ivon": "IVON",
}  # the paper's names for its rows, for records without titles


class Published(NamedTuple):
    """A figure of the paper in our units; ``sem`` is None for averages. ``step`` is the last printed digit's worth."""

    mean: float
    sem: float | None
    step: float


@functools.cache
def published(table: str = TABLE1) -> Mapping[tuple[str, str, str], Published]:
    """(metric, method, task or ``average``) to figure, in the order of the paper; blank cells are left out."""
    found = {}
    for row in _rows(table):
        if row["mean"]:
            scale = SCALE[row["metric"]]
            sem = float(row["sem"]) / scale if row["sem"] else None
            step = 10.0 ** -digits(METRICS[row["metric"]], table) / scale
            found[METRICS[row["metric"]], row["method"], row["task"]] = Published(float(row["mean"]) / scale, sem, step)
    return found


@functools.cache
def digits(metric: str, table: str = TABLE1) -> int:
    """Decimals with which the paper prints a metric."""
    printed = (row["mean"] for row in _rows(table) if METRICS[row["metric"]] == metric)
    return max(len(text.partition(".")[2]) for text in printed)


@functools.cache
def methods(table: str = TABLE1) -> tuple[str, ...]:
    """The paper's methods, in the order of its rows."""
    return tuple(dict.fromkeys(row["method"] for row in _rows(table)))


@functools.cache
def tasks(table: str = TABLE1) -> tuple[str, ...]:
    """The paper's tasks, in the order of its columns."""
    return tuple(dict.fromkeys(row["task"] for row in _rows(table) if row["task"] != AVERAGE))


def task_order(name: str) -> tuple[int, str]:
    """Sorting key: the paper's tasks as in the paper, then others alphabetically."""
    return _place(name, tasks())


def method_order(name: str) -> tuple[int, str]:
    """Sorting key: the paper's methods as in the paper, then others alphabetically."""
    return _place(name, methods())


def _place(name: str, known: tuple[str, ...]) -> tuple[int, str]:
    return (known.index(name), "") if name in known else (len(known), name)


@functools.cache
def _rows(table: str) -> tuple[dict[str, str], ...]:
    with TABLES[table].file.open(newline="") as stream:
        return tuple(csv.DictReader(stream))
