"""Launchers: functions of a list of families, one file each. To add a scheduler, add a file.

A launcher module defines ``launch(order)`` and, as far as it has them, ``settings_of`` (checks its table of a grid
file), ``queue`` (what its scheduler knows), ``cancel``, ``lacking`` (why it cannot be used here) and ``READS`` (those
of ``CHOICES`` that it reads; without it, all). Whatever it does, families communicate through the store only; what a
scheduler says is for display.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bench.errors import near_miss
from bench.launch import backends
from bench.process.stop import StopRequest
from bench.run.execution import Execution
from bench.specs import Family, key
from bench.store.store import Store

CHOICES = ("workers", "max_parallel", "wait")  # options that mean nothing to some launchers


class Silent(ValueError):
    """A scheduler does not answer now; it may later."""


class State(enum.StrEnum):
    """The state of a family or an evaluation, in the order in which they are listed.

    DONE     every evaluation is in the store
    RUNNING  a process shows signs of life (its claim), or the scheduler says that it runs
    WAITING  the scheduler has it in its queue
    FAILED   it ended with an error, which is in the store, and nobody is at work on it
    MISSING  none of these
    """

    DONE = enum.auto()
    RUNNING = enum.auto()
    WAITING = enum.auto()
    FAILED = enum.auto()
    MISSING = enum.auto()


@dataclasses.dataclass(frozen=True)
class Order:
    """The input of a launcher.

    Attributes:
        title: name of the grid.
        store: where results go.
        execution: how to compute.
        families: what to compute; never empty.
        workers: processes on this machine.
        max_parallel: families at once on a cluster; 0 for no limit.
        settings: the launcher's table of the grid file, with those of the command line over it.
        dry_run: only print what would be done.
        stop: whether this process was asked to stop.
    """

    title: str
    store: Store
    execution: Execution
    families: tuple[Family, ...]
    workers: int = 1
    max_parallel: int = 0
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    dry_run: bool = False
    stop: StopRequest = dataclasses.field(default_factory=StopRequest)


@dataclasses.dataclass(frozen=True)
class Queued:
    """A family that a scheduler knows: its state there (waiting or running), node, reason, and the job's id.

    ``runs`` are the keys of the evaluations that were sent: a grid may have got more since.
    """

    state: State
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
        queue: each family of a store that the scheduler knows, by key; None if ``launch`` does the work.
        cancel: stop those of the families with these keys that wait or run; returns lines to print.
        lacking: why it cannot be used on this machine; "" if it can.
        reads: those of ``CHOICES`` that it reads.
    """

    name: str
    check: Callable[[Mapping[str, Any]], Any]
    launch: Callable[[Order], list[str]]
    queue: Callable[[Store], dict[str, Queued]] | None
    cancel: Callable[[Store, Collection[str]], list[str]] | None
    lacking: Callable[[], str] = lambda: ""
    reads: frozenset[str] = frozenset(CHOICES)


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
    optional = {part: getattr(module, part) for part in ("lacking",) if hasattr(module, part)}
    queue, cancel = getattr(module, "queue", None), getattr(module, "cancel", None)
    reads = frozenset(getattr(module, "READS", CHOICES))
    return Launcher(name, check, module.launch, queue, cancel, reads=reads, **optional)


def _no_settings(name: str, table: Mapping[str, Any]) -> None:
    if table:
        raise LookupError(f"The launcher '{name}' has no settings: it was given {', '.join(table)}.")


def sent(family: Family, queue: Mapping[str, Queued], store: Store) -> bool:
    """Whether a scheduler has all of a family that is not done."""
    job = queue.get(family.key)
    if job is None:
        return False
    done = set(map(key, store.complete(family.runs)))
    return {key(run) for run in family.runs} - done <= job.runs


def queued(store: Store) -> dict[str, Queued]:
    """Every family that some scheduler knows as waiting or running, by key.

    Raises:
        Silent: one does not answer.
    """
    found: dict[str, Queued] = {}
    for name in launcher_names():
        queue = get_launcher(name).queue
        if queue is not None:
            found |= queue(store)
    return found
