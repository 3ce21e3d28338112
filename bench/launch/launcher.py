"""Launchers: functions of a list of families, one file each. Another scheduler is another file beside these.

A launcher module defines ``launch(order)`` and, as far as it has them, ``settings_of`` (checks its table of a grid
file), ``queue`` (what its scheduler knows) and ``cancel``. Whatever it does, families communicate through the store
only; what a scheduler says is for display.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from bench.errors import near_miss
from bench.launch import backends
from bench.process.stop import StopRequest
from bench.run.worker import Job
from bench.specs import Family, key
from bench.store.store import Store


class Silent(ValueError):
    """A scheduler does not answer now; it may later."""


@dataclasses.dataclass(frozen=True)
class Order:
    """What a launcher is handed.

    Attributes:
        title: what to call the whole.
        families: what is to be computed; never empty.
        workers: processes on this machine.
        max_parallel: families at once on a cluster; 0 for no limit.
        settings: the launcher's own table of the grid file, with the command line's laid over it.
        dry_run: only print what would be done.
        stop: whether this process was asked to stop.
    """

    title: str
    job: Job
    families: tuple[Family, ...]
    workers: int = 1
    max_parallel: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dry_run: bool = False
    stop: StopRequest = dataclasses.field(default_factory=StopRequest)


@dataclasses.dataclass(frozen=True)
class Queued:
    """A family that a scheduler knows: its state there ("waiting" or "running"), node, reason, and the job's id.

    ``runs`` are the keys of the evaluations that were sent: a grid may have got more since.
    """

    state: str
    node: str
    reason: str
    id: str
    runs: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Launcher:
    """The functions of one launcher module.

    Attributes:
        check: refuse settings that are misspelt or do not fit.
        launch: compute the families or hand them over; returns one sentence for each that failed here.
        queue: key of each family that the scheduler knows, from a folder of runs; None if ``launch`` does the work.
        cancel: stop those of the families with these keys that wait or run; returns lines to print.
    """

    name: str
    check: Callable[[Mapping[str, Any]], Any]
    launch: Callable[[Order], list[str]]
    queue: Callable[[Path], dict[str, Queued]] | None
    cancel: Callable[[Path, Collection[str]], list[str]] | None


def launcher_names() -> list[str]:
    """All launchers, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(backends.__path__))


def get_launcher(name: str) -> Launcher:
    """The launcher of that name.

    Raises:
        LookupError: no such launcher; the message names the near misses.
    """
    if name not in launcher_names():
        raise LookupError(f"There is no launcher '{name}'.{near_miss(name, launcher_names())}")
    module = importlib.import_module(f"{backends.__name__}.{name}")
    check = getattr(module, "settings_of", functools.partial(_no_settings, name))
    return Launcher(name, check, module.launch, getattr(module, "queue", None), getattr(module, "cancel", None))


def _no_settings(name: str, table: Mapping[str, Any]) -> None:
    if table:
        raise LookupError(f"The launcher '{name}' has no settings: it was given {', '.join(table)}.")


def sent(family: Family, queue: Mapping[str, Queued], store: Store) -> bool:
    """Whether a scheduler has all of a family that is not done."""
    job, done = queue.get(family.key), store.complete(family.runs)
    return job is not None and {key(run) for run in family.runs if run not in done} <= job.runs


def queued(runs: Path) -> dict[str, Queued]:
    """Every family that some scheduler knows as waiting or running, by key.

    Raises:
        Silent: one does not answer.
    """
    found: dict[str, Queued] = {}
    for name in launcher_names():
        queue = get_launcher(name).queue
        if queue is not None:
            found |= queue(runs)
    return found
