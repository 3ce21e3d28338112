"""Trackers: sinks for the training curve. A tracker is any object with ``log(row)``; ``--track`` names its class.

    --track csv                    runs/tracking/<key of the fit>/curve.csv with the columns step, name, value
    --track tensorboard            event files in that folder; needs the extra ``tensorboard``
    --track my_pkg.my_module:Mine  Mine(folder, fit) with the folder for its files and the FitSpec

A tracker may have ``close()``. It is an execution setting: it is in no key and changes no number. A training that
continues from a checkpoint gets a new tracker, which is given the rows up to the checkpoint first. An error of a
tracker drops it with a warning and never reaches the training.
"""

from __future__ import annotations

import csv
import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bench.errors import near_miss
from bench.registry import import_named
from bench.specs import FitSpec, key

logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """One number of a training: ``name`` (loss, lr, seconds, accuracy, ...) had ``value`` after ``step`` steps."""

    step: int
    name: str
    value: float


class Tracker(Protocol):
    """A sink for rows."""

    def log(self, row: Row) -> None:
        """Take a row. The rows of a step come together, those of earlier steps first."""


class CsvTracker:
    """Writes ``curve.csv`` with the columns step, name, value."""

    def __init__(self, folder: Path, fit: FitSpec) -> None:
        self._file = (folder / "curve.csv").open("w", newline="", buffering=1)
        self._writer = csv.writer(self._file)
        self._writer.writerow(Row._fields)

    def log(self, row: Row) -> None:
        self._writer.writerow(row)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardTracker:
    """Writes TensorBoard's event files; the run is named by method, task and seed."""

    def __init__(self, folder: Path, fit: FitSpec) -> None:
        from torch.utils.tensorboard import SummaryWriter

        name = f"{fit.method}-{fit.data.task}-seed{fit.seed}"
        self._writer: Any = SummaryWriter(folder / name, purge_step=0)

    def log(self, row: Row) -> None:
        self._writer.add_scalar(row.name, row.value, row.step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


TRACKERS: dict[str, Callable[[Path, FitSpec], Tracker]] = {"csv": CsvTracker, "tensorboard": TensorBoardTracker}


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers that cannot be used, before any work.

    Raises:
        LookupError: there is no tracker of that name; the message names the near misses.
        ImportError: its package is not installed.
    """
    for name in names:
        _factory(name)
        if name == "tensorboard":
            try:
                importlib.import_module("torch.utils.tensorboard")
            except ImportError as error:
                raise ImportError(
                    f"--track tensorboard needs a package ({error}): pip install 'bayes-lora-bench[tensorboard]'."
                ) from error


def _factory(name: str) -> Callable[[Path, FitSpec], Tracker]:
    if name in TRACKERS:
        return TRACKERS[name]
    module, colon, attribute = name.partition(":")
    if not (colon and module and attribute):
        raise LookupError(
            f"There is no tracker '{name}'.{near_miss(name, TRACKERS)} One of yours is named module:Class."
        )
    try:
        found: Callable[[Path, FitSpec], Tracker] = getattr(import_named(module, f"--track {name}"), attribute)
    except AttributeError as error:
        raise LookupError(f"--track {name}: {error}. Name a class as module:Class.") from error
    return found


FAILURES = (Exception, SystemExit)  # of somebody's code


class Tracking:
    """Gives the rows of a training to its trackers, and drops those that fail."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._trackers = list(trackers)

    @classmethod
    def open(cls, names: Iterable[str], folder: Path, fit: FitSpec) -> Tracking:
        """The trackers of these names, their files in ``folder/<key of the fit>``."""
        made = cls()
        for name in names:
            place = folder / key(fit)
            try:
                place.mkdir(parents=True, exist_ok=True)
                made._trackers.append(_factory(name)(place, fit))
            except FAILURES as error:  # a tracker is not worth a training
                logger.warning("The tracker %s cannot be opened (%s: %s) and is left out.", name, _kind(error), error)
        return made

    def log(self, values: Mapping[str, float]) -> None:
        """Give one row of the trace, with its ``step``, to every tracker."""
        rows = [Row(int(values["step"]), name, value) for name, value in values.items() if name != "step"]
        for tracker in list(self._trackers):
            try:
                for row in rows:
                    tracker.log(row)
            except FAILURES as error:
                self._drop(tracker, error)

    def close(self) -> None:
        """Close the trackers that can be closed."""
        for tracker in list(self._trackers):
            try:
                getattr(tracker, "close", lambda: None)()
            except FAILURES as error:
                self._drop(tracker, error)
        self._trackers = []

    def _drop(self, tracker: Tracker, error: BaseException) -> None:
        logger.warning("A %s failed (%s: %s) and is dropped.", type(tracker).__name__, _kind(error), error)
        self._trackers.remove(tracker)


def _kind(error: BaseException) -> str:
    return type(error).__name__
