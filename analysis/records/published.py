"""The published figures: Table 1 of Cong et al. 2024 (arXiv 2411.04421) as data, and the order of its rows and columns.

``published_table1.csv`` holds what is legible in our copy of the paper; what is not is blank. Methods and tasks have
the names of the registries. Accuracy and ECE are percentages there and fractions here. Every average lies within the
rounding of its tasks and itself of their mean; one (ECE of mc_dropout: 20.2) is not that mean rounded (20.27).
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("published_table1.csv")
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
def published() -> Mapping[tuple[str, str, str], Published]:
    """(metric, method, task or ``average``) to figure, in the order of the paper; blank cells are left out."""
    found = {}
    for row in _rows():
        if row["mean"]:
            scale = SCALE[row["metric"]]
            sem = float(row["sem"]) / scale if row["sem"] else None
            step = 10.0 ** -digits(METRICS[row["metric"]]) / scale
            found[METRICS[row["metric"]], row["method"], row["task"]] = Published(float(row["mean"]) / scale, sem, step)
    return found


@functools.cache
def digits(metric: str) -> int:
    """Decimals with which the paper prints a metric."""
    printed = (row["mean"] for row in _rows() if METRICS[row["metric"]] == metric)
    return max(len(text.partition(".")[2]) for text in printed)


@functools.cache
def methods() -> tuple[str, ...]:
    """The paper's methods, in the order of its rows."""
    return tuple(dict.fromkeys(row["method"] for row in _rows()))


@functools.cache
def tasks() -> tuple[str, ...]:
    """The paper's tasks, in the order of its columns."""
    return tuple(dict.fromkeys(row["task"] for row in _rows() if row["task"] != AVERAGE))


def task_order(name: str) -> tuple[int, str]:
    """Sorting key: the paper's tasks as in the paper, then others alphabetically."""
    return _place(name, tasks())


def method_order(name: str) -> tuple[int, str]:
    """Sorting key: the paper's methods as in the paper, then others alphabetically."""
    return _place(name, methods())


def _place(name: str, known: tuple[str, ...]) -> tuple[int, str]:
    return (known.index(name), "") if name in known else (len(known), name)


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    with FILE.open(newline="") as stream:
        return tuple(csv.DictReader(stream))
